# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The paper's four metrics of how a model ranks images and pixels, and the evaluator that logs them.

The metrics of images come from torchmetrics. The libraries' metrics of pixels keep every score until the end, almost
20 GB for 1000 images of 518 x 518 pixels, or compare each with every bin. These count scores in fine bins. All work on
several processes, even if a process has seen images of only one label, or none.
"""

import logging
from abc import abstractmethod
from collections.abc import Sequence
from typing import cast

import torch
from anomalib.data import Batch
from anomalib.metrics import AnomalibMetric, Evaluator
from anomalib.utils.cv import connected_components_cpu
from lightning.pytorch import LightningModule, Trainer
from torch.nn import functional as F  # noqa: N812
from torchmetrics import Metric
from torchmetrics.classification import BinaryAUROC, BinaryAveragePrecision, BinaryPrecisionRecallCurve

logger = logging.getLogger(__name__)

FPR_LIMIT = 0.3
"""False positive rate of pixels up to which the per-region overlap is integrated, 0..1."""

WEIGHT = 2**40
"""Weight of a region, a whole number, so that sums do not depend on the order or the device."""

IMAGE = ("pred_score", "gt_label")
PIXEL = ("anomaly_map", "gt_mask")
"""Fields of a batch with scores, 0..1, and labels."""

DROPPED_BITS = 12
HALF_BINS = (int(torch.tensor(0.5).view(torch.int32)) >> DROPPED_BITS) + 1
BINS = 2 * HALF_BINS
"""Number of bins in which scores are counted."""


def to_bins(scores: torch.Tensor) -> torch.Tensor:
    """Map scores of any shape, clipped to 0..1, to bins in their order, from 0 to ``BINS - 1``.

    There are 2048 bins between a small score and its double, and as many as near 0 lie near 1.
    """
    scores = scores.float().clamp(0, 1).abs()  # -0 is 0
    # The bits of positive floating-point numbers are in the order of the numbers.
    distance = torch.minimum(scores, 1 - scores).view(torch.int32) >> DROPPED_BITS
    return torch.where(scores < 0.5, distance, BINS - 1 - distance)  # noqa: PLR2004


class _Gathered(BinaryPrecisionRecallCurve):
    """Keeps scores and labels in one type, so that processes without any can take part in the gathering."""

    def update(self, preds: torch.Tensor, target: torch.Tensor) -> None:
        """Add scores, clipped to 0..1, and labels of shape ``[B]``."""
        super().update(preds.to(self.dtype).clamp(0, 1), target.to(self.dtype))


class ImageAUROC(AnomalibMetric, _Gathered, BinaryAUROC):  # type: ignore[misc] # anomalib takes batches
    """Area under the ROC curve of the image scores."""

    def __init__(self) -> None:
        super().__init__(IMAGE, validate_args=False)
        self.name = "image_AUROC"


class ImageAUPR(AnomalibMetric, _Gathered, BinaryAveragePrecision):  # type: ignore[misc] # anomalib takes batches
    """Average precision of the image scores."""

    def __init__(self) -> None:
        super().__init__(IMAGE, validate_args=False)
        self.name = "image_AUPR"


class _PixelCurve(Metric):
    """Area under the curve of the found share of anomalous pixels against the false positive rate.

    The curve is integrated up to a limit of the false positive rate, and the area is divided by that.
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
        """Weigh the anomalous pixels, int64 ``[B, H, W]``; others have weight 0."""

    def update(self, anomaly_map: torch.Tensor, mask: torch.Tensor) -> None:
        """Count the scores of anomalous and normal pixels: map and mask of shape ``[B, H, W]``."""
        mask = mask.bool()
        bins = to_bins(anomaly_map).flatten()
        self.anomalous.index_add_(0, bins, self.weigh(mask).flatten())
        self.normal.index_add_(0, bins, (~mask).long().flatten())

    def compute(self) -> torch.Tensor:
        """Compute the area, 0..1; NaN if all pixels are normal, or all anomalous."""
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
    """Compute the share of the counts above each threshold, from the highest threshold down, starting with 0."""
    sums = torch.cumsum(counts.cpu().flip(0), dim=0).double()
    return torch.cat([sums.new_zeros(1), sums / sums[-1]])


