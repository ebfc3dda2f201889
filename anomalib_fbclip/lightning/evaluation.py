# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The paper's four metrics, which say how a model ranks images and pixels, and the evaluator that logs them.

Those of images are torchmetrics'. Those of pixels are our own: the libraries' keep every score until the end, for 1000
images of 518 x 518 pixels almost 20 GB, or compare each with every bin. Here scores are counted in fine bins, so that
memory does not grow.

All hold on several processes, of which some may have seen images of one label only, or none. They are defined where
there are both labels.
"""

import logging
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, cast

import torch
from anomalib.data import Batch
from anomalib.metrics import AnomalibMetric, Evaluator
from anomalib.utils.cv import connected_components_cpu
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch.nn import functional as F  # noqa: N812
from torchmetrics import Metric
from torchmetrics.classification import BinaryAUROC, BinaryAveragePrecision, BinaryPrecisionRecallCurve

logger = logging.getLogger(__name__)

FPR_LIMIT = 0.3
"""False positive rate of pixels up to which the per-region overlap is integrated, 0..1."""

WEIGHT = 2**40
"""Weight of a region. Sums of whole numbers are the same in any order, and so on any device."""

IMAGE = ("pred_score", "gt_label")
PIXEL = ("anomaly_map", "gt_mask")
"""Names of the scores, 0..1, and of the labels, in a batch."""

DROPPED_BITS = 12
HALF_BINS = (int(torch.tensor(0.5).view(torch.int32)) >> DROPPED_BITS) + 1
BINS = 2 * HALF_BINS
"""Fine bins in which scores are counted, so that memory does not grow with the number of images."""


def to_bins(scores: torch.Tensor) -> torch.Tensor:
    """Map scores to bins in their order, so finely that 2048 bins lie between a small probability and its double.

    Args:
        scores (torch.Tensor): Probabilities, of any shape. What rounding put beyond 0 or 1 counts as 0 or 1.

    Returns:
        torch.Tensor: Bins of the same shape, from 0 to ``BINS - 1``; as fine near 1 as near 0.
    """
    scores = scores.float().clamp(0, 1).abs()  # -0 is 0
    # The bits of positive floating-point numbers are in the order of the numbers.
    distance = torch.minimum(scores, 1 - scores).view(torch.int32) >> DROPPED_BITS
    return torch.where(scores < 0.5, distance, BINS - 1 - distance)  # noqa: PLR2004


class _Gathered(BinaryPrecisionRecallCurve):
    """Keeps scores and labels in one type, so that they can be gathered from processes that have none."""

    def update(self, preds: torch.Tensor, target: torch.Tensor) -> None:
        """Take in scores and labels, ``[B]``. What rounding put beyond 0 or 1 counts as 0 or 1."""
        super().update(preds.to(self.dtype).clamp(0, 1), target.to(self.dtype))


class ImageAUROC(AnomalibMetric, _Gathered, BinaryAUROC):  # type: ignore[misc] # anomalib takes batches
    """Area under the ROC curve of the image scores.

    Example:
        >>> metric = ImageAUROC()
        >>> metric.update(batch)  # with pred_score, 0..1, and gt_label  # doctest: +SKIP
    """

    def __init__(self) -> None:
        super().__init__(IMAGE, validate_args=False)
        self.name = "image_AUROC"


class ImageAUPR(AnomalibMetric, _Gathered, BinaryAveragePrecision):  # type: ignore[misc] # anomalib takes batches
    """Average precision of the image scores.

    Example:
        >>> metric = ImageAUPR()
        >>> metric.update(batch)  # with pred_score, 0..1, and gt_label  # doctest: +SKIP
    """

    def __init__(self) -> None:
        super().__init__(IMAGE, validate_args=False)
        self.name = "image_AUPR"


class _PixelCurve(Metric):
    """Area under the curve of what is found of the anomalous pixels against the false positive rate.

    Args:
        fpr_limit (float): False positive rate up to which the curve is integrated; the area is divided by it.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    anomalous: torch.Tensor
    normal: torch.Tensor

    def __init__(self, fpr_limit: float) -> None:
        super().__init__()
        self.fpr_limit = fpr_limit
        for state in ("anomalous", "normal"):
            self.add_state(state, default=torch.zeros(BINS, dtype=torch.int64), dist_reduce_fx="sum")

    @staticmethod
    @abstractmethod
    def weigh(mask: torch.Tensor) -> torch.Tensor:
        """Give each anomalous pixel its weight, ``[B, H, W]``, int64; others have none."""

    def update(self, anomaly_map: torch.Tensor, mask: torch.Tensor) -> None:
        """Count pixels: their scores, ``[B, H, W]``, by whether they are anomalous, ``[B, H, W]``."""
        mask = mask.bool()
        bins = to_bins(anomaly_map).flatten()
        self.anomalous.index_add_(0, bins, self.weigh(mask).flatten())
        self.normal.index_add_(0, bins, (~mask).long().flatten())

    def compute(self) -> torch.Tensor:
        """Compute the area from the counts of all processes.

        Returns:
            torch.Tensor: The area, 0..1; NaN where all is normal, or all anomalous.
        """
        found, false = (_cumulate(state) for state in (self.anomalous, self.normal))
        inside = false <= self.fpr_limit
        end = int(inside.sum())
        if end < len(false):  # the last piece of the curve, up to the limit
            share = (self.fpr_limit - false[end - 1]) / (false[end] - false[end - 1])
            last = found[end - 1] + share * (found[end] - found[end - 1])
            found = torch.cat([found[:end], last[None]])
            false = torch.cat([false[:end], torch.tensor([self.fpr_limit], dtype=false.dtype)])
        return (torch.trapezoid(found, false) / self.fpr_limit).float().to(self.device)


