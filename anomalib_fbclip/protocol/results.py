# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Rows of results: kept in a CSV file, from which a run goes on, and shown as tables."""

import csv
import io
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

from rich.table import Table

from anomalib_fbclip.contract.files import replacing
from anomalib_fbclip.evaluation.markdown import markdown_lines

from .errors import ProtocolError

METRICS = {
    "image_AUROC": "image AUROC",
    "image_AUPR": "image AP",
    "pixel_AUROC": "pixel AUROC",
    "pixel_AUPRO": "pixel AUPRO",
}
"""Title of each metric by its name."""

VERDICTS = {"image_Recall": "found", "image_FalsePositiveRate": "false alarms"}
"""Title of each measure of the verdicts at the threshold 0.5 by its name."""

MEAN = "mean"
"""What stands in the place of the category in the row of the means."""

MEASURED = (*METRICS, *VERDICTS)

Published: TypeAlias = Mapping[str, Mapping[str, float]]
"""Published metrics, 0..1, by category, and by ``MEAN`` if each category has some."""

NONE: Published = MappingProxyType({})

COLUMNS = ("category", *MEASURED, "normal", "anomalous", "settings")


class Row(NamedTuple):
    """Results of one category.

    Attributes:
        category (str): Name of the category.
        metrics (dict[str, float]): Those of ``MEASURED`` that are defined, 0..1.
        normal (int): Number of normal test images.
        anomalous (int): Number of anomalous test images.
        settings (str): What the results depend on, but for the category.
    """

    category: str
    metrics: dict[str, float]
    normal: int
    anomalous: int
    settings: str


def read_rows(path: Path) -> list[Row]:
    """Read the rows of a file, without means.

    Args:
        path (Path): The CSV file. It may not exist yet.

    Returns:
        list[Row]: The rows.

    Raises:
        ProtocolError: If the file is another one than :func:`write_rows` writes.
    """
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [_parse_row(values) for values in csv.DictReader(file)]
    except (KeyError, TypeError, ValueError) as error:
        msg = f"{path} is not a table of results: {error!r}. Move it away, or give another --output"
        raise ProtocolError(msg) from error
    return [row for row in rows if row.category != MEAN]


def _parse_row(values: dict[str, str]) -> Row:
    return Row(
        category=values["category"],
        metrics={name: float(values[name]) for name in MEASURED if values[name]},
        normal=int(values["normal"]),
        anomalous=int(values["anomalous"]),
        settings=values["settings"],
    )


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write a CSV file: for each settings the rows, and their means.

    Args:
        path (Path): The file. One that stood there is replaced only by a complete one.
        rows (Sequence[Row]): The rows.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for settings in dict.fromkeys(row.settings for row in rows):
        for row in with_mean([row for row in rows if row.settings == settings]):
            values = [f"{row.metrics[name]:.6f}" if name in row.metrics else "" for name in MEASURED]
            writer.writerow([row.category, *values, row.normal, row.anomalous, row.settings])
    with replacing(path) as temporary:
        temporary.write_bytes(text.getvalue().encode())


def add_rows(path: Path, rows: Iterable[Row]) -> None:
    """Add rows to a file, each in the place of one of the same category and settings."""
    merged = {(row.settings, row.category): row for row in (*read_rows(path), *rows)}
    write_rows(path, list(merged.values()))


def with_mean(rows: Sequence[Row]) -> list[Row]:
    """Add a row with the mean of each metric over the categories for which it is defined."""
    columns = {name: [row.metrics[name] for row in rows if name in row.metrics] for name in MEASURED}
    means = {name: statistics.fmean(values) for name, values in columns.items() if values}
    normal, anomalous = sum(row.normal for row in rows), sum(row.anomalous for row in rows)
    return [*rows, Row(MEAN, means, normal, anomalous, rows[0].settings)]


def to_markdown(title: str, rows: Sequence[Row], published: Published = NONE) -> str:
    """Write rows and their means as a table in Markdown, in percent.

    Args:
        title (str): Title of the first column.
        rows (Sequence[Row]): The rows.
        published (Published, optional): Published figures, which go into parentheses. Defaults to none.

    Returns:
        str: The table.
    """
    return "\n".join(markdown_lines([title, *_titles(published)], _to_cells(rows, published))) + "\n"


def to_table(title: str, rows: Sequence[Row], published: Published = NONE) -> Table:
    """Make a table of the rows and their means for the screen, in percent, as :func:`to_markdown` does."""
    table = Table("category", title=title)
    for name in _titles(published):
        table.add_column(name, justify="right")
    for category, *figures in _to_cells(rows, published):
        if category == MEAN:
            table.add_section()
        table.add_row(category, *figures)
    return table


def _titles(published: Published) -> list[str]:
    return [f"{title} (published)" if published else title for title in METRICS.values()]


def _to_cells(rows: Sequence[Row], published: Published) -> Iterator[list[str]]:
    for row in with_mean(rows):
        beside = published.get(row.category, {})
        yield [row.category, *(_to_cell(row.metrics.get(name), beside.get(name)) for name in METRICS)]


def _to_cell(measured: float | None, published: float | None) -> str:
    figure = "-" if measured is None else f"{100 * measured:.1f}"
    return figure if published is None else f"{figure} ({100 * published:.1f})"
