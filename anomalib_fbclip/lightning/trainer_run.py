# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Facts about a run of the trainer that the model needs."""

import logging
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from anomalib import TaskType
from anomalib.data import AnomalibDataModule, AnomalibDataset, PredictDataset
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn, TrainerStatus
from torch.utils.data import DataLoader

from anomalib_fbclip.data import AuxiliaryDataModule
from anomalib_fbclip.weights.published import canonical_name

logger = logging.getLogger(__name__)

PRECISIONS = {
    "16-true": "16-mixed, or --model.backbone_precision float16 to save memory",
    "bf16-true": "bf16-mixed, or --model.backbone_precision bfloat16 to save memory",
    "64-true": "32-true",
}
"""Precisions of the trainer in which the whole module is converted, thresholds included, and what to take instead."""


def image_paths(dataset: AnomalibDataset | PredictDataset) -> list[str]:
    """List the files of a dataset's images."""
    paths = dataset.image_filenames if isinstance(dataset, PredictDataset) else dataset.samples["image_path"]
    return [str(path) for path in paths]


class TrainerRun:
    """A run of the trainer, seen from the model.

    Args:
        trainer (Trainer | None): The trainer; ``None`` if there is none.
    """

    def __init__(self, trainer: Trainer | None) -> None:
        self.trainer = trainer

    @property
    def datamodule(self) -> AnomalibDataModule | None:
        """The datamodule; ``None`` outside of a run, or where dataloaders were handed in."""
        datamodule = getattr(self.trainer, "datamodule", None)
        return datamodule if isinstance(datamodule, AnomalibDataModule) else None

    @property
    def checkpoint(self) -> str | None:
        """Path of the checkpoint that a run loads; ``None`` if it loads none."""
        path = self.trainer.ckpt_path if self.trainer else None
        return None if path is None else str(path)

    @property
    def is_fitting(self) -> bool:
        """True while the model is being trained."""
        state = self.trainer.state if self.trainer else None
        return state is not None and state.fn == TrainerFn.FITTING and state.status == TrainerStatus.RUNNING

    @property
    def trained_dataset(self) -> str | None:
        """Name of the dataset that is being trained on; ``None`` outside of a training."""
        if not self.is_fitting:
            return None
        return self.datamodule.name if self.datamodule else "unknown"

    @property
    def tested_datasets(self) -> list[str]:
        """Names of the datasets that are tested or predicted; none outside of a run."""
        if isinstance(self.datamodule, AuxiliaryDataModule) and self.datamodule.targets:
            return [target.name for target in self.datamodule.targets]
        return self.datamodule.name.split("+") if self.datamodule else []

    @property
    def images(self) -> list[Path]:
        """Files of the images that are tested or predicted; none outside of a run."""
        if self.trainer is None or self.trainer.state.fn not in {TrainerFn.TESTING, TrainerFn.PREDICTING}:
            return []
        is_test = self.trainer.state.fn == TrainerFn.TESTING
        loaders: Any = self.trainer.test_dataloaders if is_test else self.trainer.predict_dataloaders
        datasets = (loader.dataset for loader in ([loaders] if isinstance(loaders, DataLoader) else loaders))
        unchecked = (getattr(dataset, "dataset", dataset) for dataset in datasets)
        known = (dataset for dataset in unchecked if isinstance(dataset, AnomalibDataset | PredictDataset))
        return [Path(path) for dataset in known for path in image_paths(dataset)]

    def forward_context(self) -> AbstractContextManager[None]:
        """Compute in the trainer's precision."""
        return self.trainer.precision_plugin.forward_context() if self.trainer else nullcontext()

    def log(self, used: str) -> None:
        """Say what a run uses.

        Args:
            used (str): What the model uses.
        """
        if self.trainer and self.trainer.is_global_zero:
            device, precision = self.trainer.strategy.root_device, self.trainer.precision
            logger.info("FBClip: %s; on %s, in precision %s.", used, device, precision)

    def check_precision(self) -> None:
        """Make sure that the trainer's precision leaves thresholds, masks and scores as they are.

        Raises:
            ValueError: If the trainer would convert the whole module to it.
        """
        precision = self.trainer.precision if self.trainer else None
        if precision in PRECISIONS:
            msg = (
                f"Trainer precision {precision!r} converts FBClip's thresholds and masks, too, and with them the "
                f"verdicts: take {PRECISIONS[precision]}."
            )
            raise ValueError(msg)

    def check_training_data(self) -> None:
        """Make sure that adapters can be trained on the data.

        Raises:
            ValueError: If it has no anomalous image, or no masks.
        """
        if self.datamodule is None:
            return
        data = self.datamodule.train_data
        if data.has_anomalous and data.task == TaskType.SEGMENTATION:
            return
        msg = (
            f"The training data of {self.datamodule.name} has no anomalous images with masks, on which the "
            "adapters are trained: wrap it in an AuxiliaryDataModule, which serves the labeled test split. "
            "To use trained adapters instead, set 'weights'."
        )
        raise ValueError(msg)

    @staticmethod
    def warn_if_untrained(source: str | None) -> None:
        """Warn if a model is evaluated whose adapters are untrained.

        Args:
            source (str | None): What the adapters were trained on.
        """
        if not source:
            logger.warning("The adapters are untrained (weights=None): scores mean nothing until they are trained.")

    def warn_if_not_trained_again(self, source: str | None) -> None:
        """Warn if there is data to train the adapters on, and they are trained already.

        Args:
            source (str | None): What the adapters were trained on.
        """
        if source and isinstance(self.datamodule, AuxiliaryDataModule):
            logger.warning(
                "The adapters are trained already, so 'fit' does not train them on %s: to do so, set weights to null.",
                self.datamodule.name,
            )

    def warn_if_not_zero_shot(self, source: str | None) -> None:
        """Warn if the adapters were trained on what is tested.

        Args:
            source (str | None): What the adapters were trained on: names of datasets with ``+`` between them.
        """
        trained = {canonical_name(name) for name in (source or "").split("+")}
        if trained & {canonical_name(name) for name in self.tested_datasets}:
            logger.warning("The adapters were trained on %s, which is now tested: the result is not zero-shot.", source)
