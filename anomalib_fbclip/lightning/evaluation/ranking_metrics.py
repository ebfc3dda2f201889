# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The paper's four metrics: how a model ranks images and pixels.

Those of images are torchmetrics'. Those of pixels are our own: the libraries' keep every score until the end, for 1000
images of 518 x 518 pixels almost 20 GB, or compare each with every bin. Here scores are counted in fine bins, so that
memory does not grow.

All hold on several processes, of which some may have seen images of one label only, or none. They are defined where
there are both labels.
"""

from abc import abstractmethod

import torch
from anomalib.metrics import AnomalibMetric
from anomalib.utils.cv import connected_components_cpu
from torch.nn import functional as F  # noqa: N812
from torchmetrics import Metric
from torchmetrics.classification import BinaryAUROC, BinaryAveragePrecision, BinaryPrecisionRecallCurve

from .bins import BINS, to_bins

FPR_LIMIT = 0.3
"""False positive rate of pixels up to which the per-region overlap is integrated, 0..1."""

WEIGHT = 2**40
"""Weight of a region. Sums of whole numbers are the same in any order, and so on any device."""

IMAGE = ("pred_score", "gt_label")
PIXEL = ("anomaly_map", "gt_mask")
"""Names of the scores, 0..1, and of the labels, in a batch."""


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
