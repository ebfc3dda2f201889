# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Work in threads: in order, bounded, and ended where it is no longer wanted."""

from collections.abc import Iterator
from threading import Event

import pytest

from anomalib_fbclip.concurrency import map_ahead


def test_order() -> None:
    gates = [Event() for _ in range(4)]

    def wait(index: int) -> int:
        if index + 1 < len(gates):
            gates[index + 1].wait()  # the last one ends first
        gates[index].set()
        return index

    assert list(map_ahead(wait, range(4), ahead=4, workers=4)) == [0, 1, 2, 3]


@pytest.mark.parametrize("ahead", [0, 2])
def test_no_more_items_are_taken_than_asked_for(ahead: int) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for index in range(100):
            taken.append(index)
            yield index

    given = 0
    for _ in map_ahead(str, items(), ahead):
        given += 1
        assert len(taken) <= given + ahead
    assert given == 100


def test_an_error_comes_in_its_turn() -> None:
    results = map_ahead(lambda value: 1 / value, [1, 0, 1], ahead=2)
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)


@pytest.mark.parametrize("workers", [1, 3])
def test_an_error_of_the_items_comes_in_its_turn(workers: int) -> None:
    """What was begun before it is not lost."""

    def items() -> Iterator[int]:
        yield from range(3)
        raise OSError

    results = map_ahead(str, items(), ahead=8, workers=workers)
    assert [next(results) for _ in range(3)] == ["0", "1", "2"]
    with pytest.raises(OSError):  # noqa: PT011
        next(results)


def test_what_is_not_wanted_is_not_begun() -> None:
    begun: list[int] = []
    all_taken, is_running, is_closing = Event(), Event(), Event()

    def items() -> Iterator[int]:
        yield from range(4)
        all_taken.set()
        yield 4

    def work(index: int) -> int:
        begun.append(index)
        if index == 0:
            all_taken.wait()
        if index == 1:
            is_running.set()
            is_closing.wait(timeout=0.2)
        return index

    results = map_ahead(work, items(), ahead=4)
    assert next(results) == 0
    is_running.wait()
    results.close()
    assert begun == [0, 1]
