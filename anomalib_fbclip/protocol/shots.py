# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Results by the number of good photographs, over several choices of them."""

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rich.table import Table

from anomalib_fbclip.evaluation.markdown import markdown_lines

from .results import MEAN, METRICS, VERDICTS, Row, with_mean

COLUMNS = {**METRICS, **VERDICTS}
"""Title of each column of figures by its name."""


class Shots(NamedTuple):
    """A choice of good photographs.

    Attributes:
        number (int): How many there are. 0: the model is zero-shot.
        choice (int): Which of the choices of so many this is, from 0.
    """

    number: int
    choice: int

    @property
    def title(self) -> str:
        """The choice in words."""
        photographs = "1 good photograph" if self.number == 1 else f"{self.number} good photographs"
        return f"{photographs}, choice {self.choice + 1}" if self.number else "Zero-shot"

    def arguments(self, model: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of FBClip with this choice, of those without any."""
        return {**model, "k_shot": self.number, "seed": model["seed"] + self.choice}


def list_shots(numbers: Sequence[int], choices: int) -> list[Shots]:
    """List what is tested: so many choices for each number of good photographs, and zero-shot once."""
    return [Shots(number, choice) for number in dict.fromkeys(numbers) for choice in range(choices if number else 1)]


def to_markdown(title: str, results: Mapping[Shots, Mapping[str, Row]]) -> str:
    """Write results by number of good photographs as a table in Markdown, in percent.

    Args:
        title (str): Title of the first column.
        results (Mapping[Shots, Mapping[str, Row]]): Row of each category, for each choice of good photographs.

    Returns:
        str: The table. Figures are means over the choices, with the standard deviation.
    """
    cells = (line for lines in _to_cells(results) for line in lines)
    return "\n".join(markdown_lines([title, "shots", *COLUMNS.values()], cells)) + "\n"


def to_table(title: str, results: Mapping[Shots, Mapping[str, Row]]) -> Table:
    """Make a table of results by number of good photographs for the screen, in percent."""
    table = Table("category", title=title)
    for name in ("shots", *COLUMNS.values()):
        table.add_column(name, justify="right")
    for lines in _to_cells(results):
        for line in lines:
            table.add_row(*line)
        table.add_section()
    return table


def find_complete(results: Iterable[Mapping[str, Row]]) -> list[str]:
    """Find the categories that were tested each time; means are over these, so that they can be compared."""
    first, *others = results
    return [category for category in first if all(category in rows for rows in others)]


def _to_cells(results: Mapping[Shots, Mapping[str, Row]]) -> Iterator[list[list[str]]]:
    """Give the lines of each category, and those of the means."""
    for category in dict.fromkeys(category for rows in results.values() for category in rows):
        found = {shots: rows[category] for shots, rows in results.items() if category in rows}
        yield _to_lines(category, found)
    if complete := find_complete(results.values()):
        means = {shots: with_mean([rows[name] for name in complete])[-1] for shots, rows in results.items()}
        yield _to_lines(MEAN, means)


def _to_lines(title: str, rows: Mapping[Shots, Row]) -> list[list[str]]:
    numbers = dict.fromkeys(shots.number for shots in rows)
    choices = {number: [row.metrics for shots, row in rows.items() if shots.number == number] for number in numbers}
    return [
        [title, str(number), *(_summarize([each[name] for each in metrics if name in each]) for name in COLUMNS)]
        for number, metrics in choices.items()
    ]


def _summarize(values: Sequence[float]) -> str:
    if not values:
        return "-"
    mean = f"{100 * statistics.fmean(values):.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean
