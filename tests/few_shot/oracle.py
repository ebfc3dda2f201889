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
