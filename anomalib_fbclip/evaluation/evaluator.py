# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The paper's four metrics: how a model ranks images and pixels.

Anomalib's metrics of pixels keep every score until the end, and then sort them: for a test set of 1000 images of 518 x
518 pixels, almost 20 GB. Those of this module count scores in fine bins instead, so their memory does not grow.

All hold on several processes, of which some may have seen images of one label only, or none.
"""

import logging
from abc import ABC, abstractmethod
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
from torchmetrics.functional.classification import binary_auroc, binary_average_precision
from torchmetrics.utilities.data import dim_zero_cat

logger = logging.getLogger(__name__)

FPR_LIMIT = 0.3
"""False positive rate of pixels up to which the per-region overlap is integrated, 0..1."""

WEIGHT = 2**40
"""Weight of a region. Sums of whole numbers are the same in any order, and so on any device."""

DROPPED_BITS = 12
HALF_BINS = (int(torch.tensor(0.5).view(torch.int32)) >> DROPPED_BITS) + 1
BINS = 2 * HALF_BINS


def to_bins(scores: torch.Tensor) -> torch.Tensor:
    """Number scores in their order, so finely that 2048 bins lie between a small probability and its double.

    Args:
        scores (torch.Tensor): Probabilities, of any shape. What rounding put beyond 0 or 1 counts as 0 or 1.

    Returns:
        torch.Tensor: Bins of the same shape, from 0 to ``BINS - 1``; as fine near 1 as near 0.
    """
    scores = scores.float().clamp(0, 1)
    # The bits of positive floating-point numbers are in the order of the numbers.
    distance = torch.minimum(scores, 1 - scores).view(torch.int32) >> DROPPED_BITS
    return torch.where(scores < 0.5, distance, BINS - 1 - distance)  # noqa: PLR2004


class RankingMetric(AnomalibMetric, Metric, ABC):
    """How normal and anomalous scores lie in order.

    Batches without one of the fields are left out.

    Args:
        fields (Sequence[str]): Names of the scores, 0..1, and of the labels, in a batch.
        name (str): Name of the metric in results.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    batches: torch.Tensor

    def __init__(self, fields: Sequence[str], name: str) -> None:
        super().__init__(fields)
        self.name = name
        self.add_state("batches", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, batch: Batch) -> None:
        """Take in the scores of a batch.

        Args:
            batch (Batch): Scores and labels.
        """
        scores, labels = (getattr(batch, field) for field in self.fields)
        if scores is not None and labels is not None:
            self.batches += 1
            self.add(scores, labels.bool())

    @abstractmethod
    def add(self, scores: torch.Tensor, labels: torch.Tensor) -> None:
        """Take in scores, and whether each is of something anomalous."""

    @abstractmethod
    def measure(self) -> torch.Tensor:
        """Compute the metric from what was taken in."""

    def compute(self) -> torch.Tensor | None:  # type: ignore[override] # anomalib's gives None, too
        """Compute the metric from what all processes have taken in.

        Returns:
            torch.Tensor | None: The metric, 0..1; NaN where all is normal, or all anomalous. ``None``: no batch had the
                fields.
        """
        return self.measure() if self.batches else None


