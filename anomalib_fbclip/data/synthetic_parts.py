# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""SyntheticParts: procedural photographs of parts and surfaces, written to disk in MVTec AD's layout."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from anomalib.data import MVTecAD
from anomalib.data.utils import TestSplitMode, ValSplitMode
from anomalib.utils.path import resolve_dataset_root
from PIL import Image
from rich.console import Console
from rich.progress import track
from torchvision.transforms.v2 import Transform

from anomalib_fbclip.contract.files import replacing

from .procedural import (
    CATEGORIES,
    HELD_OUT_CATEGORIES,
    TRAINING_CATEGORIES,
    VALIDATION_CATEGORIES,
    VERSION,
    draw_sample,
)
from .procedural.fields import stream

SETTINGS_FILE = "dataset.json"
"""File in a category's folder that says how its images were drawn."""


class SyntheticParts(MVTecAD):
    """Dataset of procedural photographs that are drawn on first use, with no download.

    ``<root>/<category>`` has the layout of MVTec AD, and ``MVTecAD`` can read it. The images of the categories
    ``gear``, ``cookie``, ``leather`` and ``knitted_fabric`` are made from materials, objects and defects that are held
    out from all training on procedural images: they are there to test on. Those of ``foam``, ``fruit``, ``spring`` and
    ``tile`` are not trained on either, and there to choose by. The others are there to train on.

    Args:
        root (Path | str | None, optional): Folder of the dataset.
            Defaults to ``None``: ``SyntheticParts`` in anomalib's folder of datasets.
        category (str, optional): Category, a key of ``anomalib_fbclip.data.procedural.CATEGORIES``.
            Defaults to ``"gear"``.
        train_batch_size (int, optional): Batch size of the training data.
            Defaults to ``32``.
        eval_batch_size (int, optional): Batch size of the validation and test data.
            Defaults to ``32``.
        num_workers (int, optional): Number of workers of each dataloader.
            Defaults to ``8``.
        train_augmentations (Transform | None, optional): Augmentations of the training images.
            Defaults to ``None``.
        val_augmentations (Transform | None, optional): Augmentations of the validation images.
            Defaults to ``None``.
        test_augmentations (Transform | None, optional): Augmentations of the test images.
            Defaults to ``None``.
        augmentations (Transform | None, optional): Augmentations of those of the three that are not given.
            Defaults to ``None``.
        test_split_mode (TestSplitMode | str, optional): How the test data is obtained.
            Defaults to ``TestSplitMode.FROM_DIR``.
        test_split_ratio (float, optional): Fraction of the data to test on, where it is split.
            Defaults to ``0.2``.
        val_split_mode (ValSplitMode | str, optional): How the validation data is obtained.
            Defaults to ``ValSplitMode.SAME_AS_TEST``.
        val_split_ratio (float, optional): Fraction of the data to validate on, where it is split.
            Defaults to ``0.5``.
        seed (int | None, optional): Seed of random splits.
            Defaults to ``None``.
        image_size (int, optional): Side of the images in pixels, at least 32.
            Defaults to ``256``.
        train_images (int, optional): Number of normal images to train on.
            Defaults to ``20``.
        test_images (int, optional): Number of normal images, and number of anomalous images, to test on.
            Defaults to ``20``.
        image_seed (int, optional): Seed that the images are drawn with, not negative.
            Defaults to ``0``.

    Raises:
        ValueError: If the category is unknown, or if a size, a number or ``image_seed`` is too small.

    Example:
        Test a model on parts that it has never seen::

            >>> from anomalib.engine import Engine
            >>> from anomalib.models import FBClip
            >>> Engine().test(FBClip(), datamodule=SyntheticParts(category="cookie"))  # doctest: +SKIP

        Train adapters on other categories::

            >>> from anomalib_fbclip.data import AuxiliaryDataModule
            >>> datamodule = AuxiliaryDataModule(sources=SyntheticParts(), categories=["bottle", "carpet"])
    """

    def __init__(
        self,
        root: Path | str | None = None,
        category: str = "gear",
        train_batch_size: int = 32,
        eval_batch_size: int = 32,
        num_workers: int = 8,
        train_augmentations: Transform | None = None,
        val_augmentations: Transform | None = None,
        test_augmentations: Transform | None = None,
        augmentations: Transform | None = None,
        test_split_mode: TestSplitMode | str = TestSplitMode.FROM_DIR,
        test_split_ratio: float = 0.2,
        val_split_mode: ValSplitMode | str = ValSplitMode.SAME_AS_TEST,
        val_split_ratio: float = 0.5,
        seed: int | None = None,
        image_size: int = 256,
        train_images: int = 20,
        test_images: int = 20,
        image_seed: int = 0,
    ) -> None:
        super().__init__(
            root=resolve_dataset_root(root, "SyntheticParts"),
            category=category,
            train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            train_augmentations=train_augmentations,
            val_augmentations=val_augmentations,
            test_augmentations=test_augmentations,
            augmentations=augmentations,
            test_split_mode=test_split_mode,
            test_split_ratio=test_split_ratio,
            val_split_mode=val_split_mode,
            val_split_ratio=val_split_ratio,
            seed=seed,
        )
        _check_category(category)
        for argument, value, least in (
            ("image_size", image_size, 32),
            ("train_images", train_images, 1),
            ("test_images", test_images, 1),
            ("image_seed", image_seed, 0),
        ):
            if value < least:
                msg = f"{argument} must be at least {least}, but is {value}."
                raise ValueError(msg)
        self.image_size = image_size
        self.train_images = train_images
        self.test_images = test_images
        self.image_seed = image_seed

    @property
    def settings(self) -> dict[str, Any]:
        """What the images of the category depend on."""
        return {
            "dataset": self.name,
            "version": VERSION,
            "category": self.category,
            "image_size": self.image_size,
            "train_images": self.train_images,
            "test_images": self.test_images,
            "image_seed": self.image_seed,
        }

    def prepare_data(self) -> None:
        """Draw the images of the category, unless they are there.

        The category's folder appears when it is complete. Several processes may write it at once.

        Raises:
            ValueError: If the category is unknown, or if its folder holds something else than these images.
            OSError: If the images cannot be written.
        """
        _check_category(self.category)
        folder = self.root / self.category
        if not folder.exists():
            try:
                self._write(folder)
            except OSError as error:
                if not folder.is_dir():  # another process that wrote the same may have been faster
                    reason = error.strerror or error
                    msg = (
                        f"Cannot write images to {folder}: {reason}. Make it writable, free space, or give another root"
                    )
                    raise OSError(error.errno, msg) from error
        self._check_settings(folder)

    def _write(self, folder: Path) -> None:
        with replacing(folder) as temporary:
            plan = list(self._plan())
            description = f"Drawing images of {self.name} '{self.category}'"
            for split, label, name, seed in track(plan, description, console=Console(stderr=True)):
                defect = None if label == "good" else label
                sample = draw_sample(CATEGORIES[self.category].product, seed, defect, self.image_size)
                subfolder = label.replace(" ", "_")
                _write_png(sample.image, temporary / split / subfolder / f"{name}.png")
                if defect:
                    mask = sample.mask.astype(np.uint8) * 255
                    _write_png(mask, temporary / "ground_truth" / subfolder / f"{name}_mask.png")
            (temporary / SETTINGS_FILE).write_text(json.dumps(self.settings, indent=2) + "\n", encoding="utf-8")

    def _plan(self) -> Iterator[tuple[str, str, str, int]]:
        """List the images: split, label, name and seed."""
        defects = CATEGORIES[self.category].defects
        images = [("train", "good", index) for index in range(self.train_images)]
        images += [("test", "good", index) for index in range(self.test_images)]
        images += [("test", defects[index % len(defects)], index // len(defects)) for index in range(self.test_images)]
        for split, label, index in images:
            seed = int(stream(self.image_seed, self.category, split, label, index).integers(2**63))
            yield split, label, f"{index:03}", seed

    def _check_settings(self, folder: Path) -> None:
        """Refuse a folder that was written with other settings."""
        path = folder / SETTINGS_FILE
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError, ValueError):
            found = None
        if not isinstance(found, dict):
            msg = f"{folder} was not written by {self.name}: give another root, or delete it."
            raise ValueError(msg)  # noqa: TRY004 - the file's content is wrong, not the type of an argument
        differences = [
            f"{key} {found.get(key)!r} instead of {value!r}"
            for key, value in self.settings.items()
            if found.get(key) != value
        ]
        if differences:
            msg = f"{folder} was written with {', '.join(differences)}: give another root, or delete it."
            raise ValueError(msg)


def _check_category(category: str) -> None:
    if category not in CATEGORIES:
        msg = (
            f"SyntheticParts has no category '{category}'. Available to test on: {', '.join(HELD_OUT_CATEGORIES)}; "
            f"to train on: {', '.join(TRAINING_CATEGORIES)}; to choose by: {', '.join(VALIDATION_CATEGORIES)}."
        )
        raise ValueError(msg)


def _write_png(pixels: np.ndarray, path: Path) -> None:
    # Pillow's own writing to a file loses the reason of a failure.
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="png", compress_level=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file.getvalue())
