# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Decision by photographs without labels, most of which are good: what most of them share is normal.

The idea is MuSc's (https://arxiv.org/abs/2401.16753, ICLR 2024); distances, merge and calibration are those of
:mod:`~anomalib_fbclip.modeling.few_shot`.
"""

from typing import ClassVar

import torch

from anomalib_fbclip.modeling.precision import full_precision

from .few_shot import FewShot
from .memory_bank import Match, MemoryBank

SAME_PHOTOGRAPH = 0.005
"""Mean distance below which a photograph of the memory is the inspected one itself. Rounding gives 1e-6, also for files
saved again; the most similar parts in a fixture have 0.010."""

LOW, HIGH = 0.1, 0.4
LOW_DEVIATION, HIGH_DEVIATION = -1.2816, -0.2533
"""Quantiles of the scores that set the threshold, which belong to good photographs even if half are defective; and the
standard deviations at which a normal distribution has them."""

LIMIT_DEVIATIONS = 3.0
"""Standard deviations of the threshold above the mean."""

EXPECTED_SPREAD, EXPECTED_WEIGHT = 0.2, 4.0
"""Expected standard deviation of scores as a share of their mean, and its weight in photographs."""

SPLIT_KURTOSIS, SPLIT_RATIO = 2.2, 1.6
"""Scores fall into two groups below this kurtosis, if the third quartile is more than this multiple of the first."""

LEAST_SILHOUETTE, LEAST_SHARE = 0.5, 0.2
"""Smallest silhouette, and smallest share of the smaller group, of photographs that show different things."""

UNALIKE_DISTANCE = 0.25
"""Median distance of photographs from their second-nearest one above which they are not alike."""

COMPARED_ROWS = 100
"""Largest number of rows of a photograph that are compared for the distance between photographs."""


class MutualMemory(MemoryBank):
    r"""Patches of photographs without labels.

    A photograph is not compared with itself, and one other photograph may have the same defect. So the distance of a
    patch :math:`x` is that from the second-nearest photograph. With rows :math:`m \in M_j` of photograph :math:`j`:

    .. math::

        d_j = 1 - \max_{m \in M_j} x^\top m, \qquad d = \operatorname{second\,smallest}_{j \ne \text{own}} d_j

    The photograph itself is recognized by its rows: their mean distance from the nearest patch is below 0.005. With
    tiles, the nearest quarter of a view's average number of rows counts.
    """

    def forward(self, tokens: torch.Tensor) -> Match:
        """Find the nearest row of the second-nearest photograph of each patch. See :meth:`MemoryBank.forward`."""
        rows = self.patches.shape[1]
        with full_precision(tokens.device):
            distances = (tokens @ -self.patches.flatten(0, 1).mT + 1).unflatten(-1, (-1, rows))
            nearest_patches = distances.amin(dim=1)
            if self.views > 1:  # the memory may keep fewer rows of a plain view than its share
                share = max(rows // self.views // 4, 1)
                nearest_patches = nearest_patches.topk(share, largest=False).values
            is_own = nearest_patches.mean(dim=-1) < SAME_PHOTOGRAPH
            nearest, row = distances.min(dim=-1)
            # Distances are at most 2, so the photograph itself comes last.
            photograph = (nearest + 4 * is_own.unsqueeze(1)).topk(2, largest=False).indices[..., 1:]
            distance, row = (values.gather(-1, photograph).squeeze(-1) for values in (nearest, row))
            return Match(distance, photograph.squeeze(-1) * rows + row)


def folder_limit(scores: torch.Tensor) -> torch.Tensor:
    r"""Compute the limit below which good photographs are expected, if at most half are defective.

    The lower quantiles :math:`q` belong to good photographs. They give mean and standard deviation, which is mixed with
    the expected one:

    .. math::

        \hat\sigma = \frac{q_{0.4} - q_{0.1}}{1.028}, \qquad \mu = q_{0.4} + 0.253\,\hat\sigma, \qquad
        \theta = \mu + 3 \sqrt{\frac{k \hat\sigma^2 + 4 (0.2 \mu)^2}{k + 4}}

    If the scores fall into two groups (:func:`is_split`), the limit is at most the value between them.

    Args:
        scores (torch.Tensor): Leave-one-out scores of the photographs, shape ``[k]``.

    Returns:
        torch.Tensor: The limit, a scalar.
    """
    low, high = scores.quantile(LOW), scores.quantile(HIGH)
    std = (high - low) / (HIGH_DEVIATION - LOW_DEVIATION)
    mean = (high - HIGH_DEVIATION * std).clamp(min=1e-3)
    squares = len(scores) * std.square() + EXPECTED_WEIGHT * (EXPECTED_SPREAD * mean).square()
    limit = mean + LIMIT_DEVIATIONS * (squares / (len(scores) + EXPECTED_WEIGHT)).sqrt()
    return torch.minimum(limit, _between_groups(scores)) if is_split(scores) else limit


def _between_groups(scores: torch.Tensor) -> torch.Tensor:
    """Return the value between two groups of scores, by Otsu's method."""
    ordered = scores.sort().values
    number = torch.arange(1, len(ordered), device=scores.device)
    below = ordered.cumsum(0)[:-1] / number
    above = (ordered.sum() - ordered.cumsum(0)[:-1]) / (len(ordered) - number)
    index = int((number * (len(ordered) - number) * (above - below).square()).argmax())
    return (ordered[index] + ordered[index + 1]) / 2


