# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

r"""Thresholds that are fitted to validation images, away from all values, so that rounding does not change verdicts.

A value is anomalous if it is above its threshold. With

.. math:: F_1(t) = \frac{2 TP(t)}{2 TP(t) + FP(t) + FN(t)},

all thresholds in a gap between two values are equally good, and there may be several such gaps. The threshold is the
middle of the widest one, so that other runtimes, which round differently, give the same verdicts.
"""

from typing import NamedTuple

import torch
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from .evaluation import BINS, to_bins

RESOLUTION = 1e-5
"""Difference below which scores count as equal. Runtimes differ by less than a tenth of it."""

NORMAL_QUANTILE = 0.999
"""Share of the pixels of normal images below the threshold of the map, if there are no masks."""


class FittedThreshold(NamedTuple):
    """Threshold and range of validation images. The tensors are scalars."""

    threshold: torch.Tensor  # NaN if the images don't determine it
    source: str  # "labels", "masks" or "normal images"
    minimum: torch.Tensor
    maximum: torch.Tensor


def best_threshold(
    lowest: torch.Tensor,
    highest: torch.Tensor,
    normal: torch.Tensor,
    anomalous: torch.Tensor,
) -> torch.Tensor:
    """Find the middle of the widest gap with the best F1 score, between two groups of values, or 0 and the first.

    The groups are in rising order. The arguments, of shape ``[N]``, are the lowest and the highest value of each, and
    how many of its values are normal and anomalous; at least one is anomalous.
    """
    found, called = (counts.flip(0).cumsum(0).flip(0).double() for counts in (anomalous, normal + anomalous))
    f1_score = 2 * found / (called + found[0])
    below = torch.cat([highest.new_zeros(1), highest[:-1]])
    gap = torch.where(f1_score == f1_score.max(), lowest - below, -1.0)
    place = gap.argmax()
    return (below[place] + lowest[place]) / 2


class ImageThreshold(Metric):
    """Threshold of image scores.

    With normal and anomalous images it is the middle of the widest gap between two scores with the best F1 score. With
    normal images alone it lies just above all scores.

    Example:
        >>> metric = ImageThreshold()
        >>> metric.update(torch.tensor([0.1, 0.2, 0.8]), torch.tensor([False, False, True]))
        >>> metric.compute().threshold
        tensor(0.5000)
    """

    scores: list[torch.Tensor]
    labels: list[torch.Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("scores", default=[], dist_reduce_fx="cat")
        self.add_state("labels", default=[], dist_reduce_fx="cat")

    def update(self, scores: torch.Tensor, labels: torch.Tensor) -> None:
        """Add the images of a batch.

        Args:
            scores (torch.Tensor): Scores, shape ``[B]``.
            labels (torch.Tensor): Whether images are anomalous, shape ``[B]``.
        """
        self.scores.append(scores.flatten().float())
        self.labels.append(labels.flatten().float())

    def compute(self) -> FittedThreshold | None:
        """Fit the threshold; ``None`` without images."""
        if not len(self.scores):
            return None
        scores, order = dim_zero_cat(self.scores).sort()
        labels = dim_zero_cat(self.labels)[order] > 0
        if labels.any():
            threshold = best_threshold(*_group(scores, labels))
            source = "labels"
        else:
            threshold = scores[-1] + RESOLUTION
            source = "normal images"
        return FittedThreshold(threshold, source, scores[0], scores[-1])


def _group(scores: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Group sorted scores that count as equal. Return lowest and highest scores, and normal and anomalous counts."""
    starts = torch.cat([labels.new_ones(1), scores.diff() > RESOLUTION])
    group = starts.cumsum(0) - 1
    ends = torch.cat([starts[1:], labels.new_ones(1)])
    counts = [torch.bincount(group[chosen], minlength=int(group[-1]) + 1) for chosen in (~labels, labels)]
    return scores[starts], scores[ends], *counts


class PixelThreshold(Metric):
    """Threshold of anomaly maps.

    With masks it is the threshold with the best F1 score of the pixels. Without masks, ``NORMAL_QUANTILE`` of the
    pixels of normal images lie below it. Values are counted in fine bins, so memory does not grow.

    Example:
        >>> metric = PixelThreshold()
        >>> maps = torch.tensor([[[0.1, 0.2], [0.1, 0.8]]])
        >>> metric.update(maps, maps > 0.5, torch.tensor([True]))
        >>> metric.compute().threshold
        tensor(0.5000)
    """

    normal: torch.Tensor
    anomalous: torch.Tensor
    lowest: torch.Tensor
    highest: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        for state in ("normal", "anomalous"):
            self.add_state(state, default=torch.zeros(BINS, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("lowest", default=torch.full((BINS,), torch.inf), dist_reduce_fx="min")
        self.add_state("highest", default=torch.full((BINS,), -torch.inf), dist_reduce_fx="max")

    def update(self, anomaly_map: torch.Tensor, mask: torch.Tensor | None, labels: torch.Tensor) -> None:
        """Add the maps of a batch.

        Args:
            anomaly_map (torch.Tensor): Anomaly maps, shape ``[B, H, W]``.
            mask (torch.Tensor | None): Whether pixels are anomalous, bool ``[B, H, W]``, if that is known.
            labels (torch.Tensor): Whether images are anomalous, shape ``[B]``.
        """
        values = anomaly_map.flatten(1).float()
        bins = to_bins(values).long()
        self.lowest.scatter_reduce_(0, bins.flatten(), values.flatten(), "amin")
        self.highest.scatter_reduce_(0, bins.flatten(), values.flatten(), "amax")
        if mask is None:  # the pixels of an anomalous image are unknown
            is_normal = ~labels.bool().unsqueeze(1).expand_as(bins)
            self.normal.index_add_(0, bins.flatten(), is_normal.long().flatten())
        else:
            mask = mask.flatten(1).bool()
            self.normal.index_add_(0, bins.flatten(), (~mask).long().flatten())
            self.anomalous.index_add_(0, bins.flatten(), mask.long().flatten())

    def compute(self) -> FittedThreshold | None:
        """Fit the threshold, NaN without masks and normal images; ``None`` without maps."""
        occupied = self.lowest.isfinite()
        if not occupied.any():
            return None
        lowest, highest = self.lowest[occupied], self.highest[occupied]
        normal, anomalous = self.normal[occupied], self.anomalous[occupied]
        if anomalous.any():
            threshold = best_threshold(lowest, highest, normal, anomalous)
        elif normal.any():
            place = torch.searchsorted(normal.cumsum(0), NORMAL_QUANTILE * normal.sum())
            threshold = highest[place]
        else:
            threshold = torch.full_like(lowest[0], torch.nan)
        return FittedThreshold(threshold, "masks" if anomalous.any() else "normal images", lowest[0], highest[-1])