class _ImageMetric(RankingMetric):
    """Metric of image scores, which are few, so that each is kept."""

    # One-dimensional and of the metric's type: such states can be gathered from processes that have none.
    anomalous: list[torch.Tensor]
    normal: list[torch.Tensor]

    def __init__(self, name: str) -> None:
        super().__init__(["pred_score", "gt_label"], name)
        for state in ("anomalous", "normal"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    @staticmethod
    @abstractmethod
    def rank(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Compute the metric of scores of both labels."""

    def add(self, scores: torch.Tensor, labels: torch.Tensor) -> None:
        """Keep scores, ``[B]``, by their labels, bool ``[B]``."""
        scores = scores.to(self.dtype).clamp(0, 1)
        self.anomalous.append(scores[labels])
        self.normal.append(scores[~labels])

    def measure(self) -> torch.Tensor:
        """Compute the metric from all scores."""
        anomalous, normal = dim_zero_cat(self.anomalous), dim_zero_cat(self.normal)
        if not len(anomalous) or not len(normal):
            return anomalous.new_tensor(torch.nan)
        labels = torch.cat([torch.ones_like(anomalous), torch.zeros_like(normal)])
        return self.rank(torch.cat([anomalous, normal]), labels.int())


class ImageAUROC(_ImageMetric):
    """Area under the ROC curve of the image scores.

    Example:
        >>> metric = ImageAUROC()
        >>> metric.update(batch)  # with pred_score, 0..1, and gt_label  # doctest: +SKIP
    """

    def __init__(self) -> None:
        super().__init__("image_AUROC")

    @staticmethod
    def rank(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Compute the area."""
        return binary_auroc(scores, labels)


class ImageAUPR(_ImageMetric):
    """Average precision of the image scores.

    Example:
        >>> metric = ImageAUPR()
        >>> metric.update(batch)  # with pred_score, 0..1, and gt_label  # doctest: +SKIP
    """

    def __init__(self) -> None:
        super().__init__("image_AUPR")

    @staticmethod
    def rank(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Compute the precision."""
        return binary_average_precision(scores, labels)


class _PixelCurve(RankingMetric):
    """Area under the curve of what is found of the anomalous pixels against the false positive rate.

    Args:
        name (str): Name of the metric in results.
        fpr_limit (float): False positive rate up to which the curve is integrated; the area is divided by it.
    """

    anomalous: torch.Tensor
    normal: torch.Tensor

    def __init__(self, name: str, fpr_limit: float) -> None:
        super().__init__(["anomaly_map", "gt_mask"], name)
        self.fpr_limit = fpr_limit
        for state in ("anomalous", "normal"):
            self.add_state(state, default=torch.zeros(BINS, dtype=torch.int64), dist_reduce_fx="sum")

    @staticmethod
    @abstractmethod
    def weigh(mask: torch.Tensor) -> torch.Tensor:
        """Give each anomalous pixel its weight, ``[B, H, W]``, int64; others have none."""

    def add(self, scores: torch.Tensor, labels: torch.Tensor) -> None:
        """Count pixels: their scores, ``[B, H, W]``, by their labels, bool ``[B, H, W]``."""
        bins = to_bins(scores).flatten()
        self.anomalous.index_add_(0, bins, self.weigh(labels).flatten())
        self.normal.index_add_(0, bins, (~labels).long().flatten())

    def measure(self) -> torch.Tensor:
        """Compute the area from all counts."""
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


class PixelAUROC(_PixelCurve):
    """Area under the ROC curve of all pixels, in memory that does not grow.

    Example:
        >>> metric = PixelAUROC()
        >>> metric.update(batch)  # with anomaly_map, 0..1, and gt_mask  # doctest: +SKIP
    """

    def __init__(self) -> None:
        super().__init__("pixel_AUROC", fpr_limit=1.0)

    @staticmethod
    def weigh(mask: torch.Tensor) -> torch.Tensor:
        """Give each anomalous pixel the same weight."""
        return mask.long()


class PixelAUPRO(_PixelCurve):
    """Area under the curve of the mean overlap with each anomalous region, in memory that does not grow.

    The curve is taken against the false positive rate of the pixels up to 0.3, and the area divided by that. A region
    is a connected part of an image's mask; corners connect.

    Example:
        >>> metric = PixelAUPRO()
        >>> metric.update(batch)  # with anomaly_map, 0..1, and gt_mask  # doctest: +SKIP
    """

    def __init__(self) -> None:
        super().__init__("pixel_AUPRO", fpr_limit=FPR_LIMIT)

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
        """Take in the scores and the labels of a batch."""
        super().on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        self.label_counts.update(batch)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the metrics that the test images define; all processes find the same ones."""
        images, pixels = self.label_counts.compute().tolist()
        counts = {"gt_label": images, "gt_mask": pixels}
        undefined = []
        for metric in cast("Sequence[RankingMetric]", self.test_metrics):
            if not all(counts[metric.fields[-1]]):
                undefined.append(metric.name)
            elif trainer.barebones:  # nothing is logged then, so it is done by hand, as in anomalib's evaluator
                value = cast("torch.Tensor", metric.compute())
                trainer.callback_metrics[metric.name] = value
                trainer.logged_metrics[metric.name] = value
            else:
                pl_module.log(metric.name, metric)
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
