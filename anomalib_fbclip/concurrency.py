# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Threads: work that they do ahead, with a bound on what is in memory, and pauses between their attempts."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import NoReturn, TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds."""


def map_ahead(
    function: Callable[[ItemT], ResultT], items: Iterable[ItemT], ahead: int, workers: int = 1
) -> Generator[ResultT]:
    """Apply a function to items in threads, and yield the results in the order of the items.

    At most ``ahead`` items are taken ahead of the next result, so there may be items without end. The thread that takes
    the results also takes the items. If it stops early, it waits for what has begun. An exception of the function or of
    the items is raised in its turn.
    """
    pending: deque[Future[ResultT]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for task in _tasks(function, items):
                pending.append(pool.submit(task))
                while pending and (len(pending) > ahead or pending[0].done()):
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _tasks(function: Callable[[ItemT], ResultT], items: Iterable[ItemT]) -> Iterator[Callable[[], ResultT]]:
    """Yield a task for each item and, if there is an exception instead of the next item, one that raises it."""
    try:
        for item in items:
            yield partial(function, item)
    except Exception as error:  # noqa: BLE001 - raised where results are awaited
        yield partial(_raise, error)


def _raise(error: Exception) -> NoReturn:
    raise error


def growing_pauses() -> Iterator[float]:
    """Yield the seconds to wait before each attempt, without end: each twice the last, up to a minute."""
    pause = FIRST_PAUSE
    while True:
        yield pause
        pause = min(2 * pause, LONGEST_PAUSE)
