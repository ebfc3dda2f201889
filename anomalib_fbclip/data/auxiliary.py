# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Auxiliary datamodule: the labeled test split of other datamodules as training data.

A zero-shot model sees nothing of the dataset that it is tested on. Its adapters are trained once on an auxiliary
dataset, with normal and anomalous images and their masks. In anomalib's datamodules these are the test split; the train
split has only normal images. :class:`AuxiliaryDataModule` trains on the test split.
"""

import copy
import inspect
import logging
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from anomalib import TaskType
from anomalib.data import AnomalibDataModule, AnomalibDataset, DatasetItem
from anomalib.data.errors import MisMatchError
from anomalib.data.utils import LabelName, TestSplitMode, ValSplitMode, random_split
from lightning.pytorch.utilities.types import EVAL_DATALOADERS, TRAIN_DATALOADERS
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms.v2 import Transform

from anomalib_fbclip.images.image_files import printable
from anomalib_fbclip.images.photographs import DECODING_ERRORS, larger_images

logger = logging.getLogger(__name__)

SHOWN_VALUES = 5
"""Largest number of a mask's values in an error."""


class MaskError(ValueError):
    """A mask can't be used. The message is one line."""


class AuxiliaryDataset(AnomalibDataset):
    """Labeled images of tables of :func:`_read_labeled_samples`, each image once."""

    def __init__(self, tables: Sequence[pd.DataFrame]) -> None:
        super().__init__()
        table = pd.concat(tables, ignore_index=True).drop_duplicates("image_path", ignore_index=True)
        table.attrs["task"] = "classification" if table["mask_path"].eq("").all() else "segmentation"
        self.samples = table


class TrainingImages(Dataset[DatasetItem]):
    """Labeled images for training, each anomalous one with a mask, which is checked as it is read.

    If an augmentation crops the defect away, the image is labeled as normal.
    """

    def __init__(self, dataset: AnomalibDataset) -> None:
        self.dataset = dataset
        self.images: Dataset[DatasetItem] = dataset  # a model may replace what reads the images

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> DatasetItem:
        """Read an image with its label and mask. See :func:`check_mask`."""
        sample = self.dataset.samples.iloc[index]
        if sample.label_index == LabelName.ABNORMAL:
            check_mask(Path(sample.mask_path))
        item = self.images[index]
        if self.dataset.augmentations:
            item.gt_label = torch.as_tensor(item.gt_mask).any().long()
        return item


class EpochOrder(Sampler[int]):
    """Shuffled order of the images in each epoch, which depends only on the seed and the epoch.

    A resumed training continues with the same order.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.seed = seed
        self.generator = torch.Generator()  # for the seeds of a dataloader's workers, which augment the images
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch. Lightning calls this before each one."""
        self.epoch = epoch
        self.generator.manual_seed(self.seed + epoch)

    def __len__(self) -> int:
        """Return the number of images."""
        return self.count

    def __iter__(self) -> Iterator[int]:
        """Return the indices in the order of the epoch, and advance to the next epoch."""
        order = torch.randperm(self.count, generator=torch.Generator().manual_seed(self.seed + self.epoch))
        self.epoch += 1
        return iter(order.tolist())


