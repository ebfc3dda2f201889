# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Pauses between attempts, and messages about them."""

from collections.abc import Callable, Iterator

Tell = Callable[[str], None]
"""Shows a line to whoever watches."""

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds."""


def growing_pauses() -> Iterator[float]:
    """Give the seconds to wait before something is tried again: twice as long each time, up to a minute.

    Yields:
        float: Seconds; there is no end of them.
    """
    pause = FIRST_PAUSE
    while True:
        yield pause
        pause = min(2 * pause, LONGEST_PAUSE)
