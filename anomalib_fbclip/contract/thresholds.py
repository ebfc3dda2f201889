# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Thresholds of scores and anomaly maps."""

import argparse

USUAL_THRESHOLD = 0.5
"""Threshold of scores and of anomaly maps where none is given and no data gave one."""


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
        ArgumentTypeError: If it is no number, or not in 0..1.

    Example:
        >>> parse_threshold("0.6")
        0.6
    """
    try:
        value = float(text)
        check_threshold("a threshold", value)
    except ValueError as error:
        msg = f"{error}" if "0..1" in str(error) else f"{text!r} is no number: give one of 0..1."
        raise argparse.ArgumentTypeError(msg) from error
    return value
