# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Tables and pictures of what ``anomalib benchmark`` measured: models side by side, accuracy against duration.

::

    anomalib benchmark --config configs/benchmark/mvtec_ad_fbclip.yaml
    anomalib benchmark --config configs/benchmark/mvtec_ad_others.yaml
    python -m anomalib_fbclip.protocol.comparison runs/benchmark --output results/comparison

Exit codes: 0, written; 2, something went wrong; 130, interrupted.
"""

from __future__ import annotations

import io
import math
import sys
from argparse import ArgumentParser
from itertools import starmap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomalib_fbclip.errors import ProtocolError, run_command
from anomalib_fbclip.results.files import replacing

from .markdown import markdown_lines

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

MODEL = "model.class_path"
MODEL_ARGUMENTS = "model.init_args."
DATASET = [f"data.{name}" for name in ("class_path", "init_args.name", "init_args.category", "init_args.categories")]
"""What tells datasets apart, and names them."""

DURATIONS = {"fit_duration": "fit, s", "test_duration": "test, s"}
"""Title of each duration by its column."""


def read_tables(paths: Sequence[Path]) -> pd.DataFrame:
    """Read tables of ``anomalib benchmark`` as one.

    Args:
        paths (Sequence[Path]): CSV files, and folders with ``results.csv`` anywhere in them; where several measured the
            same, the last one counts.

    Returns:
        pandas.DataFrame: A row for each model and dataset, which have the columns ``model`` and ``dataset``.

    Raises:
        ProtocolError: If there is no table at a path, or a file is none.
    """
    import pandas as pd  # whoever runs the command is told in a line if it is missing

    table = pd.concat([_read_table(file) for path in paths for file in _find_tables(path)], ignore_index=True)
    rows = [row.dropna().to_dict() for _, row in table.iterrows()]
    table["model"] = [*map(_name_model, rows)]
    table["dataset"] = [" ".join(str(row[name]) for name in DATASET if name in row) for row in rows]
    return table.drop_duplicates(["model", "dataset"], keep="last", ignore_index=True)


def _find_tables(path: Path) -> list[Path]:
    found = sorted(path.rglob("results.csv")) if path.is_dir() else [path]
    if not found or not found[0].is_file():
        msg = f"There is no results.csv of 'anomalib benchmark' at {path}."
        raise ProtocolError(msg)
    return found


def _read_table(file: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        table = pd.read_csv(file, dtype={"data.init_args.category": str})
    except (OSError, ValueError) as error:
        msg = f"{file} cannot be read: {error}"
        raise ProtocolError(msg) from error
    if MODEL not in table or not set(DURATIONS) <= set(table):
        msg = f"{file} is not a table of 'anomalib benchmark': it has no column {MODEL}, or none of durations."
        raise ProtocolError(msg)
    return table


def _name_model(row: dict[Any, Any]) -> str:
    arguments = [str(value) for name, value in row.items() if name.startswith(MODEL_ARGUMENTS)]
    name = str(row[MODEL]).rsplit(".", maxsplit=1)[-1]
    return f"{name} ({', '.join(arguments)})" if arguments else name


def summarize(table: pd.DataFrame) -> pd.DataFrame:
    """Average what was measured over the datasets that all models were tested on.

    Args:
        table (pandas.DataFrame): A table of :func:`read_tables`.

    Returns:
        pandas.DataFrame: A row for each model, the most accurate one first, with the number of ``datasets``, the
            metrics, 0..1, and the durations in seconds. A metric that a model does not report is NaN.

    Raises:
        ProtocolError: If no dataset was tested by all models.
    """
    models = table["model"].nunique()
    tested = table.groupby("dataset")["model"].nunique()
    common = tested[tested == models].index
    if common.empty:
        msg = f"No dataset was tested by all of {', '.join(table['model'].unique())}."
        raise ProtocolError(msg)
    table = table[table["dataset"].isin(common)]
    metrics = [column for column in table if column.startswith(("image_", "pixel_"))]
    summary = table.groupby("model", sort=False)[[*metrics, *DURATIONS]].mean()
    summary.insert(0, "datasets", len(common))
    return summary.sort_values(metrics[0], ascending=False) if metrics else summary


def to_markdown(summary: pd.DataFrame) -> str:
    """Write a summary as a table in Markdown, metrics in percent."""
    titles = [DURATIONS.get(column, column.replace("_", " ")) for column in summary]
    rows = ([str(model), *starmap(_format, row.items())] for model, row in summary.iterrows())
    return "\n".join(markdown_lines(["model", *titles], rows)) + "\n"


def _format(column: str, value: float) -> str:
    if math.isnan(value):
        return "-"
    if column == "datasets":
        return f"{value:.0f}"
    return f"{value:.1f}" if column in DURATIONS else f"{100 * value:.1f}"


def draw(summary: pd.DataFrame, metric: str) -> bytes:
    """Draw accuracy against the duration of the test.

    Args:
        summary (pandas.DataFrame): A summary of :func:`summarize`.
        metric (str): Column to draw.

    Returns:
        bytes: The picture, as PNG.

    Raises:
        ProtocolError: If no model reports the metric.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter

    if metric not in summary or summary[metric].isna().all():
        msg = f"No model reports {metric}. There are: {', '.join(summary.columns[1:])}."
        raise ProtocolError(msg)
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    rows = summary.dropna(subset=metric)
    middle = (rows["test_duration"].min() * rows["test_duration"].max()) ** 0.5
    for model, row in rows.iterrows():
        point = (row["test_duration"], 100 * row[metric])
        axes.scatter(*point)
        side = "left" if point[0] <= middle else "right"
        axes.annotate(str(model), point, xytext=(0, 6), textcoords="offset points", horizontalalignment=side)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
    axes.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
    axes.set(xlabel="duration of a test in seconds", ylabel=f"{metric.replace('_', ' ')} in percent")
    axes.margins(0.2)
    axes.grid(visible=True, alpha=0.3)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150)
    return file.getvalue()


def main(arguments: list[str] | None = None) -> int:
    """Run the command with these arguments, or with those of the process, and give the exit code."""
    parser = ArgumentParser(
        prog="python -m anomalib_fbclip.protocol.comparison",
        description="Put what 'anomalib benchmark' measured into a table and a picture.",
        epilog="Exit codes: 0, written; 2, something went wrong; 130, interrupted.",
    )
    parser.add_argument("tables", type=Path, nargs="+", help="results.csv of benchmarks, or folders with such files")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("results/comparison"),
        help="files to write, without the suffix: .md and .png (default: results/comparison)",
    )
    parser.add_argument("--metric", type=str, default="image_AUROC", help="the metric in the picture")
    options = parser.parse_args(arguments)
    return run_command(lambda: compare(options.tables, options.output, options.metric))


def compare(tables: Sequence[Path], output: Path, metric: str) -> int:
    """Write the table and the picture, and show the table.

    Args:
        tables (Sequence[Path]): What :func:`read_tables` reads.
        output (Path): The files to write, without their suffix.
        metric (str): The metric in the picture.

    Returns:
        int: The exit code, 0.

    Raises:
        ProtocolError: If there is nothing to compare.
        OSError: If the files cannot be written.
    """
    summary = summarize(read_tables(tables))
    table, picture = to_markdown(summary), draw(summary, metric)
    for suffix, content in ((".md", table.encode()), (".png", picture)):
        with replacing(output.with_name(output.name + suffix)) as temporary:
            temporary.write_bytes(content)
    print(table)
    print(f"Written: {output}.md and {output}.png", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
