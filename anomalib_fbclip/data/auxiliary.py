# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Auxiliary datamodule: the labeled test split of other datamodules as training data.

A zero-shot model sees nothing of the dataset that it is tested on. Its adapters are trained once on an auxiliary
dataset, on normal and anomalous images with their masks. Anomalib's datamodules keep these in their test split and put
only normal images into the train split; :class:`AuxiliaryDataModule` turns the one into the other.
"""

import copy
import inspect
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from anomalib import TaskType
from anomalib.data import AnomalibDataModule, AnomalibDataset, DatasetItem
from anomalib.data.utils import LabelName, random_split
from lightning.pytorch.utilities.types import EVAL_DATALOADERS, TRAIN_DATALOADERS
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms.v2 import Transform

from .labeled_samples import check_category, check_mask, check_masks, describe, read_labeled_samples

logger = logging.getLogger(__name__)


class AuxiliaryDataset(AnomalibDataset):
    """Labeled images of several datasets as one dataset.

    The task is segmentation when there are masks and classification when there are none.

    Args:
        samples (Sequence[pandas.DataFrame]): Tables to concatenate, with the columns ``image_path``, ``mask_path``
            (empty for an image without mask), ``label_index`` and ``split``. An image that is in several is taken once.
        augmentations (Transform | None, optional): Augmentations that are applied to image and mask.
            Defaults to ``None``.
    """

    def __init__(self, samples: Sequence[pd.DataFrame], augmentations: Transform | None = None) -> None:
        super().__init__(augmentations=augmentations)
        table = pd.concat(samples, ignore_index=True).drop_duplicates("image_path", ignore_index=True)
        table.attrs["task"] = "classification" if table["mask_path"].eq("").all() else "segmentation"
        self.samples = table


class TrainingImages(Dataset[DatasetItem]):
    """The labeled images of a dataset, whose masks are checked as they are read.

    An augmentation that crops can leave the whole defect out. What is left shows a normal part, and is labeled so.

    Args:
        dataset (AnomalibDataset): The dataset. Every anomalous image has a mask.

    Attributes:
        images (Dataset[DatasetItem]): What reads the images: the dataset, or what a model has in its place.
    """

    def __init__(self, dataset: AnomalibDataset) -> None:
        self.dataset = dataset
        self.images: Dataset[DatasetItem] = dataset

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> DatasetItem:
        """Read an image.

        Args:
            index (int): Its place in the dataset.

        Returns:
            DatasetItem: The image, with label and mask.

        Raises:
            ValueError: If its mask has more values than 0 and one other.
        """
        sample = self.dataset.samples.iloc[index]
        if sample.label_index == LabelName.ABNORMAL:
            check_mask(Path(sample.mask_path))
        item = self.images[index]
        if self.dataset.augmentations:
            item.gt_label = torch.as_tensor(item.gt_mask).any().long()
        return item


class EpochOrder(Sampler[int]):
    """Orders images anew in each epoch, by seed and epoch alone: a resumed training goes on as if it had not stopped.

    Args:
        count (int): Number of images.
        seed (int): The seed.

    Attributes:
        generator (torch.Generator): Where a dataloader's workers, which augment the images, get their seeds from.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.seed = seed
        self.generator = torch.Generator()
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch; Lightning calls it before each."""
        self.epoch = epoch
        self.generator.manual_seed(self.seed + epoch)

    def __len__(self) -> int:
        """Return the number of images."""
        return self.count

    def __iter__(self) -> Iterator[int]:
        """Give the places of the images in the order of the epoch; the next time, in that of the next one."""
        order = torch.randperm(self.count, generator=torch.Generator().manual_seed(self.seed + self.epoch))
        self.epoch += 1
        return iter(order.tolist())


class AuxiliaryDataModule(AnomalibDataModule):
    r"""Serve the labeled test split of one or several datamodules as training data.

    What is trained on is exactly what the sources test on, taken together; images of their train splits and synthetic
    anomalies are never used. Every anomalous image needs a mask.

    Validation and test data are the labeled test split of ``targets``, or a part of the training data that
    ``val_split_ratio`` holds out. With neither there is no validation, and the test data is the training data itself.

    Args:
        sources (AnomalibDataModule | list[AnomalibDataModule]): Datamodule or datamodules to train on. Their batch
            sizes, workers and augmentations are not used. Image datamodules only: depth, video and MVTec LOCO read
            their items in a way of their own and cannot be combined.
        categories (list[str] | str | None, optional): Categories of the source to train on, when it is one datamodule
            that has categories, such as ``MVTecAD``. Names that are numbers need quotes in YAML: ``["01", "02"]``.
            Defaults to ``None``: the sources as they are.
        targets (AnomalibDataModule | list[AnomalibDataModule] | None, optional): Datamodule or datamodules to validate
            and test on. For several categories of one dataset give an :class:`AuxiliaryDataModule`.
            Defaults to ``None``.
        train_batch_size (int, optional): Batch size of the training data.
            Defaults to ``4``.
        eval_batch_size (int, optional): Batch size of the validation and test data.
            Defaults to ``32``.
        num_workers (int, optional): Number of workers of each dataloader.
            Defaults to ``8``.
        train_augmentations (Transform | None, optional): Augmentations of the training images and masks.
            Defaults to ``None``.
        val_augmentations (Transform | None, optional): Augmentations of the validation images and masks.
            Defaults to ``None``.
        test_augmentations (Transform | None, optional): Augmentations of the test images and masks.
            Defaults to ``None``.
        augmentations (Transform | None, optional): Augmentations of those of the three that are not given.
            Defaults to ``None``.
        val_split_ratio (float, optional): Fraction of the normal and of the anomalous images that is held out, from 0
            to below 1. Defaults to ``0.0``: none.
        seed (int | None, optional): Seed of the order of the training images, of the held-out part, and of the sources'
            own random splits where these have no seed. ``None``: the global random state decides.
            Defaults to ``42``.

    Raises:
        TypeError: If a source or target is not an anomalib datamodule, or, at setup, if it cannot be combined.
        ValueError: If there is nothing to train on, if ``categories`` do not apply, if ``targets`` and
            ``val_split_ratio`` are both given, at setup, if labels, masks or anomalous images are missing, or, when a
            mask is read, if it has more values than 0 and one other.

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
            msg = (
                f"targets and val_split_ratio={val_split_ratio} exclude each other: "
                "validate either on other datamodules or on a held-out part of the sources."
            )
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
            check_category(datamodule)
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
            table = read_labeled_samples(source, self.seed)
            check_masks(table, describe(source))
            if table["label_index"].ne(LabelName.NORMAL).all():
                logger.warning("There is no normal image to train on in the test split of %s.", describe(source))
            tables.append(table)

        dataset = AuxiliaryDataset(tables)
        if not dataset.has_anomalous:
            sources = ", ".join(describe(source) for source in self.sources)
            msg = f"There is no anomalous image to train on in the test split of {sources}."
            raise ValueError(msg)
        return dataset

    def _read_targets(self) -> AuxiliaryDataset:
        tables = [read_labeled_samples(target, self.seed) for target in self.targets]
        dataset = AuxiliaryDataset(tables)
        if dataset.task == TaskType.SEGMENTATION:
            for target, table in zip(self.targets, tables, strict=True):
                check_masks(table, describe(target))
        return dataset

    def _hold_out(self) -> None:
        images = len(self.train_data)
        self.train_data, self.val_data = random_split(
            self.train_data,
            self.val_split_ratio,
            label_aware=True,
            seed=self.seed,
        )
        if len(self.val_data) == 0:
            msg = f"val_split_ratio={self.val_split_ratio} of {images} images leaves none to validate on."
            raise ValueError(msg)

    def _create_test_split(self) -> None:
        """Leave the test data as it is: the base class would take normal images away from it."""

    def train_dataloader(self) -> TRAIN_DATALOADERS:
        """Get the training dataloader, whose order of images depends on ``seed`` and the epoch alone.

        Returns:
            DataLoader: Training dataloader.
        """
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
        """Get the validation dataloader.

        Returns:
            DataLoader | list[DataLoader]: Validation dataloader, or an empty list, with which Lightning does not
                validate, if there is no validation data.
        """
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
    """Make a copy of the only source for each category."""
    names = [categories] if isinstance(categories, str) else list(categories)
    if not names:
        msg = "categories is empty: name at least one, or leave it out to use the sources as they are."
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
