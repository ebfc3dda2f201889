# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Thresholds of scores and anomaly maps."""

import argparse

USUAL_THRESHOLD = 0.5
"""Threshold of scores and of anomaly maps where none is given and no data gave one."""


DEFAULT = "default"
"""The source of a threshold that no data and nobody gave, in the words of the table."""

REFERENCES = "good photographs"
"""The source of a threshold of 0.5 where good photographs set the scale of the scores."""

UNLABELED = "unlabeled photographs"
"""The source of a threshold of 0.5 where photographs without labels do; their number comes before it."""


ADVICE_FOR_EXPORTED = "export the model once more with photographs of good ones, or give --threshold."
"""What to do where the threshold of an exported model does not come from the parts that are inspected."""

THRESHOLD_KEYS = ("score_threshold", "map_threshold")
"""Names in an exported file of the thresholds at which its graph decides on images and on places."""

SOURCE_KEYS = ("image_threshold_source", "pixel_threshold_source")
"""Where these thresholds come from; a post-processor that knows has properties of the same names."""


def describe_guess(source: str | None, advice: str) -> list[str]:
    """Say that verdicts are a guess where their threshold comes from nothing.

    Args:
        source (str | None): Where the threshold comes from, in the words of the table.
        advice (str): How to get one that comes from the parts.

    Returns:
        list[str]: A line; none if the threshold comes from something.
    """
    if source != DEFAULT:
        return []
    reason = f"the threshold of {USUAL_THRESHOLD} does not come from your parts"
    return [f"The verdicts are a guess, because {reason}: {advice}"]


def check_threshold(name: str, threshold: float | None) -> None:
    """Check that a threshold lies on the scale of the scores.

    Args:
        name (str): What the threshold is called, for the error.
        threshold (float | None): The threshold; ``None`` if none was given.

    Raises:
        ValueError: If it is not in 0..1.

    Example:
        >>> check_threshold("image_threshold", 1.5)
        Traceback (most recent call last):
        ...
        ValueError: image_threshold must be in 0..1, as the scores are, but is 1.5.
    """
    if threshold is not None and not 0 <= threshold <= 1:  # NaN is not, either
        msg = f"{name} must be in 0..1, as the scores are, but is {threshold}."
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
        msg = f"{error}" if "0..1" in str(error) else f"{text!r} is not a number: give one of 0..1."
        raise argparse.ArgumentTypeError(msg) from error
    return value
