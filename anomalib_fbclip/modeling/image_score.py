# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Scores of whole images. The paper's is the class token's; a tower that is no CLIP needs the map beside it."""

from collections.abc import Callable

import torch

ImageScore = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From the class token's abnormal probability ``[B]`` and the anomaly map ``[B, H, W]`` to image scores ``[B]``."""

TOP_SHARE = 0.01
"""Share of a map whose mean is the image's score."""


def top_mean(anomaly_map: torch.Tensor) -> torch.Tensor:
    """Mean of the highest hundredth of maps ``[B, H, W]``, shape ``[B]``.

    Example:
        >>> top_mean(torch.arange(200.0).reshape(1, 10, 20))
        tensor([198.5000])
    """
    values = anomaly_map.flatten(1)
    return values.topk(max(round(TOP_SHARE * values.shape[1]), 1), dim=1).values.mean(dim=1)


def class_token_score(class_score: torch.Tensor, anomaly_map: torch.Tensor) -> torch.Tensor:
    """Take the class token's probability, as the paper does."""
    del anomaly_map
    return class_score


def map_score(class_score: torch.Tensor, anomaly_map: torch.Tensor) -> torch.Tensor:
    """Take the mean of the map's highest hundredth."""
    del class_score
    return top_mean(anomaly_map)


def mean_score(class_score: torch.Tensor, anomaly_map: torch.Tensor) -> torch.Tensor:
    """Take the mean of both."""
    return (class_score + top_mean(anomaly_map)) / 2


IMAGE_SCORES: dict[str, ImageScore] = {"class_token": class_token_score, "map": map_score, "both": mean_score}
"""Scores by name."""
