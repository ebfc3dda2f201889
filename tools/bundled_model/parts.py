# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Categories of procedural images on disk, in MVTec AD's layout."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from anomalib_fbclip.results.files import replacing
from tools.bundled_model.procedural import CATEGORIES, draw_sample
from tools.bundled_model.procedural.fields import stream


def draw_category(
    root: Path,
    category: str,
    image_size: int = 256,
    train_images: int = 20,
    test_images: int = 20,
    image_seed: int = 0,
) -> Path:
    """Draw the images of a category, with masks, for anomalib's ``MVTecAD``.

    Args:
        root (Path): Folder of the categories.
        category (str): A key of ``procedural.CATEGORIES``.
        image_size (int, optional): Side of the images in pixels. Defaults to ``256``.
        train_images (int, optional): Number of normal images to train on. Defaults to ``20``.
        test_images (int, optional): Number of normal images, and number of anomalous images, to test on. Defaults to
            ``20``.
        image_seed (int, optional): Seed of the images, not negative. Defaults to ``0``.

    Returns:
        Path: The category's folder, which appears when it is complete.

    Raises:
        OSError: If the folder exists already or can't be written.
    """
    folder = root / category
    plan = list(_plan(category, train_images, test_images, image_seed))
    with replacing(folder) as temporary:
        for split, label, name, seed in track(plan, f"Drawing {category}", console=Console(stderr=True)):
            defect = None if label == "good" else label
            sample = draw_sample(CATEGORIES[category].product, seed, defect, image_size)
            subfolder = label.replace(" ", "_")
            _write_png(sample.image, temporary / split / subfolder / f"{name}.png")
            if defect:
                mask = sample.mask.astype(np.uint8) * 255
                _write_png(mask, temporary / "ground_truth" / subfolder / f"{name}_mask.png")
    return folder


def _plan(category: str, train_images: int, test_images: int, image_seed: int) -> Iterator[tuple[str, str, str, int]]:
    """List the images: split, label, name and seed."""
    defects = CATEGORIES[category].defects
    images = [("train", "good", index) for index in range(train_images)]
    images += [("test", "good", index) for index in range(test_images)]
    images += [("test", defects[index % len(defects)], index // len(defects)) for index in range(test_images)]
    for split, label, index in images:
        seed = int(stream(image_seed, category, split, label, index).integers(2**63))
        yield split, label, f"{index:03}", seed


def _write_png(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, compress_level=1)
