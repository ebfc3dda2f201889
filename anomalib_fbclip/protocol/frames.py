# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Results of categories: a CSV file, from which a run goes on, and tables of it.

A frame of results has a row for each category and settings: the category, the measures of ``MEASURED`` (0..1, NaN where
one is not defined), the numbers of normal and of anomalous test images, and the settings that the results depend on.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from rich.table import Table

from anomalib_fbclip.errors import ProtocolError
from anomalib_fbclip.results.files import replacing
from anomalib_fbclip.weights.published import canonical_name, choose_zero_shot

from .markdown import markdown_lines

METRICS = {
    "image_AUROC": "image AUROC",
    "image_AUPR": "image AP",
    "pixel_AUROC": "pixel AUROC",
    "pixel_AUPRO": "pixel AUPRO",
}
"""Title of each of the paper's metrics by its name."""

MEASURED = {**METRICS, "image_Recall": "found", "image_FalsePositiveRate": "false alarms"}
"""Those, and of the verdicts at the threshold 0.5."""

MEAN = "mean"
"""What stands in the place of the category in the row of the means."""

TYPES = {"category": str, **dict.fromkeys(MEASURED, float), "normal": int, "anomalous": int, "settings": str}
"""Type of each column."""

PUBLISHED = Path(__file__).with_name("published.csv")


def read_results(path: Path) -> pd.DataFrame:
    """Read a file of results, without its means.

    Args:
        path (Path): The CSV file. It may not exist yet.

    Returns:
        pd.DataFrame: The results.

    Raises:
        ProtocolError: If the file is another one than :func:`add_results` writes.
    """
    if not path.exists():
        return pd.DataFrame(columns=list(TYPES)).astype(TYPES)
    names = {name: [""] for name in MEASURED}
    try:
        table = pd.read_csv(path, encoding="utf-8-sig", dtype=TYPES, na_values=names, keep_default_na=False)[[*TYPES]]
    except (KeyError, ValueError) as error:
        msg = f"{path} is not a table of results: {error!r}. Move it away, or give another --output"
        raise ProtocolError(msg) from error
    return table[table["category"] != MEAN]


def add_results(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Add results to a file, with the means of each settings. It is replaced only by a complete one.

    Args:
        path (Path): The file, which :func:`read_results` reads.
        rows (Sequence[Mapping[str, object]]): Results by column, without what is not defined. Each takes the place of
            one of the same category and settings.
    """
    table = pd.concat([read_results(path), pd.DataFrame(rows, columns=list(TYPES)).astype(TYPES)])
    table = table.drop_duplicates(["settings", "category"], keep="last")
    groups = [with_mean(group) for _, group in table.groupby("settings", sort=False)]
    text = pd.concat(groups).to_csv(index=False, float_format="%.6f", lineterminator="\n")
    with replacing(path) as temporary:
        temporary.write_bytes(text.encode())


def with_mean(results: pd.DataFrame) -> pd.DataFrame:
    """Add a row with the mean of each measure over the categories for which it is defined, and the sums of images."""
    images = results[["normal", "anomalous"]].sum()
    mean = {**results.iloc[0], **results[[*MEASURED]].mean(), **images, "category": MEAN}
    return pd.concat([results, pd.DataFrame([mean]).astype(TYPES)])


def find_published(dataset: str, results: pd.DataFrame) -> pd.DataFrame:
    """Find what the paper's model reaches, to be put beside what was measured. ``published.csv`` names the source.

    Args:
        dataset (str): Name of the dataset.
        results (pd.DataFrame): What was measured, with one settings.

    Returns:
        pd.DataFrame: The metrics, 0..1, by category, and by ``MEAN`` if each category has some; empty if this is
            neither MVTec AD nor VisA, or not the paper's model with its usual arguments.
    """
    table = pd.read_csv(PUBLISHED, comment="#", index_col="category")
    name = canonical_name(dataset)
    if json.loads(results["settings"].iloc[0])["model"] not in ({}, {"weights": choose_zero_shot([name])}):
        return table.iloc[:0]
    table = table.loc[table["dataset"].map(canonical_name) == name, [*METRICS]] / 100
    found = table.loc[[category for category in results["category"] if category in table.index]]
    if len(found) == len(results):
        found.loc[MEAN] = found.mean()
    return found


def tabulate(results: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Arrange results and their means for a reader, in percent, with published figures in parentheses."""
    note = " (published)" if len(published) else ""
    measured = with_mean(results).set_index("category")[[*METRICS]]
    beside = published.reindex(measured.index, columns=[*METRICS])
    cells = measured.map(_percent) + beside.map(lambda value: "" if pd.isna(value) else f" ({_percent(value)})")
    return cells.rename(columns=lambda name: METRICS[name] + note).reset_index()


def tabulate_shots(results: Mapping[tuple[int, int], pd.DataFrame]) -> pd.DataFrame:
    """Arrange results by number of good photographs, in percent: means over the choices, with the standard deviation.

    Args:
        results (Mapping[tuple[int, int], pd.DataFrame]): Results by number of photographs and number of the choice.

    Returns:
        pd.DataFrame: A row for each category and number, and means over the categories that were tested each time, so
            that they can be compared.
    """
    table = pd.concat(results, names=["shots", "choice"]).reset_index()
    complete = table[table["category"].isin(find_complete(list(results.values())))]
    means = complete.groupby(["shots", "choice"])[[*MEASURED]].mean().assign(category=MEAN).reset_index()
    table = pd.concat([table, means])
    keys = [table["category"].astype(_ordered(table["category"])), table["shots"].astype(_ordered(table["shots"]))]
    figures = table.groupby(keys, observed=True)[[*MEASURED]]
    spread = figures.std().map(lambda value: "" if pd.isna(value) else f" ± {_percent(value)}")
    return (figures.mean().map(_percent) + spread).rename(columns=MEASURED).reset_index().astype(str)


def _ordered(values: pd.Series) -> pd.CategoricalDtype:
    return pd.CategoricalDtype(values.unique(), ordered=True)


def find_complete(results: Sequence[pd.DataFrame]) -> list[str]:
    """Find the categories that are in all results."""
    return [name for name in results[0]["category"] if all(name in set(each["category"]) for each in results)]


def _percent(value: float) -> str:
    return "-" if pd.isna(value) else f"{100 * value:.1f}"


def to_markdown(title: str, cells: pd.DataFrame) -> str:
    """Write a table of :func:`tabulate` or :func:`tabulate_shots` in Markdown, with a title of its first column."""
    return "\n".join(markdown_lines([title, *cells.columns[1:]], cells.to_numpy().tolist())) + "\n"


def to_screen(title: str, cells: pd.DataFrame) -> Table:
    """Make such a table for the screen, with a line above the means and between categories of several rows."""
    table = Table("category", title=title)
    for name in cells.columns[1:]:
        table.add_column(name, justify="right")
    for category, rows in cells.groupby("category", sort=False):
        if category == MEAN or "shots" in cells:
            table.add_section()
        for row in rows.to_numpy().tolist():
            table.add_row(*row)
    return table
