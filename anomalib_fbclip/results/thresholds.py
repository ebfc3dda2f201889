# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Thresholds of scores and anomaly maps."""

import argparse

USUAL_THRESHOLD = 0.5
"""Threshold of scores and of anomaly maps, unless one is given or fitted."""

EXPECTED_SPREAD, EXPECTED_WEIGHT = 0.1, 2.0
"""Expected standard deviation of good parts' scores as a share of their mean, and its weight in photographs. With few
photographs, it keeps the threshold away from their scores."""

STEEPNESS = 4.0
"""Logit of the threshold minus that of a place like good parts, which thus has a probability of 0.018."""

DEFAULT = "default"
"""Source of a threshold that was neither given nor fitted, in the words of the table."""

REFERENCES = "good photographs"
"""Source of a threshold of 0.5 on a scale set by good photographs."""

UNLABELED = "unlabeled photographs"
"""Source of a threshold of 0.5 on a scale set by photographs without labels. Their number precedes it."""

ADVICE_FOR_EXPORTED = "Export the model again with photographs of good parts, or give --threshold."
"""Advice for an exported model whose threshold does not come from the parts."""

THRESHOLD_KEYS = ("score_threshold", "map_threshold")
"""Names of the thresholds of images and places in an exported file."""

SOURCE_KEYS = ("image_threshold_source", "pixel_threshold_source")
"""Names of their sources in an exported file; a post-processor has properties of the same names."""


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
    """Parse a threshold on the command line."""
    try:
        value = float(text)
        check_threshold("a threshold", value)
    except ValueError as error:
        msg = f"{error}" if "0..1" in str(error) else f"{text!r} is not a number: give one from 0 to 1."
        raise argparse.ArgumentTypeError(msg) from error
    return value
