# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Comparison of models that ``anomalib benchmark`` measured: a table, and a picture of accuracy and duration."""

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from anomalib_fbclip.errors import NORMAL, ProtocolError
from anomalib_fbclip.results.files import replacing

from .tables import percent, to_markdown

MODEL = "model.class_path"
DATASET = [f"data.{name}" for name in ("class_path", "init_args.name", "init_args.category", "init_args.categories")]
DURATIONS = {"fit_duration": "fit, s", "test_duration": "test, s"}


def _read_tables(paths: Sequence[Path]) -> pd.DataFrame:
    """Read CSV files, and those in folders, as a table with the last measurement of each model on each dataset."""
    tables = []
    for path in paths:
        files = sorted(path.rglob("results.csv")) if path.is_dir() else [path]
        tables += [_read_table(file) for file in files or [path / "results.csv"]]
    table = pd.concat(tables, ignore_index=True)
    arguments = _join_cells(table.filter(like="model.init_args."), ", ").map(lambda text: f" ({text})" if text else "")
    table["model"] = table[MODEL].str.rpartition(".")[2] + arguments
    table["dataset"] = _join_cells(table.reindex(columns=DATASET), " ")
    return table.drop_duplicates(["model", "dataset"], keep="last", ignore_index=True)


def _read_table(file: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(file, dtype={"data.init_args.category": str})
        table[[MODEL, *DURATIONS]]
    except (KeyError, OSError, ValueError) as error:
        msg = f"{file} is not a table of 'anomalib benchmark': give its results.csv ({error!r})"
        raise ProtocolError(msg) from error
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
        raise ProtocolError(msg)
    groups = table[table["dataset"].isin(common)].groupby("model", sort=False)
    summary = groups[[*metrics, *DURATIONS]].mean().sort_values(metrics[0], ascending=False)
    summary.insert(0, "datasets", len(common))
    return summary


def _tabulate(summary: pd.DataFrame) -> pd.DataFrame:
    """Format a summary, with metrics in percent."""
    metrics = summary.drop(columns=["datasets", *DURATIONS]).map(percent)
    cells = pd.concat([summary["datasets"], metrics, summary[[*DURATIONS]].map("{:.1f}".format)], axis="columns")
    return cells.rename(columns=lambda name: DURATIONS.get(name, name.replace("_", " ")))


def _draw(summary: pd.DataFrame) -> Figure:
    """Plot the first metric of a summary against the duration of the test."""
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


def run(arguments: list[str]) -> int:
    """Write the table and the picture, show the table, and return the exit code."""
    parser = ArgumentParser(
        prog="python -m anomalib_fbclip.protocol compare",
        description="Compare models that 'anomalib benchmark' measured, in a table and a picture.",
        epilog="Exit codes: 0, written; 2, something went wrong; 130, interrupted.",
    )
    parser.add_argument("tables", type=Path, nargs="+", help="results.csv of benchmarks, or folders with such files")
    of_output = "files to write, without the suffix: .md and .png (default: %(default)s)"
    parser.add_argument("--output", type=Path, default=Path("results/comparison"), help=of_output)
    options = parser.parse_args(arguments)
    summary = _summarize(_read_tables(options.tables))
    table, figure = to_markdown(_tabulate(summary)), _draw(summary)
    markdown, picture = (options.output.with_name(options.output.name + suffix) for suffix in (".md", ".png"))
    with replacing(markdown) as text, replacing(picture) as drawing:
        text.write_text(table, encoding="utf-8")
        figure.savefig(drawing, format="png", dpi=150)
    print(table)
    print(f"Written: {markdown} and {picture}", file=sys.stderr)
    return NORMAL
