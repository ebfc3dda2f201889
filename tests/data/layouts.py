# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Small images and masks, and the layout of MVTec AD."""

from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 24, 32
MASKED = 6  # rows and columns of a mask that are anomalous, from the upper left


def write_image(path: Path) -> None:
    """Write a grey image whose value tells it from the others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    value = sum(str(path).encode()) % 256
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), value, dtype=np.uint8)).save(path)


def write_mask(path: Path, value: int = 255) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[:MASKED, :MASKED] = value
    Image.fromarray(mask).save(path)


def write_category(folder: Path, defect: str, mask_suffix: str, normal: int = 3, anomalous: int = 2) -> None:
    """Write one category in the layout of MVTec AD."""
    for index in range(4):
        write_image(folder / f"train/good/{index:03}.png")
    for index in range(normal):
        write_image(folder / f"test/good/{index:03}.png")
    for index in range(anomalous):
        write_image(folder / f"test/{defect}/{index:03}.png")
        write_mask(folder / f"ground_truth/{defect}/{index:03}{mask_suffix}.png")
