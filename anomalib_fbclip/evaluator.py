# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The paper's four metrics: how a model ranks images and pixels.

Anomalib's metrics of pixels keep every score until the end, and then sort them: for a test set of 1000 images of 518 x
518 pixels, almost 20 GB. Those of this module count scores in fine bins instead, so their memory does not grow.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from anomalib.metrics import AUPR, AUROC, AnomalibMetric, Evaluator
from anomalib.utils.cv import connected_components_cpu
from lightning.pytorch import Callback
from torchmetrics import Metric

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


class _PixelCurve(Metric, ABC):
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
        """Count the pixels of a batch.

        Args:
            anomaly_map (torch.Tensor): Probability of each pixel to be anomalous, ``[B, H, W]``.
            mask (torch.Tensor): Whether it is, bool ``[B, H, W]``.
        """
        bins = to_bins(anomaly_map).flatten()
        mask = mask.bool()
        self.anomalous.index_add_(0, bins, self.weigh(mask).flatten())
        self.normal.index_add_(0, bins, (~mask).long().flatten())

    def compute(self) -> torch.Tensor:
        """Compute the area.

        Returns:
            torch.Tensor: Area, 0..1; NaN where no pixel is anomalous, or none normal.
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


class _PixelAUROC(_PixelCurve):
    @staticmethod
    def weigh(mask: torch.Tensor) -> torch.Tensor:
        return mask.long()


class _PixelAUPRO(_PixelCurve):
    @staticmethod
    def weigh(mask: torch.Tensor) -> torch.Tensor:
        """Share the weight of each connected region among its pixels; corners connect."""
        weights = torch.zeros_like(mask, dtype=torch.int64)
        anomalous = mask.flatten(1).any(dim=1)
        if anomalous.any():
            regions = connected_components_cpu(mask[anomalous, None].float().cpu())[:, 0].to(mask.device)
            sizes = torch.bincount(regions.flatten())
            shares = WEIGHT // sizes
            shares[0] = 0  # not anomalous
            weights[anomalous] = shares[regions]
        return weights


class PixelAUROC(AnomalibMetric, _PixelAUROC):  # type: ignore[misc]
    """Area under the ROC curve of all pixels, in memory that does not grow.

    It is left out where the data has no masks.

    Example:
        >>> metric = PixelAUROC()
        >>> metric.update(batch)  # with anomaly_map, 0..1, and gt_mask  # doctest: +SKIP
    """

    def __init__(self) -> None:
        super().__init__(fields=["anomaly_map", "gt_mask"], strict=False, fpr_limit=1.0)
        self.name = "pixel_AUROC"


class PixelAUPRO(AnomalibMetric, _PixelAUPRO):  # type: ignore[misc]
    """Area under the curve of the mean overlap with each anomalous region, in memory that does not grow.

    The curve is taken against the false positive rate of the pixels up to 0.3, and the area divided by that. A region
    is a connected part of an image's mask; corners connect. It is left out where the data has no masks.

    Example:
        >>> metric = PixelAUPRO()
        >>> metric.update(batch)  # with anomaly_map, 0..1, and gt_mask  # doctest: +SKIP
    """

    def __init__(self) -> None:
        super().__init__(fields=["anomaly_map", "gt_mask"], strict=False, fpr_limit=FPR_LIMIT)
        self.name = "pixel_AUPRO"


class RankingEvaluator(Evaluator):
    """Evaluate how a model ranks images and pixels, with the metrics of the paper.

    - ``image_AUROC``: area under the ROC curve of the image scores
    - ``image_AUPR``: average precision of the image scores
    - ``pixel_AUROC``: area under the ROC curve of the anomaly maps
    - ``pixel_AUPRO``: area under the curve of the mean overlap with each anomalous region, up to a false positive rate
      of 0.3

    All are fractions, 0..1. Those of pixels are left out where the data has no masks.

    Normalisation, which moves the threshold to 0.5 and cuts off what is then beyond 0 and 1, makes ties of the highest
    or lowest scores. :class:`RankingMixin` therefore has this evaluator called before the post-processor.
    """

    def __init__(self) -> None:
        super().__init__(
            test_metrics=[
                AUROC(fields=["pred_score", "gt_label"], prefix="image_"),
                AUPR(fields=["pred_score", "gt_label"], prefix="image_"),
                PixelAUROC(),
                PixelAUPRO(),
            ],
        )


class RankingMixin:
    """What makes :class:`RankingEvaluator` the default evaluator of one of anomalib's models."""

    @staticmethod
    def configure_evaluator() -> Evaluator:
        """Configure the default evaluator: the paper's four metrics.

        Returns:
            Evaluator: The evaluator.
        """
        return RankingEvaluator()

    def configure_callbacks(self) -> Sequence[Callback]:
        """Have the default evaluator called before the post-processor, which changes the scores.

        Returns:
            Sequence[Callback]: Those of the pre-processor, post-processor, evaluator and visualizer that are callbacks.
        """
        callbacks = super().configure_callbacks()  # type: ignore[misc]
        return sorted(callbacks, key=lambda callback: not isinstance(callback, RankingEvaluator))
