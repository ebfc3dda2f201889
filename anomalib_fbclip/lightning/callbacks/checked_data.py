# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Checks of anomalib's dataloaders: every image is readable, correct and counted once.

anomalib's datasets turn values of more than 8 bits white, don't name unreadable files, and treat every mask value above
0 as a defect. In distributed runs, their images are repeated to fill batches.
"""

import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from os.path import commonpath
from pathlib import Path
from typing import Any, TypeGuard

import torch
from anomalib import TaskType
from anomalib.data import AnomalibDataModule, AnomalibDataset, ImageItem, PredictDataset
from anomalib.data.datasets.base import AnomalibVideoDataset
from anomalib.data.utils import LabelName, read_mask
from anomalib.data.utils.image import is_image_file
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from lightning.pytorch.trainer.states import RunningStage, TrainerFn
from lightning_utilities.core.apply_func import apply_to_collection
from PIL import Image
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Sampler, SequentialSampler
from torchvision.tv_tensors import Mask
from tqdm.auto import tqdm

from anomalib_fbclip.data.auxiliary import TrainingImages, check_mask
from anomalib_fbclip.data.image_source import load_image
from anomalib_fbclip.errors import ImageError
from anomalib_fbclip.images.image_files import find_images, is_foreign, printable
from anomalib_fbclip.images.photographs import (
    DECODING_ERRORS,
    check_size,
    describe_pages,
    larger_images,
    needs_own_reading,
    read_photograph,
)
from anomalib_fbclip.lightning.trainer_run import TrainerRun, find_callback, image_paths
from anomalib_fbclip.results.records import Record

READERS = 2
"""Number of images that are read at the same time before a prediction, limited to save memory."""


class ClipError(ValueError):
    """The data are video clips, not images. The message is one line, and says what to do."""


class CheckedDataset(Dataset[ImageItem]):
    """Images of one of anomalib's datasets, read correctly or rejected by name. ``indices`` are the images to use."""

    def __init__(
        self,
        dataset: AnomalibDataset | PredictDataset,
        minimum_side: int,
        indices: Sequence[int],
        white_level: int | None,
    ) -> None:
        self.dataset = dataset
        self.minimum_side = minimum_side
        self.indices = indices
        self.white_level = white_level
        self.paths = image_paths(dataset)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.indices)

    def __getitem__(self, position: int) -> ImageItem:
        """Read an image, with label and mask if the dataset has them.

        Raises:
            ImageError: If the image can't be read, or is smaller than a patch.
            MaskError: If its mask has more values than 0 and one other.
        """
        index = self.indices[position]
        path = self.paths[index]
        mask_path = _mask_path(self.dataset, index)
        if mask_path:
            check_mask(Path(mask_path))
        try:
            with larger_images():
                with Image.open(path) as image:
                    check_size(printable(path), image.height, image.width, self.minimum_side)
                item: ImageItem = self.dataset[index]  # type: ignore[assignment] # depth and video have other types
        except DECODING_ERRORS:
            read_photograph(path, upright=False)  # names the file, if the image is the reason
            raise
        if needs_own_reading(path):
            image = load_image(path, upright=False, white_level=self.white_level)
            transform = getattr(self.dataset, "augmentations", None) or getattr(self.dataset, "transform", None)
            if transform and item.gt_mask is not None:
                mask = read_mask(mask_path, as_tensor=True) if mask_path else Mask(torch.zeros(image.shape[1:]).byte())
                item.image, item.gt_mask = transform(image, mask)
            else:
                item.image = transform(image) if transform else image
        return item


