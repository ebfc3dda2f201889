# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Photographs of good parts, and of others."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def write_photographs(folder: Path, count: int, seed: int, level: int = 120, side: int = 72) -> Path:
    """Write gray, noisy photographs of slightly different brightness."""
    folder.mkdir(parents=True, exist_ok=True)
    stream = np.random.default_rng(seed)
    for index in range(count):
        pixels = stream.integers(level - 20, level + 20, (side, side, 3)) + 4 * index
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of five photographs of good parts."""
    return write_photographs(tmp_path_factory.mktemp("parts") / "good", count=5, seed=0)


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs that are predicted: three of good parts, and a defective one."""
    folder = write_photographs(tmp_path_factory.mktemp("photographs"), count=3, seed=1)
    with Image.open(folder / "0.png") as image:
        image.paste((250, 20, 20), (10, 10, 40, 45))
        image.save(folder / "defect.png")
    return folder


@pytest.fixture
def arguments(small_backbone: str, small_adapters: Path) -> dict[str, object]:
    """Arguments of the small model, which looks at good photographs in two positions."""
    return {"backbone": small_backbone, "weights": str(small_adapters), "reference_rotations": 2}
