# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Work that threads do ahead, with a bound on what is in memory."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


def map_ahead(
    function: Callable[[ItemT], ResultT],
    items: Iterable[ItemT],
    ahead: int,
    workers: int = 1,
) -> Generator[ResultT]:
    """Apply a function to items in threads, and yield the results in the order of the items.

    The thread that takes the results also takes the items. If it stops early, it waits for what has begun.

    Args:
        function (Callable[[ItemT], ResultT]): The function.
        items (Iterable[ItemT]): The items; the iterable may be endless.
        ahead (int): Number of items that are taken ahead of the next result.
        workers (int, optional): Number of threads. Defaults to ``1``.

    Yields:
        ResultT: The results.

    Raises:
        Exception: An exception of the function, when it is the item's turn.
    """
    pending: deque[Future[ResultT]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                while pending and (len(pending) > ahead or pending[0].done()):
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
