# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Few-shot as it is written down, one number at a time."""

import math
import statistics
from itertools import starmap

import numpy as np


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / math.sqrt(float(a @ a) * float(b @ b)))


def distance(patch: list[np.ndarray], others: list[list[np.ndarray]]) -> tuple[float, int]:
    """Distance of a patch from the nearest of others, and which one that is. A patch has a token of each layer."""
    distances = [1 - statistics.fmean(starmap(cosine, zip(patch, other, strict=True))) for other in others]
    nearest = min(range(len(distances)), key=distances.__getitem__)
    return distances[nearest], nearest


def k_center_greedy(rows: np.ndarray, count: int) -> list[int]:
    """Choose rows: first the first one, then always the one whose nearest chosen one is farthest."""
    chosen = [0]
    while len(chosen) < count:
        to_nearest = [min(math.dist(row, rows[index]) for index in chosen) for row in rows]
        chosen.append(max(range(len(rows)), key=to_nearest.__getitem__))
    return chosen


def prediction_limit(scores: list[float]) -> float:
    mean = statistics.fmean(scores)
    squares = sum((score - mean) ** 2 for score in scores) + 2 * (0.1 * mean) ** 2
    return mean + math.sqrt(squares / (len(scores) + 1))


def probability(value: float, limit: float) -> float:
    logit = 4 * (value / limit - 1)
    return 1 / (1 + math.exp(-logit)) if logit > 0 else math.exp(logit) / (1 + math.exp(logit))


def standardized(values: list[float]) -> list[float]:
    mean, std = statistics.fmean(values), statistics.stdev(values)
    return [(value - mean) / std for value in values]


def quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    return ordered[low] + (place - low) * (ordered[min(low + 1, len(ordered) - 1)] - ordered[low])


def folder_limit(scores: list[float]) -> float:
    """Limit of photographs without labels: from the lower quantiles, or between two groups."""
    normal = statistics.NormalDist()
    low, high = quantile(scores, 0.1), quantile(scores, 0.4)
    std = (high - low) / (normal.inv_cdf(0.4) - normal.inv_cdf(0.1))
    mean = high - normal.inv_cdf(0.4) * std
    variance = (len(scores) * std**2 + 4 * (0.2 * mean) ** 2) / (len(scores) + 4)
    limit = mean + 3 * math.sqrt(variance)
    return min(limit, between_groups(scores)) if is_split(scores) else limit


def is_split(scores: list[float]) -> bool:
    kurtosis, ratio = shape_of(scores)
    return kurtosis < 2.2 and ratio > 1.6


def shape_of(scores: list[float]) -> tuple[float, float]:
    """Return the kurtosis, and the ratio of the quartiles."""
    variance, mean = statistics.pvariance(scores), statistics.fmean(scores)
    fourth = statistics.fmean((score - mean) ** 4 for score in scores)
    return fourth / variance**2 if variance else 0, quantile(scores, 0.75) / quantile(scores, 0.25)


def between_groups(scores: list[float]) -> float:
    ordered = sorted(scores)

    def separation(count: int) -> float:
        below, above = ordered[:count], ordered[count:]
        return len(below) * len(above) * (statistics.fmean(above) - statistics.fmean(below)) ** 2

    count = max(range(1, len(ordered)), key=separation)
    return (ordered[count - 1] + ordered[count]) / 2
