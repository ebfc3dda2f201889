# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The evaluator of the paper's four metrics: logs those that the test images define."""

import logging
from collections.abc import Sequence
from typing import Any, cast

import torch
from anomalib.data import Batch
from anomalib.metrics import AnomalibMetric, Evaluator
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torchmetrics import Metric

from .ranking_metrics import ImageAUPR, ImageAUROC, PixelAUPRO, PixelAUROC

logger = logging.getLogger(__name__)


class LabelCounts(Metric):
    """How many images and pixels are normal, and how many anomalous, on all processes."""

    full_state_update = False

    counts: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("counts", default=torch.zeros(2, 2, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, batch: Batch) -> None:
        """Count the labels and the pixels of the masks of a batch.

        Args:
            batch (Batch): Labels and masks, as far as there are any.
        """
        for row, labels in enumerate((batch.gt_label, batch.gt_mask)):
            if labels is not None:
                self.counts[row] += torch.stack([(labels == value).sum() for value in (0, 1)])

    def compute(self) -> torch.Tensor:
        """Give the counts.

        Returns:
            torch.Tensor: Normal and anomalous images, and normal and anomalous pixels, ``[2, 2]``.
        """
        return self.counts


class RankingEvaluator(Evaluator):
    """Evaluate how a model ranks images and pixels, with the metrics of the paper.

    - ``image_AUROC``: area under the ROC curve of the image scores
    - ``image_AUPR``: average precision of the image scores
    - ``pixel_AUROC``: area under the ROC curve of the anomaly maps
    - ``pixel_AUPRO``: area under the curve of the mean overlap with each anomalous region, up to a false positive rate
      of 0.3

    All are fractions, 0..1. Metrics that the data does not define are left out, and a warning says so: those of images
    where all are normal or all anomalous, and those of pixels where the masks are empty, or there are none.

    Normalization, which moves the threshold to 0.5 and cuts off what is then beyond 0 and 1, makes ties of the highest
    or lowest scores. FBClip therefore calls this evaluator before the post-processor.
    """

    def __init__(self) -> None:
        # The scores of the images are few, and can be gathered from several GPUs where they are.
        super().__init__(test_metrics=[ImageAUROC(), ImageAUPR(), PixelAUROC(), PixelAUPRO()], compute_on_cpu=False)
        self.label_counts = LabelCounts()

    @property
    def _metrics(self) -> Sequence[AnomalibMetric]:
        return cast("Sequence[AnomalibMetric]", self.test_metrics)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget an earlier run: Lightning does so only for what was logged at its end."""
        del trainer, pl_module
        for metric in (*self.test_metrics, self.label_counts):
            metric.reset()

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT | None,
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take in the scores and the labels of a batch, as far as it has them."""
        del trainer, pl_module, outputs, batch_idx, dataloader_idx
        for metric in self._metrics:
            if all(getattr(batch, field) is not None for field in metric.fields):
                metric.update(batch)
        self.label_counts.update(batch)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the metrics that the test images define; all processes find the same ones."""
        images, pixels = self.label_counts.compute().tolist()
        counts = {"gt_label": images, "gt_mask": pixels}
        undefined = []
        for metric in self._metrics:
            if not all(counts[metric.fields[-1]]):
                undefined.append(metric.name)
            elif trainer.barebones:  # nothing is logged then, so it is done by hand, as in anomalib's evaluator
                value = metric.compute()
                trainer.callback_metrics[metric.name] = value
                trainer.logged_metrics[metric.name] = value
            else:
                pl_module.log(metric.name, cast("Metric", metric))
        if undefined and trainer.is_global_zero:
            logger.warning("%s: %s are left out.", describe_labels(images, pixels), _enumerate(undefined))


def describe_labels(images: Sequence[int], pixels: Sequence[int]) -> str:
    """Say what test images lack.

    Args:
        images (Sequence[int]): Number of normal and of anomalous images.
        pixels (Sequence[int]): Number of normal and of anomalous pixels of the masks.

    Returns:
        str: A sentence without its full stop.
    """
    lacks = []
    if not any(images):
        lacks.append("have no labels")
    elif not all(images):
        lacks.append("are all anomalous" if images[1] else "are all normal")
    if not any(pixels):
        lacks.append("have no masks")
    elif not all(pixels) and "are all normal" not in lacks:
        lacks.append("have no normal pixel" if pixels[1] else "have no anomalous pixel")
    return f"The test images {' and '.join(lacks)}"


def _enumerate(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"
