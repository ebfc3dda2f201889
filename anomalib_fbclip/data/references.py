# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Good photographs that others are compared with: which ones, and turned copies of them."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from anomalib.data import AnomalibDataModule
from anomalib.data.utils import LabelName
from torchvision.transforms.v2 import functional as F  # noqa: N812

from anomalib_fbclip.contract.image_files import find_images
from anomalib_fbclip.contract.records import printable


def find_references(source: Path, k_shot: int, seed: int) -> list[Path]:
    """Choose good photographs of a folder.

    Args:
        source (Path): The folder, or a single photograph.
        k_shot (int): How many are taken. 0: all.
        seed (int): Seed of the choice.

    Returns:
        list[Path]: The files, in the order of their names.

    Raises:
        ValueError: If there are no photographs, or fewer than ``k_shot``.
    """
    if not source.exists():
        msg = f"few_shot_source {printable(source)} does not exist: give a folder of good photographs."
        raise ValueError(msg)
    return _choose(find_images(source), k_shot, seed, f"few_shot_source {printable(source)}")


def sample_references(datamodule: AnomalibDataModule, k_shot: int, seed: int) -> list[Path]:
    """Choose normal images of a datamodule's training split.

    Args:
        datamodule (AnomalibDataModule): The datamodule, set up.
        k_shot (int): How many are taken.
        seed (int): Seed of the choice.

    Returns:
        list[Path]: The files, in the order of their names.

    Raises:
        ValueError: If the split has fewer normal images than ``k_shot``.
    """
    samples = datamodule.train_data.samples
    normal = samples[samples["label_index"] == LabelName.NORMAL]
    paths = sorted(map(Path, normal["image_path"]))
    return _choose(paths, k_shot, seed, f"The training split of {datamodule.name}")


def _choose(paths: Sequence[Path], k_shot: int, seed: int, origin: str) -> list[Path]:
    wanted = k_shot or len(paths)
    if not paths or len(paths) < wanted:
        msg = (
            f"{origin} has {len(paths) or 'no'} good photographs, and k_shot asks for {wanted}: add photographs, or "
            "lower k_shot."
            if paths and k_shot
            else f"{origin} has no photographs: give a folder of good ones as few_shot_source."
        )
        raise ValueError(msg)
    return sorted(random.Random(seed).sample(list(paths), wanted))  # noqa: S311 - a choice, no secret


def turned_copies(image: torch.Tensor, count: int) -> Iterator[torch.Tensor]:
    """Turn a photograph, because a part that lies another way is no defect.

    Args:
        image (torch.Tensor): RGB values, shape ``[3, H, W]``.
        count (int): Number of copies. They are turned by equal parts of a full turn, the first one not at all.

    Yields:
        torch.Tensor: The copies, of the same shape. Corners have the photograph's median color.
    """
    yield image
    fill = image.flatten(1).median(dim=1).values.tolist()
    for index in range(1, count):
        yield F.rotate(image, 360 * index / count, F.InterpolationMode.BILINEAR, fill=fill)