def _cumulate(counts: torch.Tensor) -> torch.Tensor:
    """Give the part of the counts that lies above each threshold, from the highest down, beginning with 0."""
    sums = torch.cumsum(counts.cpu().flip(0), dim=0).double()
    return torch.cat([sums.new_zeros(1), sums / sums[-1]])


class PixelAUROC(AnomalibMetric, _PixelCurve):  # type: ignore[misc] # anomalib takes batches
    """Area under the ROC curve of all pixels, in memory that does not grow.

    Example:
        >>> metric = PixelAUROC()
        >>> metric.update(batch)  # with anomaly_map, 0..1, and gt_mask  # doctest: +SKIP
    """

    def __init__(self) -> None:
        super().__init__(PIXEL, fpr_limit=1.0)
        self.name = "pixel_AUROC"

    @staticmethod
    def weigh(mask: torch.Tensor) -> torch.Tensor:
        """Give each anomalous pixel the same weight."""
        return mask.long()


class PixelAUPRO(AnomalibMetric, _PixelCurve):  # type: ignore[misc] # anomalib takes batches
    """Area under the curve of the mean overlap with each anomalous region, in memory that does not grow.

    The curve is taken against the false positive rate of the pixels up to 0.3, and the area divided by that. A region
    is a connected part of an image's mask; corners connect.

    Example:
        >>> metric = PixelAUPRO()
        >>> metric.update(batch)  # with anomaly_map, 0..1, and gt_mask  # doctest: +SKIP
    """

    def __init__(self) -> None:
        super().__init__(PIXEL, fpr_limit=FPR_LIMIT)
        self.name = "pixel_AUPRO"

    @staticmethod
    def weigh(mask: torch.Tensor) -> torch.Tensor:
        """Share the weight of each connected region among its pixels; corners connect."""
        weights = torch.zeros_like(mask, dtype=torch.int64)
        anomalous = mask.flatten(1).any(dim=1)
        if anomalous.any():
            # A column of background, for a mask without any: anomalib finds no region in it.
            padded = F.pad(mask[anomalous, None].float().cpu(), (0, 1))
            regions = connected_components_cpu(padded)[:, 0, :, :-1].to(mask.device)
            sizes = torch.bincount(regions.flatten())
            shares = WEIGHT // sizes.clamp(min=1)
            shares[0] = 0  # not anomalous
            weights[anomalous] = shares[regions]
        return weights


class LabelCounts(Metric):
    """Counts of normal and anomalous images and pixels, on all processes."""

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