class AuxiliaryDataModule(AnomalibDataModule):
    r"""Training data from the labeled test split of one or several datamodules.

    The training data is the sources' test data, all together. Images of their train splits and synthetic anomalies are
    not used. Every anomalous image needs a mask.

    Validation and test data are the labeled test split of ``targets``, or a part of the training data that
    ``val_split_ratio`` holds out. With neither there is no validation, and the test data is the training data.

    Args:
        sources (AnomalibDataModule | list[AnomalibDataModule]): One or several datamodules to train on. Their batch
            sizes, workers and augmentations are ignored. Depth, video and MVTec LOCO are not supported, because they
            read their items in their own ways.
        categories (list[str] | str | None, optional): Categories to train on, if there is one source with categories,
            such as ``MVTecAD``. Names that are numbers need quotes in YAML: ``["01", "02"]``. Defaults to ``None``,
            for the source's category.
        targets (AnomalibDataModule | list[AnomalibDataModule] | None, optional): One or several datamodules to validate
            and test on. For several categories of one dataset give an :class:`AuxiliaryDataModule`.
            Defaults to ``None``.
        train_batch_size (int, optional): Batch size of the training data. Defaults to ``4``.
        eval_batch_size (int, optional): Batch size of the validation and test data. Defaults to ``32``.
        num_workers (int, optional): Number of workers of each dataloader. Defaults to ``8``.
        train_augmentations (Transform | None, optional): Augmentations of the training data. Defaults to ``None``.
        val_augmentations (Transform | None, optional): Augmentations of the validation data. Defaults to ``None``.
        test_augmentations (Transform | None, optional): Augmentations of the test data. Defaults to ``None``.
        augmentations (Transform | None, optional): Default for these three. Defaults to ``None``.
        val_split_ratio (float, optional): Fraction of the normal and of the anomalous images that is held out, from 0
            to below 1. Defaults to ``0.0``.
        seed (int | None, optional): Seed of the order of the training images, of the held-out part, and of the sources'
            random splits if they have no seed. ``None`` for the global random state. Defaults to ``42``.

    Raises:
        TypeError: If a source or target is not an anomalib datamodule or, at setup, is not supported.
        ValueError: If there is nothing to train on, ``categories`` do not apply, or ``targets`` and ``val_split_ratio``
            are both given; at setup, if labels, masks or anomalous images are missing; when a mask is read, if it has
            more values than 0 and one other.

    Example:
        Train on categories of a dataset, and validate on a tenth of the images::

            >>> from anomalib.data import MVTecAD
            >>> datamodule = AuxiliaryDataModule(
            ...     sources=MVTecAD(root="./datasets/MVTecAD"),
            ...     categories=["bottle", "cable"],
            ...     val_split_ratio=0.1,
            ... )

        Train on two datasets, and validate on a third::

            >>> from anomalib.data import BTech, Folder, MPDD
            >>> datamodule = AuxiliaryDataModule(
            ...     sources=[MPDD(category="tubes"), BTech(category="01")],
            ...     targets=Folder(name="nuts", root="./nuts", normal_dir="good", abnormal_dir="bad", mask_dir="mask"),
            ... )

        From the command line, one source with categories, and several sources::

            anomalib fit --model FBClip --model.weights null --data AuxiliaryDataModule \
                --data.sources MVTecAD --data.sources.root ./datasets/MVTecAD --data.categories "[bottle, cable]"
            anomalib fit --model FBClip --model.weights null --data AuxiliaryDataModule \
                --data.sources+ MPDD --data.sources.category tubes --data.sources+ Visa --data.sources.category pcb1
    """

    def __init__(
        self,
        sources: AnomalibDataModule | list[AnomalibDataModule],
        categories: list[str] | str | None = None,
        targets: AnomalibDataModule | list[AnomalibDataModule] | None = None,
        train_batch_size: int = 4,
        eval_batch_size: int = 32,
        num_workers: int = 8,
        train_augmentations: Transform | None = None,
        val_augmentations: Transform | None = None,
        test_augmentations: Transform | None = None,
        augmentations: Transform | None = None,
        val_split_ratio: float = 0.0,
        seed: int | None = 42,
    ) -> None:
        super().__init__(
            train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            train_augmentations=train_augmentations,
            val_augmentations=val_augmentations,
            test_augmentations=test_augmentations,
            augmentations=augmentations,
            seed=seed,
        )
        if not 0 <= val_split_ratio < 1:
            msg = f"val_split_ratio must be at least 0 and below 1, but is {val_split_ratio}."
            raise ValueError(msg)
        if targets is not None and val_split_ratio:
            msg = f"Give targets or val_split_ratio, not both: val_split_ratio is {val_split_ratio}."
            raise ValueError(msg)

        self.val_split_ratio = val_split_ratio
        self.sources = _as_list(sources, "sources")
        if categories is not None:
            self.sources = _select_categories(self.sources, categories)
        self.targets = [] if targets is None else _as_list(targets, "targets")

    @property
    def name(self) -> str:  # type: ignore[override]
        """Names of the sources, each once, joined with ``+``."""
        return "+".join(dict.fromkeys(source.name for source in self.sources))

    def prepare_data(self) -> None:
        """Let the sources and the targets download what they need."""
        datamodules = [*self.sources, *self.targets]
        for datamodule in datamodules:
            _check_category(datamodule)
        for datamodule in datamodules:
            datamodule.prepare_data()

    def _setup(self, _stage: str | None = None) -> None:
        self.train_data = self._read_sources()
        if self.targets:
            self.val_data = self._read_targets()
        elif self.val_split_ratio:
            self._hold_out()
        self.test_data = copy.deepcopy(getattr(self, "val_data", self.train_data))

    def _read_sources(self) -> AuxiliaryDataset:
        tables = []
        for source in self.sources:
            table = _read_labeled_samples(source, self.seed)
            _check_masks(table, _describe(source))
            if table["label_index"].ne(LabelName.NORMAL).all():
                logger.warning("There is no normal image to train on in the test split of %s.", _describe(source))
            tables.append(table)

        dataset = AuxiliaryDataset(tables)
        if not dataset.has_anomalous:
            sources = ", ".join(_describe(source) for source in self.sources)
            msg = f"There is no anomalous image to train on in the test split of {sources}."
            raise ValueError(msg)
        return dataset

    def _read_targets(self) -> AuxiliaryDataset:
        tables = [_read_labeled_samples(target, self.seed) for target in self.targets]
        dataset = AuxiliaryDataset(tables)
        if dataset.task == TaskType.SEGMENTATION:
            for target, table in zip(self.targets, tables, strict=True):
                _check_masks(table, _describe(target))
        return dataset

    def _hold_out(self) -> None:
        images = len(self.train_data)
        self.train_data, self.val_data = random_split(
            self.train_data, self.val_split_ratio, label_aware=True, seed=self.seed
        )
        if len(self.val_data) == 0:
            msg = f"val_split_ratio={self.val_split_ratio} of {images} images leaves none to validate on: raise it."
            raise ValueError(msg)

    def _create_test_split(self) -> None:
        """Do nothing: the base class would remove normal images from the test data."""

    def train_dataloader(self) -> TRAIN_DATALOADERS:
        """Get the training dataloader, whose order depends only on ``seed`` and the epoch."""
        order = None if self.seed is None else EpochOrder(len(self.train_data), self.seed)
        return DataLoader(
            dataset=TrainingImages(self.train_data),
            shuffle=True if order is None else None,
            sampler=order,
            batch_size=self.train_batch_size,
            num_workers=self.num_workers,
            collate_fn=self.external_collate_fn or self.train_data.collate_fn,
            generator=None if order is None else order.generator,
        )

    def val_dataloader(self) -> EVAL_DATALOADERS:
        """Get the validation dataloader; without validation data an empty list, so that Lightning does not validate."""
        return super().val_dataloader() if hasattr(self, "val_data") else []


