# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Facts about a run of the trainer."""

import logging
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import torch
from anomalib import TaskType
from anomalib.data import AnomalibDataModule, AnomalibDataset, PredictDataset
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.trainer.states import TrainerFn, TrainerStatus
from torch.utils.data import DataLoader

from anomalib_fbclip.data import AuxiliaryDataModule
from anomalib_fbclip.results.thresholds import describe_guess
from anomalib_fbclip.weights.source import canonical_name

from .post_processing import ThresholdPostProcessor

logger = logging.getLogger(__name__)

PRECISIONS = {
    "16-true": "16-mixed, or --model.backbone_precision float16 to save memory",
    "bf16-true": "bf16-mixed, or --model.backbone_precision bfloat16 to save memory",
    "64-true": "32-true",
}
"""Precisions of the trainer that convert the whole module, and their replacements."""

THRESHOLD_ADVICE = "Set few_shot_source to a folder of good photographs, unlabeled_source, or image_threshold."

AnyCallback = TypeVar("AnyCallback", bound=Callback)
Item = TypeVar("Item")


def find_callback(trainer: Trainer, kind: type[AnyCallback]) -> AnyCallback | None:
    """Find the trainer's first callback of a kind, if there is one."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback for callback in callbacks if isinstance(callback, kind)), None)


def is_command_line(trainer: Trainer) -> bool:
    """Tell whether anomalib's command line, which ends with an exit code, made the trainer."""
    return find_callback(trainer, SaveConfigCallback) is not None


def gather(trainer: Trainer, items: list[Item]) -> list[Item]:
    """Gather the items of all processes."""
    if trainer.world_size == 1:
        return items
    shares: list[list[Item]] = [[] for _ in range(trainer.world_size)]
    torch.distributed.all_gather_object(shares, items)
    return [item for share in shares for item in share]


def image_paths(dataset: AnomalibDataset | PredictDataset) -> list[str]:
    """List the files of a dataset's images."""
    paths = dataset.image_filenames if isinstance(dataset, PredictDataset) else dataset.samples["image_path"]
    return [str(path) for path in paths]


class TrainerRun:
    """A run of the trainer, if there is one, for the model."""

    def __init__(self, trainer: Trainer | None) -> None:
        self.trainer = trainer

    @property
    def datamodule(self) -> AnomalibDataModule | None:
        """The datamodule; ``None`` outside of a run, or with dataloaders."""
        datamodule = getattr(self.trainer, "datamodule", None)
        return datamodule if isinstance(datamodule, AnomalibDataModule) else None

    @property
    def checkpoint(self) -> str | None:
        """Path of the checkpoint that the run loads, if any."""
        path = self.trainer.ckpt_path if self.trainer else None
        return None if path is None else str(path)

    @property
    def is_fitting(self) -> bool:
        """True while the model is being trained."""
        state = self.trainer.state if self.trainer else None
        return state is not None and state.fn == TrainerFn.FITTING and state.status == TrainerStatus.RUNNING

    @property
    def trained_dataset(self) -> str | None:
        """Name of the training dataset; ``None`` outside of a training."""
        if not self.is_fitting:
            return None
        return self.datamodule.name if self.datamodule else "unknown"

    @property
    def tested_datasets(self) -> list[str]:
        """Names of the tested or predicted datasets; empty outside of a run."""
        if isinstance(self.datamodule, AuxiliaryDataModule) and self.datamodule.targets:
            return [target.name for target in self.datamodule.targets]
        return self.datamodule.name.split("+") if self.datamodule else []

    @property
    def images(self) -> list[Path]:
        """Files of the tested or predicted images; empty outside of a run."""
        if self.trainer is None or self.trainer.state.fn not in {TrainerFn.TESTING, TrainerFn.PREDICTING}:
            return []
        is_test = self.trainer.state.fn == TrainerFn.TESTING
        loaders: Any = self.trainer.test_dataloaders if is_test else self.trainer.predict_dataloaders
        datasets = (loader.dataset for loader in ([loaders] if isinstance(loaders, DataLoader) else loaders))
        unchecked = (getattr(dataset, "dataset", dataset) for dataset in datasets)
        known = (dataset for dataset in unchecked if isinstance(dataset, AnomalibDataset | PredictDataset))
        return [Path(path) for dataset in known for path in image_paths(dataset)]

    def forward_context(self) -> AbstractContextManager[None]:
        """Return the context of the trainer's precision."""
        return self.trainer.precision_plugin.forward_context() if self.trainer else nullcontext()

    def log(self, model: str) -> None:
        """Log a description of the model, with the device and the precision."""
        if self.trainer and self.trainer.is_global_zero:
            device, precision = self.trainer.strategy.root_device, self.trainer.precision
            logger.info("FBClip: %s; on %s, in precision %s.", model, device, precision)

    def log_thresholds(self, post_processor: object) -> None:
        """Log fitted thresholds, and warn if there is none."""
        is_first = self.trainer is not None and self.trainer.is_global_zero
        if not is_first or not isinstance(post_processor, ThresholdPostProcessor):
            return
        if fitted := post_processor.describe():
            logger.info(fitted)
        for line in describe_guess(post_processor.image_threshold_source, THRESHOLD_ADVICE):
            logger.warning(line)

    def check_precision(self) -> None:
        """Raise a ``ValueError`` if the trainer converts the whole module to its precision."""
        precision = self.trainer.precision if self.trainer else None
        if precision in PRECISIONS:
            msg = (
                f"Trainer precision {precision!r} also converts FBClip's thresholds and masks, which changes verdicts: "
                f"take {PRECISIONS[precision]}."
            )
            raise ValueError(msg)

    def check_training_data(self) -> None:
        """Raise a ``ValueError`` if the training data has no anomalous image, or no masks."""
        if self.datamodule is None:
            return
        data = self.datamodule.train_data
        if data.has_anomalous and data.task == TaskType.SEGMENTATION:
            return
        msg = (
            f"The training data of {self.datamodule.name} has no anomalous images with masks. To train adapters, wrap "
            "it in an AuxiliaryDataModule, which trains on the labeled test split. To use trained adapters, set "
            "'weights'."
        )
        raise ValueError(msg)

    @staticmethod
    def warn_if_untrained(source: str | None) -> None:
        """Warn if adapters are untrained, without a training dataset as source."""
        if not source:
            logger.warning("The adapters are untrained (weights=None): scores mean nothing until they are trained.")

    def warn_if_not_trained_again(self, source: str | None) -> None:
        """Warn if there is training data, but the adapters were already trained on a source."""
        if source and isinstance(self.datamodule, AuxiliaryDataModule):
            logger.warning(
                "The adapters are trained already, so 'fit' does not train them on %s: to do so, set weights to null.",
                self.datamodule.name,
            )

    def warn_if_not_zero_shot(self, source: str | None) -> None:
        """Warn if a tested dataset is in the source, the adapters' training datasets joined with ``+``."""
        trained = {canonical_name(name) for name in (source or "").split("+")}
        if trained & {canonical_name(name) for name in self.tested_datasets}:
            logger.warning("The adapters were trained on %s, which is now tested: the result is not zero-shot.", source)
