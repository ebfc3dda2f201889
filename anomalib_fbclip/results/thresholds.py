# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Thresholds: their sources, the one for a share of false alarms, and the wrong verdicts at them."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from .records import Record

USUAL_THRESHOLD = 0.5
"""Threshold of scores and of anomaly maps, unless one is given or fitted."""

DEFAULT = "default"
"""Source of a threshold that was neither given nor fitted, in the words of the table."""

REFERENCES = "good photographs"
"""Source of a threshold of 0.5 on a scale set by good photographs."""

UNLABELED = "unlabeled photographs"
"""Source of a threshold of 0.5 on a scale set by photographs without labels. Their number precedes it."""

THRESHOLD_KEYS = ("score_threshold", "map_threshold")
"""Names of the thresholds of images and places in an exported file."""

SOURCE_KEYS = ("image_threshold_source", "pixel_threshold_source")
"""Names of their sources in an exported file; a post-processor has properties of the same names."""

CONFIDENCE = 0.95
"""Confidence of a bound on the share of false alarms."""

SMALLEST_SHARE = 1e-6
"""Smallest share of false alarms that can be asked for."""

EXPECTED_SPREAD, EXPECTED_WEIGHT, STEEPNESS = 0.1, 2.0, 4.0
"""As in :mod:`anomalib_fbclip.modeling.few_shot.calibration`, which imports torch."""


def describe_guess(source: str | None, advice: str) -> list[str]:
    """Warn, in a line, that verdicts are unreliable if the source of their threshold is the default."""
    if source != DEFAULT:
        return []
    return [f"The verdicts are unreliable: the threshold {USUAL_THRESHOLD} is not calibrated to your parts. {advice}"]


def check_threshold(name: str, threshold: float | None) -> None:
    """Raise an error if a threshold is given and is not between 0 and 1, as scores are.

    Example:
        >>> check_threshold("image_threshold", 1.5)
        Traceback (most recent call last):
        ...
        ValueError: image_threshold must be in 0..1, like the scores, but is 1.5.
    """
    if threshold is not None and not 0 <= threshold <= 1:  # true for NaN, too
        msg = f"{name} must be in 0..1, like the scores, but is {threshold}."
        raise ValueError(msg)


def parse_threshold(text: str) -> float:
    """Parse a threshold. A ``ValueError`` says what is wrong with it."""
    try:
        value = float(text)
    except ValueError as error:
        msg = f"{text!r} is not a number: give one from 0 to 1."
        raise ValueError(msg) from error
    check_threshold("a threshold", value)
    return value


class FalseAlarmLimit(NamedTuple):
    """A threshold of scores for a share of false alarms, set by a number of good photographs.

    If ``is_sure``, the share is an upper bound with 95 % confidence. Otherwise it is an estimate.
    """

    threshold: float
    share: float
    is_sure: bool
    photographs: int

    def describe(self) -> str:
        """Describe the expected share, and how many good photographs make it certain."""
        count, share = self.photographs, _percent(self.share)
        if self.is_sure:
            return (
                f"Threshold {self.threshold:.3f}: at most {share} of good parts are called anomalous (95 % sure, from "
                f"{count} good photographs)."
            )
        return (
            f"Threshold {self.threshold:.3f}: about {share} of good parts are called anomalous. Being 95 % sure takes "
            f"{photographs_for(self.share)} good photographs; with {count}, the share may be "
            f"{_percent(sure_share(count))}."
        )


class Tally(NamedTuple):
    """Number of defective photographs called normal, and of good ones called anomalous, at a threshold."""

    threshold: float
    missed: int
    false_alarms: int


def best_threshold(good: Sequence[float], bad: Sequence[float]) -> Tally:
    """Find the threshold with the fewest wrong verdicts; among several, the one farthest from any score.

    Example:
        >>> best_threshold([0.1, 0.3], [0.7, 0.9])
        Tally(threshold=0.5, missed=0, false_alarms=0)
    """
    scores = np.unique(np.array([*good, *bad]))
    if not scores.size:
        msg = "There are no scores: give labeled photographs."
        raise ValueError(msg)
    edges = np.concatenate([[0.0], scores])  # above the last one, all are normal
    thresholds = np.append((edges[:-1] + edges[1:]) / 2, scores[-1])
    distances = np.append(np.diff(edges) / 2, 0.0)
    missed = np.searchsorted(np.sort(bad), thresholds, side="right")
    alarms = len(good) - np.searchsorted(np.sort(good), thresholds, side="right")
    best = np.lexsort([-distances, missed + alarms])[0]
    return Tally(float(thresholds[best]), int(missed[best]), int(alarms[best]))


def is_wrong(record: Record) -> bool:
    """Return whether the verdict on a labeled image is wrong. ``unknown`` counts as anomalous."""
    return (record.verdict == "normal") != (record.label == "normal")


