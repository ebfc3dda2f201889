# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Thresholds of scores and anomaly maps."""

import argparse

USUAL_THRESHOLD = 0.5
"""Threshold of scores and of anomaly maps unless one is given or comes from data."""


DEFAULT = "default"
"""Source of a threshold that neither the user nor data gave, in the words of the table."""

REFERENCES = "good photographs"
"""Source of a threshold of 0.5 if good photographs set the scale of the scores."""

UNLABELED = "unlabeled photographs"
"""Source of a threshold of 0.5 if photographs without labels do; their number precedes it."""


ADVICE_FOR_EXPORTED = "Export the model again with photographs of good parts, or give --threshold."
"""Advice where the threshold of an exported model does not come from the parts."""

THRESHOLD_KEYS = ("score_threshold", "map_threshold")
"""Names in an exported file of the graph's thresholds of images and places."""

SOURCE_KEYS = ("image_threshold_source", "pixel_threshold_source")
"""Names in an exported file of the sources of these thresholds; a post-processor has properties of the same names."""


def describe_guess(source: str | None, advice: str) -> list[str]:
    """Warn that verdicts are unreliable if their threshold is the default.

    Args:
        source (str | None): Source of the threshold, in the words of the table.
        advice (str): How to get a threshold from the parts.

    Returns:
        list[str]: A line; none if the threshold has a source.
    """
    if source != DEFAULT:
        return []
    return [f"The verdicts are unreliable: the threshold {USUAL_THRESHOLD} is not calibrated to your parts. {advice}"]


def check_threshold(name: str, threshold: float | None) -> None:
    """Check that a threshold lies on the scale of the scores.

    Args:
        name (str): Name of the threshold, for the error.
        threshold (float | None): The threshold; ``None`` if none was given.

    Raises:
        ValueError: If it is not in 0..1.

    Example:
        >>> check_threshold("image_threshold", 1.5)
        Traceback (most recent call last):
        ...
        ValueError: image_threshold must be in 0..1, like the scores, but is 1.5.
    """
    if threshold is not None and not 0 <= threshold <= 1:  # NaN is not, either
        msg = f"{name} must be in 0..1, like the scores, but is {threshold}."
        raise ValueError(msg)


def parse_threshold(text: str) -> float:
    """Parse a threshold of a command line.

    Args:
        text (str): The argument.

    Returns:
        float: The threshold.

    Raises:
        ArgumentTypeError: If it is not a number, or not in 0..1.

    Example:
        >>> parse_threshold("0.6")
        0.6
    """
    try:
        value = float(text)
        check_threshold("a threshold", value)
    except ValueError as error:
        msg = f"{error}" if "0..1" in str(error) else f"{text!r} is not a number: give one from 0 to 1."
        raise argparse.ArgumentTypeError(msg) from error
    return value
