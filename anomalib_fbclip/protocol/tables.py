# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Tables of results: of categories, from a CSV file that a run continues, and of models, from ``anomalib benchmark``.

A frame of results has a row for each category and settings: the category, the measures of ``MEASURED`` (0..1, or NaN if
undefined), the numbers of normal and of anomalous test images, and the settings.
"""

import json
import sys
from argparse import ArgumentParser
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from anomalib_fbclip.errors import NORMAL, CommandError
from anomalib_fbclip.results.files import replacing
from anomalib_fbclip.weights.source import canonical_name, choose_zero_shot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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

MODEL = "model.class_path"
DATASET = [f"data.{name}" for name in ("class_path", "init_args.name", "init_args.category", "init_args.categories")]
DURATIONS = {"fit_duration": "fit, s", "test_duration": "test, s"}
"""Columns of the tables of ``anomalib benchmark``."""


def read_results(path: Path) -> pd.DataFrame:
    """Read a CSV file of results, which may not exist yet, without its means."""
    if not path.exists():
        return pd.DataFrame(columns=list(TYPES)).astype(TYPES)
    names = {name: [""] for name in MEASURED}
    try:
        table = pd.read_csv(path, encoding="utf-8-sig", dtype=TYPES, na_values=names, keep_default_na=False)[[*TYPES]]
    except (KeyError, ValueError) as error:
        msg = f"{path} is not a table of results ({error!r}): move it away, or give another --output"
        raise CommandError(msg) from error
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


def _read_benchmarks(paths: Sequence[Path]) -> pd.DataFrame:
    """Read CSV files, and those in folders, as a table with the last measurement of each model on each dataset."""
    tables = []
    for path in paths:
        files = sorted(path.rglob("results.csv")) if path.is_dir() else [path]
        tables += [_read_benchmark(file) for file in files or [path / "results.csv"]]
    table = pd.concat(tables, ignore_index=True)
    arguments = _join_cells(table.filter(like="model.init_args."), ", ").map(lambda text: f" ({text})" if text else "")
    table["model"] = table[MODEL].str.rpartition(".")[2] + arguments
    table["dataset"] = _join_cells(table.reindex(columns=DATASET), " ")
    return table.drop_duplicates(["model", "dataset"], keep="last", ignore_index=True)


def _read_benchmark(file: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(file, dtype={"data.init_args.category": str})
        table[[MODEL, *DURATIONS]]
    except (KeyError, OSError, ValueError) as error:
        msg = f"{file} is not a table of 'anomalib benchmark': give its results.csv ({error!r})"
        raise CommandError(msg) from error
    return table


def _join_cells(table: pd.DataFrame, separator: str) -> pd.Series:
    """Join the filled cells of each row."""
    rows = table.astype(object).iterrows()
    return pd.Series([separator.join(map(str, row.dropna())) for _, row in rows], table.index)


def _summarize(table: pd.DataFrame) -> pd.DataFrame:
    """Average metrics and durations over the datasets on which all models were tested, the best model first."""
    tested = table.groupby("dataset")["model"].nunique()
    common = tested[tested == table["model"].nunique()].index
    metrics = [column for column in table if column.startswith(("image_", "pixel_"))]
    if common.empty or not metrics:
        msg = (
            f"There is no common {'dataset' if metrics else 'metric'} of {', '.join(table['model'].unique())}: give "
            "tables that have one."
        )
        raise CommandError(msg)
    groups = table[table["dataset"].isin(common)].groupby("model", sort=False)
    summary = groups[[*metrics, *DURATIONS]].mean().sort_values(metrics[0], ascending=False)
    summary.insert(0, "datasets", len(common))
    return summary


def _tabulate(summary: pd.DataFrame) -> pd.DataFrame:
    """Format a summary, with metrics in percent."""
    metrics = summary.drop(columns=["datasets", *DURATIONS]).map(percent)
    cells = pd.concat([summary["datasets"], metrics, summary[[*DURATIONS]].map("{:.1f}".format)], axis="columns")
    return cells.rename(columns=lambda name: DURATIONS.get(name, name.replace("_", " ")))


def _draw(summary: pd.DataFrame) -> "Figure":
    """Plot the first metric of a summary against the duration of the test."""
    from matplotlib.figure import Figure  # not needed for the protocol, and not always installed
    from matplotlib.ticker import LogFormatter

    metric = summary.columns[1]
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    for model, seconds, value in summary.dropna(subset=metric)[["test_duration", metric]].itertuples():
        axes.scatter(seconds, 100 * value, label=model)
    figure.legend(loc="outside upper center", ncols=2)
    axes.set(xscale="log", xlabel="duration of a test in seconds", ylabel=f"{metric.replace('_', ' ')} in percent")
    axes.xaxis.set_major_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
    axes.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
    axes.grid(visible=True, alpha=0.3)
    return figure


def compare(arguments: list[str]) -> int:
    """Compare models that ``anomalib benchmark`` measured, and return the exit code."""
    parser = ArgumentParser(
        prog="python -m anomalib_fbclip.protocol compare",
        description="Compare models that 'anomalib benchmark' measured, in a table and a picture.",
        epilog="Exit codes: 0, written; 2, something went wrong; 130, interrupted.",
    )
    parser.add_argument("tables", type=Path, nargs="+", help="results.csv of benchmarks, or folders with such files")
    of_output = "files to write, without the suffix: .md and .png (default: %(default)s)"
    parser.add_argument("--output", type=Path, default=Path("results/comparison"), help=of_output)
    options = parser.parse_args(arguments)
    summary = _summarize(_read_benchmarks(options.tables))
    table, figure = to_markdown(_tabulate(summary)), _draw(summary)
    markdown, picture = (options.output.with_name(options.output.name + suffix) for suffix in (".md", ".png"))
    with replacing(markdown) as text, replacing(picture) as drawing:
        text.write_text(table, encoding="utf-8")
        figure.savefig(drawing, format="png", dpi=150)
    print(table)
    print(f"Written: {markdown} and {picture}", file=sys.stderr)
    return NORMAL