class PixelAUROC(AnomalibMetric, _PixelCurve):  # type: ignore[misc] # anomalib takes batches
    """Area under the ROC curve of all pixels, with constant memory."""

    def __init__(self) -> None:
        super().__init__(PIXEL, fpr_limit=1.0)
        self.name = "pixel_AUROC"

    @staticmethod
    def weigh(mask: torch.Tensor) -> torch.Tensor:
        """Weigh all anomalous pixels alike."""
        return mask.long()


class PixelAUPRO(AnomalibMetric, _PixelCurve):  # type: ignore[misc] # anomalib takes batches
    """Area under the curve of the mean overlap with each anomalous region, with constant memory.

    The curve runs over the false positive rate of the pixels up to 0.3, and the area is divided by that. A region is a
    connected part of an image's mask; corners connect.
    """

    def __init__(self) -> None:
        super().__init__(PIXEL, fpr_limit=FPR_LIMIT)
        self.name = "pixel_AUPRO"

    @staticmethod
    def weigh(mask: torch.Tensor) -> torch.Tensor:
        """Divide the weight of each connected region among its pixels; corners connect."""
        weights = torch.zeros_like(mask, dtype=torch.int64)
        anomalous = mask.flatten(1).any(dim=1)
        if anomalous.any():
            # anomalib finds no region in a mask without background: add a column.
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
        """Count the labels and the mask pixels of a batch, if it has them."""
        for row, labels in enumerate((batch.gt_label, batch.gt_mask)):
            if labels is not None:
                self.counts[row] += torch.stack([(labels == value).sum() for value in (0, 1)])

    def compute(self) -> torch.Tensor:
        """Return the counts of normal and anomalous images, and of normal and anomalous pixels, ``[2, 2]``."""
        return self.counts


class RankingEvaluator(Evaluator):
    """Evaluator of how a model ranks images and pixels, with the paper's metrics.

    - ``image_AUROC``: area under the ROC curve of the image scores
    - ``image_AUPR``: average precision of the image scores
    - ``pixel_AUROC``: area under the ROC curve of the anomaly maps
    - ``pixel_AUPRO``: area under the curve of the mean overlap with each anomalous region, up to a false positive rate
      of 0.3

    All are fractions, 0..1. Metrics that the data does not define are left out with a warning: those of images if all
    are normal or all anomalous, and those of pixels if the masks are empty or missing.

    FBClip calls this evaluator before the post-processor, because normalization clips scores to 0..1 and so makes the
    highest or lowest ones equal.
    """

    def __init__(self) -> None:
        # The scores of the images are few, and can stay on the GPUs.
        super().__init__(test_metrics=[ImageAUROC(), ImageAUPR(), PixelAUROC(), PixelAUPRO()], compute_on_cpu=False)
        self.label_counts = LabelCounts()

    @property
    def _metrics(self) -> Sequence[AnomalibMetric]:
        return cast("Sequence[AnomalibMetric]", self.test_metrics)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reset the metrics: Lightning resets only those that it logged."""
        for metric in (*self.test_metrics, self.label_counts):
            metric.reset()

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: Batch, *args, **kwargs
    ) -> None:
        """Add the scores and labels of a batch, if it has them."""
        for metric in self._metrics:
            if all(getattr(batch, field) is not None for field in metric.fields):
                metric.update(batch)
        self.label_counts.update(batch)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the metrics that the test images define, the same on all processes."""
        images, pixels = self.label_counts.compute().tolist()
        counts = {"gt_label": images, "gt_mask": pixels}
        undefined = []
        for metric in self._metrics:
            if not all(counts[metric.fields[-1]]):
                undefined.append(metric.name)
            elif trainer.barebones:  # Lightning logs nothing then; anomalib's evaluator does the same
                value = metric.compute()
                trainer.callback_metrics[metric.name] = value
                trainer.logged_metrics[metric.name] = value
            else:
                pl_module.log(metric.name, cast("Metric", metric))
        if undefined and trainer.is_global_zero:
            names = f"{', '.join(undefined[:-1])} and {undefined[-1]}"  # those of images or of pixels are two
            logger.warning("%s: %s are left out.", describe_labels(images, pixels), names)


def describe_labels(images: Sequence[int], pixels: Sequence[int]) -> str:
    """Say what test images lack, in a sentence without a full stop.

    The counts are of normal and of anomalous images, and of normal and of anomalous pixels of the masks.
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
