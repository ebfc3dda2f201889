# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Work that a thread does ahead of or behind the rest, with a bound on what is in memory."""

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
    """Apply a function to items in threads, and give the results in the order of the items.

    Items are taken in the thread that takes the results. When it stops early, what has begun is waited for.

    Args:
        function (Callable[[ItemT], ResultT]): The function.
        items (Iterable[ItemT]): The items; there may be no end of them.
        ahead (int): Number of items that are taken before the result that is waited for.
        workers (int, optional): Number of threads. Defaults to ``1``.

    Yields:
        ResultT: The results.

    Raises:
        Exception: What the function raises, when it is the item's turn.
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
