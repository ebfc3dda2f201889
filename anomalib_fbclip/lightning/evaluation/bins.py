# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Fine bins in which scores are counted, so that memory does not grow with the number of images."""

import torch

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
