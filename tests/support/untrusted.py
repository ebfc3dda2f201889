# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Files that make a file of their own where code of theirs runs as they are read."""

from pathlib import Path
from typing import Any

import torch
from torch import nn


class Touch:
    """An object whose unpickling creates a file.

    Args:
        mark (Path): The file.
    """

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.mark), "w")


class Saving(nn.Module):
    """A module of TorchScript that writes a file when its archive is loaded.

    Args:
        mark (Path): The file.
    """

    def __init__(self, mark: Path) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.mark = str(mark)
        self.training = False

    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, str, bool]:
        """Give what the archive holds."""
        return self.weight, self.mark, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, str, bool]) -> None:
        """Write the file: torch runs this as it loads the archive."""
        self.weight, self.mark, self.training = state[0], state[1], state[2]
        torch.save(self.weight, self.mark)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Give the image back."""
        return image


def write_pickle(path: Path, mark: Path, *, zipped: bool = True, **content: object) -> Path:
    """Write a file of torch that creates another one where it is unpickled.

    Args:
        path (Path): The file.
        mark (Path): The one that its code creates.
        zipped (bool): Whether it has torch's format since 1.6, or the one before.
        **content (object): What else it holds.

    Returns:
        Path: The file.
    """
    torch.save({**content, "code": Touch(mark)}, path, _use_new_zipfile_serialization=zipped)
    return path


def write_torchscript(path: Path, mark: Path) -> Path:
    """Write a TorchScript archive that creates another file where it is loaded.

    Args:
        path (Path): The archive.
        mark (Path): The file that its code creates.

    Returns:
        Path: The archive.
    """
    torch.jit.script(Saving(mark)).save(str(path))
    return path
