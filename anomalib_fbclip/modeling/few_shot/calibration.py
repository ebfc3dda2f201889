# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Calibration by comparing good parts with each other: standard deviations, and probabilities with threshold 0.5."""

import torch
from torch import nn

EXPECTED_SPREAD, EXPECTED_WEIGHT = 0.1, 2.0
"""Expected standard deviation of good parts' scores as a share of their mean, and its weight in photographs. With few
photographs, it keeps the threshold away from their scores."""

STEEPNESS = 4.0
"""Logit of the threshold minus that of a place like good parts, which thus has a probability of 0.018."""

OUTLIER_DEVIATIONS, OUTLIER_MINIMUM = 10.0, 4
"""Standard deviations above the mean of the others at which a photograph is an outlier, and the smallest number of
photographs for this test."""


class Spread(nn.Module):
    r"""Measures values in standard deviations from the mean of good parts.

    .. math::

        z(v) = \frac{v - \mu}{\sigma}

    Args:
        mean (torch.Tensor): Mean of the values of good parts, a scalar.
        std (torch.Tensor): Their standard deviation, a scalar.

    Example:
        >>> spread = Spread.of(torch.tensor([1.0, 2.0, 3.0]))
        >>> spread(torch.tensor(4.0))
        tensor(2.)
    """

    def __init__(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        super().__init__()
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    @classmethod
    def of(cls, values: torch.Tensor) -> "Spread":
        """Measure the values of the patches of good parts, of any shape."""
        return cls(values.mean(), values.std().clamp(min=1e-6))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Standardize values of any shape."""
        return (values - self.mean) / self.std


class Calibration(nn.Module):
    r"""Turns values into probabilities: 0.5 is the largest value expected of good parts.

    .. math::

        p(v) = \operatorname{sigmoid}\left(4 \left(\frac{v}{\theta} - 1\right)\right)

    The order of values stays the same. Pixels and images have the same threshold :math:`\theta`, the
    :func:`prediction_limit` of the scores of good parts.

    Args:
        threshold (torch.Tensor): The limit in standard deviations, a scalar.

    Example:
        >>> Calibration(torch.tensor(3.0))(torch.tensor([0.0, 3.0, 6.0]))
        tensor([0.0180, 0.5000, 0.9820])
    """

    def __init__(self, threshold: torch.Tensor) -> None:
        super().__init__()
        self.threshold: torch.Tensor
        self.register_buffer("threshold", threshold, persistent=False)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Turn values in standard deviations, of pixels or of images, into probabilities of the same shape."""
        return (STEEPNESS * (values / self.threshold - 1)).sigmoid()


def prediction_limit(scores: torch.Tensor) -> torch.Tensor:
    r"""Compute the limit below which the score of a good part is expected: one standard deviation above the mean.

    .. math::

        \theta = \bar{s} + \sqrt{\frac{\sum_i (s_i - \bar{s})^2 + 2 (0.1 \bar{s})^2}{k - 1 + 2}}

    Args:
        scores (torch.Tensor): Scores of good parts, shape ``[k]``.

    Returns:
        torch.Tensor: The limit, a scalar.
    """
    mean = scores.mean().clamp(min=1e-3)
    squares = (scores - mean).square().sum() + EXPECTED_WEIGHT * (EXPECTED_SPREAD * mean).square()
    return mean + (squares / (len(scores) - 1 + EXPECTED_WEIGHT)).sqrt()


def find_outliers(scores: torch.Tensor) -> list[int]:
    r"""Find photographs that are unlike the others.

    Each score is compared with the other scores:

    .. math::

        s_i > \bar{s} + 10 \sqrt{\frac{\sum_{j \ne i} (s_j - \bar{s})^2 + 2 (0.1 \bar{s})^2}{k - 2}}

    Args:
        scores (torch.Tensor): Leave-one-out scores of the photographs, shape ``[k]``.

    Returns:
        list[int]: Their indices; none if there are too few photographs to tell.

    Example:
        >>> find_outliers(torch.tensor([1.0, 1.1, 0.9, 1.0, 4.0]))
        [4]
    """
    count = len(scores)
    if count < OUTLIER_MINIMUM:
        return []
    others = scores.expand(count, count)[~torch.eye(count, dtype=torch.bool, device=scores.device)].view(count, -1)
    mean = others.mean(dim=1)
    squares = (others - mean[:, None]).square().sum(dim=1) + EXPECTED_WEIGHT * (EXPECTED_SPREAD * mean).square()
    limit = mean + OUTLIER_DEVIATIONS * (squares / (count - 2)).sqrt()
    return (scores > limit).nonzero().flatten().tolist()
