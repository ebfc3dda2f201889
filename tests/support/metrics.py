# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Metrics of anomaly maps from their definitions, one threshold after the other."""

import numpy as np
from scipy.ndimage import label


def area_under_pro(maps: np.ndarray, masks: np.ndarray, limit: float) -> float:
    """Area under the mean overlap with each region against the false positive rate, up to a limit of that."""
    regions = []
    for anomaly_map, mask in zip(maps, masks, strict=True):
        numbers, count = label(mask, structure=np.ones((3, 3)))
        regions += [np.sort(anomaly_map[numbers == number]) for number in range(1, count + 1)]
    thresholds = np.unique(maps)[::-1]
    overlap = np.mean([_share_above(region, thresholds) for region in regions], axis=0)
    return _area(_share_above(np.sort(maps[~masks]), thresholds), overlap, limit)


def area_under_roc(maps: np.ndarray, masks: np.ndarray) -> float:
    """Area under the true positive rate of all pixels against the false positive rate."""
    thresholds = np.unique(maps)[::-1]
    found, false = (_share_above(np.sort(maps[where]), thresholds) for where in (masks, ~masks))
    return _area(false, found, limit=1.0)


def _share_above(sorted_values: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    return 1 - np.searchsorted(sorted_values, thresholds, side="left") / len(sorted_values)


def _area(false: np.ndarray, found: np.ndarray, limit: float) -> float:
    false, found = np.concatenate([[0], false]), np.concatenate([[0], found])
    inside = int(np.searchsorted(false, limit))
    last = np.interp(limit, false[inside - 1 : inside + 1], found[inside - 1 : inside + 1])
    return float(np.trapezoid([*found[:inside], last], [*false[:inside], limit]) / limit)
