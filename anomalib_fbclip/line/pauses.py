# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Pauses between attempts, and messages about them."""

from collections.abc import Callable, Iterator

Tell = Callable[[str], None]
"""Shows a line on the screen."""

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds."""


def growing_pauses() -> Iterator[float]:
    """Yield the seconds to wait before each attempt, without end: each twice the last, up to a minute."""
    pause = FIRST_PAUSE
    while True:
        yield pause
        pause = min(2 * pause, LONGEST_PAUSE)
