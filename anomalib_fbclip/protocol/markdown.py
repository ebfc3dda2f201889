# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Tables of results in Markdown."""

from collections.abc import Iterable, Iterator, Sequence


def markdown_lines(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Write a table in Markdown, line by line, with names on the left and figures aligned on the right.

    Args:
        header (Sequence[str]): Title of each column.
        rows (Iterable[Sequence[str]]): Name and figures of each row; they may come one by one.

    Yields:
        str: Lines of the table, without line breaks.

    Example:
        >>> for line in markdown_lines(["category", "image AUROC"], [["bottle", "98.1"], ["cable", "-"]]):
        ...     print(line)
        | category | image AUROC |
        |---|---:|
        | bottle | 98.1 |
        | cable | - |
    """
    yield f"| {' | '.join(header)} |"
    yield "|---" + "|---:" * (len(header) - 1) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"