def describe_verdicts(records: Iterable[Record]) -> list[str]:
    """Tabulate the verdicts on labeled images, at the threshold and at the best one.

    Records without verdict or label are ignored. Without any others there is no line.
    """
    known = [row for row in records if row.verdict and row.label]
    if not known:
        return []
    good, bad = ([row.score or 0.0 for row in known if row.label == label] for label in ("normal", "anomalous"))
    best = best_threshold(good, bad)
    wrong = Counter(row.label for row in known if is_wrong(row))
    thresholds = {f"{row.threshold:.3f}" for row in known}
    rows = [
        ("", "threshold", "found", "missed", "false alarms"),
        *(
            (name, threshold, f"{len(bad) - missed} of {len(bad)}", f"{missed}", f"{alarms} of {len(good)}")
            for name, threshold, missed, alarms in (
                ("verdicts", " or ".join(sorted(thresholds)), wrong["anomalous"], wrong["normal"]),
                ("fewest wrong", f"{best.threshold:.3f}", best.missed, best.false_alarms),
            )
        ),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def limit_false_alarms(scores: Sequence[float], share: float) -> FalseAlarmLimit:
    r"""Choose the threshold for a share of false alarms, from the scores of good photographs among themselves.

    With enough good photographs, it is one of their scores, whatever their distribution: more than a share :math:`p` of
    good parts exceeds the r-th highest of :math:`k` scores with a probability of

    .. math::

        \sum_{i<r} \binom{k}{i} p^i (1 - p)^{k-i} \le 0.05

    With fewer, it is an estimate: the scores' logits are taken to be normally distributed, and their standard deviation
    is mixed with the expected one.
    """
    count = len(scores)
    if count < 2:  # noqa: PLR2004
        msg = "A share of false alarms needs at least 2 good photographs; 8 are better."
        raise ValueError(msg)
    rank = sure_rank(count, share)
    threshold = sorted(scores, reverse=True)[rank - 1] if rank else _estimate(scores, share)
    return FalseAlarmLimit(threshold, share, rank > 0, count)


def sure_rank(count: int, share: float) -> int:
    """Find the rank of the score, the highest first, that bounds a share of false alarms with 95 % confidence.

    It is 0 if there are too few scores.

    Example:
        >>> sure_rank(59, 0.05), sure_rank(58, 0.05), sure_rank(93, 0.05)
        (1, 0, 2)
    """
    below = 0.0
    for rank in range(count):
        choose = math.lgamma(count + 1) - math.lgamma(rank + 1) - math.lgamma(count - rank + 1)
        below += math.exp(choose + rank * math.log(share) + (count - rank) * math.log1p(-share))
        if below > 1 - CONFIDENCE:
            return rank
    return count


def photographs_for(share: float) -> int:
    """Return the number of good photographs that bounds a share of false alarms with 95 % confidence.

    Example:
        >>> [photographs_for(share) for share in (0.1, 0.05, 0.01)]
        [29, 59, 299]
    """
    return math.ceil(math.log(1 - CONFIDENCE) / math.log1p(-share))


def sure_share(count: int) -> float:
    """Return the smallest share of false alarms that a number of good photographs bounds with 95 % confidence."""
    return 1 - (1 - CONFIDENCE) ** (1 / count)


def parse_share(text: str) -> float:
    """Parse a share: ``1%`` or ``0.01``. A ``ValueError`` says what is wrong with it.

    Example:
        >>> parse_share("5%"), parse_share("0.01")
        (0.05, 0.01)
    """
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not SMALLEST_SHARE <= value < 1:
        msg = f"{text!r} is not a share between {100 * SMALLEST_SHARE:.4f}% and 100%: give 1% or 0.01."
        raise ValueError(msg)
    return value


def _estimate(scores: Sequence[float], share: float) -> float:
    """Estimate from a few scores the score that a share of good parts exceeds."""
    count = len(scores)
    values = [1 + math.log(score / (1 - score)) / STEEPNESS for score in (min(max(s, 1e-9), 1 - 1e-9) for s in scores)]
    mean = max(sum(values) / count, 1e-3)
    squares = sum((value - mean) ** 2 for value in values) + EXPECTED_WEIGHT * (EXPECTED_SPREAD * mean) ** 2
    freedom = count - 1 + EXPECTED_WEIGHT
    limit = mean + _student(1 - share, freedom) * math.sqrt(squares / freedom * (1 + 1 / count))
    return 1 / (1 + math.exp(-STEEPNESS * (limit - 1)))


def _student(probability: float, freedom: float) -> float:
    """Approximate a quantile of Student's distribution from the normal one (Hill's expansion)."""
    z = NormalDist().inv_cdf(probability)
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
