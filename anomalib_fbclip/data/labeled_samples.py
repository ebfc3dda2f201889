# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The labeled test split of a datamodule as a table, with checks of category, labels and masks."""

import copy
import sys
from collections.abc import Collection
from pathlib import Path

import pandas as pd
from anomalib.data import AnomalibDataModule, AnomalibDataset
from anomalib.data.errors import MisMatchError
from anomalib.data.utils import LabelName, TestSplitMode, ValSplitMode
from PIL import Image

from anomalib_fbclip.images.image_files import printable
from anomalib_fbclip.images.photographs import DECODING_ERRORS, larger_images

SHOWN_VALUES = 5
"""Largest number of a mask's values in an error."""


class MaskError(ValueError):
    """A mask can't be used. The message is one line."""


def describe(datamodule: AnomalibDataModule) -> str:
    """Name a dataset and its category for a message."""
    return f"{datamodule.name} '{datamodule.category}'" if datamodule.category else datamodule.name


def published_categories(datamodule: AnomalibDataModule) -> Collection[str]:
    """List the published categories of a dataset, which anomalib defines beside its class; there may be none."""
    dataset_module = sys.modules.get(type(datamodule).__module__.replace("datamodules", "datasets"))
    categories: Collection[str] = getattr(dataset_module, "CATEGORIES", ())
    return categories


def check_category(datamodule: AnomalibDataModule) -> None:
    """Raise ``ValueError`` if a datamodule's category is neither published nor on the disk, before any download."""
    published = published_categories(datamodule)
    if not published or not datamodule.category or datamodule.category in published:
        return

    folder = Path(getattr(datamodule, "split_root", getattr(datamodule, "root", ".")))
    found = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    if datamodule.category not in found:
        msg = (
            f"{datamodule.name} has no category '{datamodule.category}', and {folder} has no such folder. "
            f"Available: {', '.join(sorted({*published, *found}))}."
        )
        raise ValueError(msg)


def read_labeled_samples(datamodule: AnomalibDataModule, seed: int | None) -> pd.DataFrame:
    """Read the labeled test split of a datamodule, which does not change.

    ``seed`` is for its random splits, if it has no seed. The table has one row for each image, with the columns
    ``image_path``, ``mask_path`` (empty without a mask), ``label_index`` and ``split``.
    """
    description = describe(datamodule)
    if datamodule.test_split_mode == TestSplitMode.SYNTHETIC:
        msg = f"The test split of {description} is synthetic: choose a test_split_mode with real anomalies."
        raise ValueError(msg)
    check_category(datamodule)

    datamodule = copy.copy(datamodule)
    datamodule._is_setup = False  # noqa: SLF001 - it may have been set up for another category
    datamodule.num_workers = 0  # only its datasets are used
    if datamodule.seed is None:
        datamodule.seed = seed
    try:
        datamodule.setup()
    except (OSError, RuntimeError, ValueError, MisMatchError) as error:
        msg = f"The test split of {description} cannot be read: {' '.join(str(error).split())}"
        raise ValueError(msg) from error

    # Not `test_data`: it lacks normal images if the dataloader serves another dataset, as that of MVTecAD2 does.
    datasets = [datamodule.test_dataloader().dataset]
    if datamodule.val_split_mode == ValSplitMode.FROM_TEST:
        datasets.append(datamodule.val_data)
    for dataset in datasets:
        if type(dataset).__getitem__ is not AnomalibDataset.__getitem__:
            msg = f"{description} cannot be combined: {type(dataset).__name__} reads its items in its own way."
            raise TypeError(msg)

    samples = pd.concat([dataset.samples for dataset in datasets], ignore_index=True)
    unlabeled = ~samples["label_index"].isin([LabelName.NORMAL, LabelName.ABNORMAL])
    if unlabeled.any():
        msg = (
            f"{unlabeled.sum()} of {len(samples)} images in the test split of {description} have no label; "
            f"the first is {samples.loc[unlabeled, 'image_path'].iloc[0]}."
        )
        raise ValueError(msg)
    return pd.DataFrame({
        "image_path": samples["image_path"].astype(str),
        "mask_path": samples["mask_path"].fillna("").astype(str),
        "label_index": samples["label_index"].astype(int),
        "split": samples["split"],
    })


def check_masks(samples: pd.DataFrame, description: str) -> None:
    """Raise ``ValueError`` if an anomalous image in a table of :func:`read_labeled_samples` has no mask file."""
    anomalous = samples[samples["label_index"] == LabelName.ABNORMAL]
    without_mask = anomalous[anomalous["mask_path"].eq("")]
    if not without_mask.empty:
        msg = (
            f"{len(without_mask)} of {len(anomalous)} anomalous images in the test split of {description} have no "
            f"mask; the first is {without_mask['image_path'].iloc[0]}."
        )
        raise ValueError(msg)
    missing = [path for path in anomalous["mask_path"] if not Path(path).is_file()]
    if missing:
        msg = f"{len(missing)} of {len(anomalous)} mask files of {description} do not exist; the first is {missing[0]}."
        raise ValueError(msg)


def check_mask(path: Path) -> None:
    """Raise :class:`MaskError` if a mask, read as 8-bit gray like in anomalib, has other values than 0 and one more.

    anomalib treats every value above 0 as anomalous: compression artifacts, soft edges and a background that is not
    quite black.
    """
    try:
        with larger_images(), Image.open(path) as mask:
            histogram = mask.convert("L").histogram()
    except DECODING_ERRORS as error:
        msg = f"Mask {printable(path)} can't be read: {error}"
        raise MaskError(msg) from error
    values = [value for value, pixels in enumerate(histogram) if pixels]
    if sum(value > 0 for value in values) > 1:
        more = f" and {len(values) - SHOWN_VALUES} more" if len(values) > SHOWN_VALUES else ""
        msg = (
            f"Mask {printable(path)} has the values {', '.join(map(str, values[:SHOWN_VALUES]))}{more}, and every one "
            "above 0 would count as anomalous: save it as PNG with 0 and 255."
        )
        raise MaskError(msg)