class MutualScoring(FewShot):
    """Decides by photographs without labels, together with the text. See :class:`FewShot`."""

    memory_bank: ClassVar[type[MemoryBank]] = MutualMemory
    limit = staticmethod(folder_limit)


def is_split(scores: torch.Tensor) -> bool:
    """Return whether scores, ``[k]``, fall into two groups. Then about half of the photographs may be defective."""
    centered = scores - scores.mean()
    kurtosis = centered.pow(4).mean() / centered.square().mean().square().clamp(min=1e-12)
    ratio = scores.quantile(0.75) / scores.quantile(0.25).clamp(min=1e-6)
    return bool(kurtosis < SPLIT_KURTOSIS and ratio > SPLIT_RATIO)


def photograph_distances(memory: MemoryBank) -> torch.Tensor:
    """Compute the distances between photographs.

    Args:
        memory (MemoryBank): Their patches.

    Returns:
        torch.Tensor: Mean distance of the patches of one from the nearest of another, averaged over both directions,
            shape ``[k, k]``.
    """
    patches = memory.patches[:, :: -(-memory.patches.shape[1] // COMPARED_ROWS)]
    with full_precision(patches.device):
        others = patches.flatten(0, 1).mT
        distances = torch.stack([
            (1 - (own @ others).unflatten(-1, patches.shape[:2]).amax(dim=-1)).mean(dim=0) for own in patches
        ])
    return ((distances + distances.mT) / 2).fill_diagonal_(0)


def are_unalike(distances: torch.Tensor) -> bool:
    """Return whether most photographs have fewer than two others like them.

    Args:
        distances (torch.Tensor): :func:`photograph_distances` of 3 photographs or more.
    """
    return bool(distances.sort(dim=1).values[:, 2].median() > UNALIKE_DISTANCE)


def find_kinds(distances: torch.Tensor) -> tuple[int, int] | None:
    """Find out whether photographs show two different things: two groups around one photograph each, clearly apart.

    Args:
        distances (torch.Tensor): :func:`photograph_distances` of the photographs.

    Returns:
        tuple[int, int] | None: Number of photographs of each group; ``None`` if there is one.
    """
    count = len(distances)
    first, second = torch.combinations(torch.arange(count)).unbind(dim=1)
    best = torch.minimum(distances[first], distances[second]).sum(dim=1).argmin()
    is_second = distances[second[best]] < distances[first[best]]
    sizes = count - int(is_second.sum()), int(is_second.sum())
    if min(sizes) < max(LEAST_SHARE * count, 2):
        return None
    groups = torch.stack([~is_second, is_second]).to(distances.dtype)
    sums = groups @ distances
    own, other = is_second.long(), 1 - is_second.long()
    number = groups.sum(dim=1)
    within = sums.gather(0, own[None])[0] / (number[own] - 1)
    between = sums.gather(0, other[None])[0] / number[other]
    silhouette = ((between - within) / torch.maximum(between, within).clamp(min=1e-6)).mean()
    return sizes if silhouette > LEAST_SILHOUETTE else None
