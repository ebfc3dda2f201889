# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Small generated photographs of parts with defects."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_mvtec_category(root: Path, category: str, count: int = 4, side: int = 64, seed: int = 0) -> Path:
    """Write a category in MVTec AD's layout: ``count`` images each for training, normal and anomalous test images."""
    stream = np.random.default_rng(seed)
    for split, defect in (("train", "good"), ("test", "good"), ("test", "hole")):
        for index in range(count):
            image = stream.integers(90, 160, (side, side, 3), dtype=np.uint8)
            if defect != "good":
                mask = np.zeros((side, side), dtype=np.uint8)
                top, left = stream.integers(0, side - side // 3, 2)
                mask[top : top + side // 3, left : left + side // 3] = 255
                image[mask > 0] = (250, 20, 20)
                _save(mask, root / category / "ground_truth" / defect / f"{index:03}_mask.png")
            _save(image, root / category / split / defect / f"{index:03}.png")
    return root


def _save(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
