# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Results of categories: a CSV file, which a run continues, and tables.

A frame of results has a row for each category and settings: the category, the measures of ``MEASURED`` (0..1, or NaN if
undefined), the numbers of normal and of anomalous test images, and the settings.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from anomalib_fbclip.errors import ProtocolError
from anomalib_fbclip.results.files import replacing
from anomalib_fbclip.weights.source import canonical_name, choose_zero_shot

METRICS = {
    "image_AUROC": "image AUROC",
    "image_AUPR": "image AP",
    "pixel_AUROC": "pixel AUROC",
    "pixel_AUPRO": "pixel AUPRO",
}
"""Titles of the paper's metrics by name."""

MEASURED = {**METRICS, "image_Recall": "found", "image_FalsePositiveRate": "false alarms"}
"""Titles of these, and of the measures of the verdicts at the threshold 0.5."""

MEAN = "mean"
"""Category of the row of the means."""

TYPES = {"category": str, **dict.fromkeys(MEASURED, float), "normal": int, "anomalous": int, "settings": str}
"""Type of each column."""


def read_results(path: Path) -> pd.DataFrame:
    """Read a CSV file of results, which may not exist yet, without its means."""
    if not path.exists():
        return pd.DataFrame(columns=list(TYPES)).astype(TYPES)
    names = {name: [""] for name in MEASURED}
    try:
        table = pd.read_csv(path, encoding="utf-8-sig", dtype=TYPES, na_values=names, keep_default_na=False)[[*TYPES]]
    except (KeyError, ValueError) as error:
        msg = f"{path} is not a table of results ({error!r}): move it away, or give another --output"
        raise ProtocolError(msg) from error
    return table[table["category"] != MEAN]


def add_results(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Add results by column, without undefined ones, to a file, with means over the same settings.

    They replace rows of the same category and settings. The file is replaced when it is complete.
    """
    table = pd.concat([read_results(path), pd.DataFrame(rows, columns=list(TYPES)).astype(TYPES)])
    table = table.drop_duplicates(["settings", "category"], keep="last")
    groups = [_with_mean(group) for _, group in table.groupby("settings", sort=False)]
    text = pd.concat(groups).to_csv(index=False, float_format="%.6f", lineterminator="\n")
    with replacing(path) as temporary:
        temporary.write_bytes(text.encode())


def _with_mean(results: pd.DataFrame) -> pd.DataFrame:
    """Add a row with the mean of each measure over categories where it is defined, and with sums of images."""
    images = results[["normal", "anomalous"]].sum()
    mean = {**results.iloc[0], **results[[*MEASURED]].mean(), **images, "category": MEAN}
    return pd.concat([results, pd.DataFrame([mean]).astype(TYPES)])


def _find_published(dataset: str, results: pd.DataFrame) -> pd.DataFrame:
    """Return published figures, 0..1, by category, and by ``MEAN`` if each category has some.

    ``published.csv`` has those of the paper's model on MVTec AD and VisA, and their source. Other models have none.
    """
    table = pd.read_csv(Path(__file__).with_name("published.csv"), comment="#", index_col="category")
    name = canonical_name(dataset)
    if json.loads(results["settings"].iloc[0])["model"] not in ({}, {"weights": choose_zero_shot([name])}):
        return table.iloc[:0]
    table = table.loc[table["dataset"].map(canonical_name) == name, [*METRICS]] / 100
    found = table.loc[[category for category in results["category"] if category in table.index]]
    if len(found) == len(results):
        found.loc[MEAN] = found.mean()
    return found


def tabulate(dataset: str, results: pd.DataFrame) -> pd.DataFrame:
    """Format a dataset's results by category, with means, in percent, and with published figures in parentheses."""
    published = _find_published(dataset, results)
    note = " (published)" if len(published) else ""
    measured = _with_mean(results).set_index("category")[[*METRICS]]
    beside = published.reindex(measured.index, columns=[*METRICS])
    cells = measured.map(percent) + beside.map(lambda value: "" if pd.isna(value) else f" ({percent(value)})")
    return cells.rename(columns=lambda name: METRICS[name] + note)


def tabulate_shots(results: pd.DataFrame, complete: Sequence[str]) -> pd.DataFrame:
    """Format results by category and number of good photographs, in percent: means ± deviations over the choices.

    The results have the columns ``shots`` and ``choice``, too. The means at the end are over the complete categories.
    """
    of_complete = results[results["category"].isin(complete)]
    means = of_complete.groupby(["shots", "choice"], sort=False)[[*MEASURED]].mean().assign(category=MEAN)
    figures = pd.concat([results, means.reset_index()]).groupby(["category", "shots"], sort=False)[[*MEASURED]]
    spread = figures.std().map(lambda value: "" if pd.isna(value) else f" ± {percent(value)}")
    return (figures.mean().map(percent) + spread).rename(columns=MEASURED)


def percent(value: float) -> str:
    """Format a share in percent, and NaN as a dash."""
    return "-" if pd.isna(value) else f"{100 * value:.1f}"


def to_markdown(cells: pd.DataFrame) -> str:
    """Format a table as Markdown, with the index on the left."""
    cells = cells.reset_index().astype(str)
    return "\n".join(markdown_lines([*cells], cells.to_numpy().tolist())) + "\n"


def markdown_lines(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a Markdown table of rows that may come one by one, each a name and figures."""
    yield f"| {' | '.join(header)} |"
    yield "|---" + "|---:" * (len(header) - 1) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"
