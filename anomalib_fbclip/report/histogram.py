# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Histograms of scores."""

from collections.abc import Sequence

import numpy as np

BINS = 50
"""Bars from a score of 0 to one of 1."""


def bar_heights(scores: Sequence[float]) -> list[float]:
    """Count scores in bins of equal width.

    Args:
        scores (Sequence[float]): The scores, 0..1.

    Returns:
        list[float]: Height of each bar, where the highest is 1; all 0 if there are no scores.

    Example:
        >>> bar_heights([0.01, 0.01, 0.99])[::49]
        [1.0, 0.5]
    """
    counts, _ = np.histogram(scores, bins=BINS, range=(0, 1))
    heights = counts.tolist()
    return [height / max(*heights, 1) for height in heights]