def _as_list(datamodules: Any, argument: str) -> list[AnomalibDataModule]:  # noqa: ANN401
    as_list = list(datamodules) if isinstance(datamodules, list | tuple) else [datamodules]
    if not as_list:
        msg = f"{argument} is empty: give at least one anomalib datamodule."
        raise ValueError(msg)
    others = [value for value in as_list if not isinstance(value, AnomalibDataModule)]
    if others:
        msg = f"{argument} must be anomalib datamodules, such as MVTecAD(), but got {others[0]!r}."
        raise TypeError(msg)
    return as_list


def _select_categories(sources: list[AnomalibDataModule], categories: list[str] | str) -> list[AnomalibDataModule]:
    """Copy the only source for each category."""
    names = [categories] if isinstance(categories, str) else list(categories)
    if not names:
        msg = "categories is empty: name at least one, or leave it out to use the source's category."
        raise ValueError(msg)
    if len(sources) > 1:
        msg = f"categories={names} need exactly one source, but there are {len(sources)}."
        raise ValueError(msg)
    source = sources[0]
    if "category" not in inspect.signature(type(source)).parameters:
        msg = f"categories={names} do not apply to {source.name}: {type(source).__name__} has no argument 'category'."
        raise ValueError(msg)

    copies = [copy.copy(source) for _ in names]
    for datamodule, name in zip(copies, names, strict=True):
        datamodule.category = name
    return copies


def _describe(datamodule: AnomalibDataModule) -> str:
    """Name a dataset and its category for a message."""
    return f"{datamodule.name} '{datamodule.category}'" if datamodule.category else datamodule.name


def published_categories(datamodule: AnomalibDataModule) -> Collection[str]:
    """List the published categories of a dataset, which anomalib defines beside its class; there may be none."""
    dataset_module = sys.modules.get(type(datamodule).__module__.replace("datamodules", "datasets"))
    categories: Collection[str] = getattr(dataset_module, "CATEGORIES", ())
    return categories


def _check_category(datamodule: AnomalibDataModule) -> None:
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


def _read_labeled_samples(datamodule: AnomalibDataModule, seed: int | None) -> pd.DataFrame:
    """Read the labeled test split of a datamodule, which does not change.

    ``seed`` is for its random splits, if it has no seed. The table has one row for each image, with the columns
    ``image_path``, ``mask_path`` (empty without a mask), ``label_index`` and ``split``.
    """
    description = _describe(datamodule)
    if datamodule.test_split_mode == TestSplitMode.SYNTHETIC:
        msg = f"The test split of {description} is synthetic: choose a test_split_mode with real anomalies."
        raise ValueError(msg)
    _check_category(datamodule)

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


def _check_masks(samples: pd.DataFrame, description: str) -> None:
    """Raise ``ValueError`` if an anomalous image in a table of :func:`_read_labeled_samples` has no mask file."""
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
