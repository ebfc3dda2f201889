# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Tensors and metadata in safetensors files."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from anomalib_fbclip.results.files import naming_full_disk, replacing


def write_safetensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors to a safetensors file. A file that stood there is replaced only by a complete one.

    Args:
        path (Path): The file, with the suffix ``.safetensors``.
        tensors (Mapping[str, torch.Tensor]): The tensors by name.
        metadata (Mapping[str, str]): What is known of them.

    Raises:
        OSError: If it can't be written.
        ValueError: If the path has another suffix.
    """
    if path.suffix != ".safetensors":
        msg = f"Weights are saved as safetensors: give '{path.with_suffix('.safetensors')}' instead of '{path}'."
        raise ValueError(msg)
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary, naming_full_disk(path.parent, SafetensorError):
        save_file(stored, temporary, dict(metadata))


def read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read a safetensors file.

    Args:
        path (Path): The file.

    Returns:
        tuple[dict[str, torch.Tensor], dict[str, str]]: The tensors by name, on the CPU, and the metadata.

    Raises:
        OSError: If there is no such file.
        SafetensorError: If it can't be read.
    """
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
