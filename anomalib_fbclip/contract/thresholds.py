# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Thresholds of scores and anomaly maps."""


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