class CheckedData(Callback):
    """Prepares the dataloaders of a run of the trainer.

    - A :class:`CheckedDataset` reads images and masks, with augmentations in a training.
    - Images that can't be predicted are found and named before a prediction starts. The others are predicted.
    - In a test or a validation each image counts once, with any number of processes.

    For each dataloader of a prediction, ``selections`` are the predicted images, and ``failures`` the records of the
    others, by their place in the data. Images of the folder that anomalib skips come last.
    """

    def __init__(self, minimum_side: int, white_level: int | None) -> None:
        self.minimum_side = minimum_side
        self.white_level = white_level
        self.selections: list[Sequence[int]] = []
        self.failures: list[dict[int, Record]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Prepare the dataloaders before the trainer asks for them."""
        self.selections, self.failures = [], []
        if stage == "fit":
            self._prepare_training(trainer)
        elif stage == "predict":
            self._prepare_prediction(trainer)
        elif stage == "test":
            self.prepare_evaluation(trainer, trainer.test_loop)
        elif stage == "validate":
            self.prepare_evaluation(trainer, trainer.validate_loop)

    def check(self, dataset: Dataset) -> Any:  # noqa: ANN401 - a dataset that can be indexed
        """Make a :class:`CheckedDataset` of the same images; other kinds of datasets are returned unchanged."""
        if not _is_known(dataset):
            return dataset
        return CheckedDataset(dataset, self.minimum_side, range(len(dataset)), self.white_level)

    def prepare_evaluation(self, trainer: Trainer, loop: Any) -> None:  # noqa: ANN401 - Lightning's loop is private
        """Prepare the dataloaders of a test or a validation, which a loop of the trainer runs."""

        def prepare(loader: DataLoader) -> DataLoader:
            if not isinstance(loader.sampler, SequentialSampler):
                return loader
            dataset = self.check(loader.dataset)
            return _rebuild(loader, dataset, _sampler(dataset, trainer))

        source = _data_source(loop)
        is_empty = isinstance(source.instance, AnomalibDataModule) and not has_val_data(source.instance)
        if loop is trainer.validate_loop and is_empty:
            source.instance = []
        else:
            _replace_loaders(loop, prepare)

    def validate_within(self, trainer: Trainer) -> None:
        """Run a validation within another run, if its datamodule has validation images."""
        datamodule = TrainerRun(trainer).datamodule
        if datamodule is None or not has_val_data(datamodule):
            return
        loop, state = trainer.validate_loop, trainer.state
        fn, stage = state.fn, state.stage
        self.prepare_evaluation(trainer, loop)
        state.fn, state.stage = TrainerFn.VALIDATING, RunningStage.VALIDATING
        loop.verbose = False
        loop.run()
        state.fn, state.stage = fn, stage

    def _prepare_training(self, trainer: Trainer) -> None:
        def prepare(loader: DataLoader) -> DataLoader:
            dataset = loader.dataset
            if isinstance(dataset, TrainingImages):
                dataset.images = self.check(dataset.dataset)
                return loader
            return _rebuild(loader, self.check(dataset), loader.sampler) if _is_known(dataset) else loader

        _replace_loaders(trainer.fit_loop, prepare)
        self.prepare_evaluation(trainer, trainer.fit_loop.epoch_loop.val_loop)

    def _prepare_prediction(self, trainer: Trainer) -> None:
        def prepare(loader: DataLoader) -> DataLoader:
            dataset = loader.dataset
            if not _is_known(dataset) or not isinstance(loader.sampler, SequentialSampler):
                self.selections.append(range(sys.maxsize))
                self.failures.append({})
                return loader
            paths = image_paths(dataset)
            folder = _find_folder(paths, trainer) if isinstance(dataset, PredictDataset) else None
            photographs = {
                index: path
                for index, path in enumerate(paths)
                if folder is None or not is_foreign(Path(os.path.relpath(path, folder)))
            }
            failures = dict(_find_failures(photographs, self.minimum_side, self.white_level, trainer))
            failures |= dict(enumerate(_find_skipped(folder, photographs.values()), len(dataset)) if folder else ())
            if trainer.is_global_zero:
                errors = (f"error: {record.error}" for record in failures.values())
                for line in (*describe_pages(photographs.values()), *errors):
                    print(line, file=sys.stderr)
            selection = [index for index in photographs if index not in failures]
            self.selections.append(selection)
            self.failures.append(failures)
            checked = CheckedDataset(dataset, self.minimum_side, selection, self.white_level)
            return _rebuild(loader, checked, sampler=None)

        _replace_loaders(trainer.predict_loop, prepare)


def _data_source(loop: Any) -> Any:  # noqa: ANN401 - Lightning's loops and their sources are private
    return loop._data_source  # noqa: SLF001 - Lightning has no public way to replace the dataloaders


def _replace_loaders(loop: Any, prepare: Callable[[DataLoader], DataLoader]) -> None:  # noqa: ANN401 - as above
    """Replace the dataloaders that a loop of the trainer runs."""
    source = _data_source(loop)
    source.instance = apply_to_collection(source.dataloader(), DataLoader, prepare)


def _find_failures(
    paths: Mapping[int, str], minimum_side: int, white_level: int | None, trainer: Trainer
) -> Iterator[tuple[int, Record]]:
    """Yield the place and the record of each image that can't be read."""

    def find_reason(path: str) -> str | None:
        try:
            read_photograph(path, upright=False, minimum_side=minimum_side, white_level=white_level)
        except ImageError as error:
            return str(error)
        return None

    is_quiet = trainer.progress_bar_callback is None or not trainer.is_global_zero
    with ThreadPoolExecutor(READERS) as pool:
        reasons = pool.map(find_reason, paths.values())
        shown = tqdm(reasons, "Reading photographs", len(paths), leave=False, delay=2, disable=is_quiet)
        for (index, path), reason in zip(paths.items(), shown, strict=True):
            if reason:
                yield index, Record(path, error=reason)


def _find_skipped(folder: Path, paths: Collection[str]) -> Iterator[Record]:
    """Yield the record of each image in a folder that is not among the paths that anomalib finds."""
    taken = {os.path.realpath(path) for path in paths}
    for path in find_images(folder):
        is_linked = any(parent.is_symlink() for parent in path.parents if folder in parent.parents)
        if os.path.realpath(path) in taken or (is_image_file(path) and path.is_file() and not is_linked):
            continue
        try:
            needs_own_reading(path)
            reason = (
                f"{printable(path)} is skipped by anomalib, which selects files by their suffixes and does not follow "
                "links to folders: save it as PNG or JPEG in the folder itself."
            )
        except ImageError as error:
            reason = str(error)
        yield Record(str(path), error=reason)


def _find_folder(paths: Sequence[str], trainer: Trainer) -> Path | None:
    """Find the predicted folder, if it is one. For a single image in a program it is unknown."""
    interface = find_callback(trainer, SaveConfigCallback)
    if interface:
        data = interface.config.get("data")
        return Path(data).absolute() if isinstance(data, str | Path) and Path(data).is_dir() else None
    return Path(commonpath(paths)) if len(paths) > 1 else None


def _is_known(dataset: object) -> TypeGuard[AnomalibDataset | PredictDataset]:
    """Tell whether a dataset reads its images in anomalib's usual way; video clips are an error."""
    if isinstance(dataset, AnomalibVideoDataset):
        msg = f"{dataset.name} has video clips, but FBClip inspects images. Save its frames as images."
        raise ClipError(msg)
    return isinstance(dataset, PredictDataset) or (
        isinstance(dataset, AnomalibDataset) and type(dataset).__getitem__ is AnomalibDataset.__getitem__
    )


def has_val_data(datamodule: AnomalibDataModule) -> bool:
    """Tell whether a datamodule has validation images, after its setup."""
    return getattr(datamodule, "val_data", None) is not None


def _mask_path(dataset: AnomalibDataset | PredictDataset, index: int) -> str | None:
    """Return the mask that a dataset reads for an image, if any."""
    if isinstance(dataset, PredictDataset) or dataset.task != TaskType.SEGMENTATION:
        return None
    sample = dataset.samples.iloc[index]
    return str(sample.mask_path) if sample.label_index == LabelName.ABNORMAL else None


def _sampler(dataset: Any, trainer: Trainer) -> DistributedSampler | None:  # noqa: ANN401
    """Divide the images among the processes, each image once."""
    if trainer.world_size == 1:
        return None
    if len(dataset) < trainer.world_size:  # each process gets all images, so that none is without
        return DistributedSampler(dataset, num_replicas=1, rank=0, shuffle=False)
    return UnrepeatedDistributedSampler(dataset, trainer.world_size, trainer.global_rank, shuffle=False)


def _rebuild(loader: DataLoader, dataset: Dataset, sampler: Sampler | Iterable | None) -> DataLoader:
    """Copy a dataloader with another dataset and sampler."""
    return DataLoader(
        dataset,
        batch_size=loader.batch_size,
        sampler=sampler,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        drop_last=loader.drop_last,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=loader.generator,
        prefetch_factor=loader.prefetch_factor,
        persistent_workers=loader.persistent_workers,
    )
