# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The paper's four metrics: how a model ranks images and pixels.

Anomalib's metrics of pixels keep every score until the end, and then sort them: for a test set of 1000 images of 518 x
518 pixels, almost 20 GB. Those of this module count scores in fine bins instead, so their memory does not grow.

All hold on several processes, of which some may have seen images of one label only, or none.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from anomalib.data import Batch
from anomalib.metrics import AnomalibMetric
from anomalib.utils.cv import connected_components_cpu
from torch.nn import functional as F  # noqa: N812
from torchmetrics import Metric
from torchmetrics.functional.classification import binary_auroc, binary_average_precision
from torchmetrics.utilities.data import dim_zero_cat

from .bins import BINS, to_bins

FPR_LIMIT = 0.3
"""False positive rate of pixels up to which the per-region overlap is integrated, 0..1."""

WEIGHT = 2**40
"""Weight of a region. Sums of whole numbers are the same in any order, and so on any device."""


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
