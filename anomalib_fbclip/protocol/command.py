# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Command line: tests FB-CLIP on all categories of a dataset.

Exit codes: 0, all categories were tested; 2, something went wrong; 130, interrupted.
"""

import hashlib
import inspect
import json
import logging
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from anomalib.data import AnomalibDataModule, get_datamodule
from anomalib.pipelines.components.runners.parallel import ParallelExecutionError
from anomalib.pipelines.components.runners.serial import SerialExecutionError
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt, PositiveInt
from rich.console import Console

from anomalib_fbclip import FBClip
from anomalib_fbclip.checkpoints.registry import resolve_backbone
from anomalib_fbclip.checkpoints.source import resolve_adapters_file
from anomalib_fbclip.contract.commands import FAILED, NORMAL
from anomalib_fbclip.contract.files import replacing
from anomalib_fbclip.inspection.configs import describe_missing

from .categories import find_categories, name_dataset
from .errors import ProtocolError
from .job import Plan, ProtocolJobGenerator, choose_runner
from .published import find_published
from .results import Row, read_rows, to_markdown, to_table
from .shots import Shots, find_complete, list_shots
from .shots import to_markdown as to_shots_markdown
from .shots import to_table as to_shots_table

FIXED: set[str | int] = {
    "pre_processor",
    "post_processor",
    "evaluator",
    "visualizer",
    "image_threshold",
    "pixel_threshold",
}
"""Arguments of FBClip that are no matter of choice here: none of the paper's metrics needs a threshold."""

WITHOUT_EFFECT = {"category", "categories", "train_batch_size", "eval_batch_size", "num_workers"}
"""Arguments of datamodules on which the results of a category do not depend."""


def create_parser() -> ArgumentParser:
    """Create the parser of the command line, and of the file that ``--config`` takes."""
    parser = ArgumentParser(
        prog="python -m anomalib_fbclip.protocol",
        description="Test FB-CLIP on each category of a dataset, and average the metrics, as the paper does.",
        epilog="Exit codes: 0, all categories were tested; 2, something went wrong; 130, interrupted.",
        exit_on_error=False,
    )
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file of any of these options")
    parser.add_subclass_arguments(
        AnomalibDataModule,
        "data",
        required=True,
        fail_untyped=False,
        help="the dataset: a file such as those in configs/data, or the name of a datamodule",
    )
    parser.add_class_arguments(FBClip, "model", skip=FIXED, fail_untyped=False, instantiate=False)
    parser.add_argument("--categories", type=list[str] | None, default=None, help="those to test (default: all)")
    parser.add_argument(
        "--shots",
        type=list[NonNegativeInt] | None,
        default=None,
        help="numbers of good photographs to test with, of each category's training split, such as [0, 1, 2, 4, 8]; "
        "0: zero-shot",
    )
    parser.add_argument("--choices", type=PositiveInt, default=3, help="how often so many photographs are chosen")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("results/protocol"),
        help="folder for DATASET.csv and DATASET.md; what is in the CSV file already is not tested again",
    )
    parser.add_argument("--accelerator", type=str, default="auto", help="an accelerator of Lightning: cpu, cuda, ...")
    return parser


def run_arguments(arguments: list[str] | None) -> int:
    """Run the command with these arguments, or with those of the process.

    Raises:
        ArgumentError: If an argument is wrong.
        ProtocolError: If it cannot begin.
    """
    if line := describe_missing(sys.argv[1:] if arguments is None else arguments):
        raise ProtocolError(line)
    return run(create_parser().parse_args(arguments))


def run(options: Namespace) -> int:
    """Test the categories that are not tested yet, and show the table of all.

    Args:
        options (Namespace): The command line.

    Returns:
        int: The exit code.

    Raises:
        ProtocolError: If it cannot begin.
        OSError: If the results cannot be written.
    """
    shots = _list_shots(options)
    try:
        datamodule, plans = _make_plans(options, shots)
    except (TypeError, ValueError) as error:
        raise ProtocolError(str(error)) from error
    categories = find_categories(datamodule, options.categories)
    _check_dataset(plans[0].file, Path(getattr(datamodule, "root", None) or "."))

    results = []
    for index, plan in enumerate(plans):
        if shots:
            print(f"{shots[index].title}:", file=sys.stderr)
        results.append(_test_missing(plan, categories))
    if any(results):
        title = f"FB-CLIP on {plans[0].file.stem}, {len(find_complete(results))} of {len(categories)} categories"
        _show(plans[0].file, f"{title}, in percent", shots, results)
    return FAILED if any(len(rows) < len(categories) for rows in results) else NORMAL


def _make_plans(options: Namespace, shots: Sequence[Shots]) -> tuple[AnomalibDataModule, list[Plan]]:
    """Create the datamodule of any category, and plan a test for each choice of good photographs, or a single one."""
    data = {"class_path": options.data.class_path, "init_args": options.data.get("init_args", Namespace()).as_dict()}
    model = options.model.as_dict()
    datamodule = get_datamodule(data)
    files = digest_files(model)
    file = options.output / f"{name_dataset(datamodule)}.csv"
    return datamodule, [
        Plan(json.dumps(each, default=str), data, options.accelerator, describe_settings(each, data, files), file)
        for each in ([chosen.arguments(model) for chosen in shots] or [model])
    ]


def _show(file: Path, title: str, shots: Sequence[Shots], results: Sequence[dict[str, Row]]) -> None:
    """Show the table of the results, and write it beside the file of them."""
    if shots:
        by_shots = dict(zip(shots, results, strict=True))
        table, text = to_shots_table(title, by_shots), to_shots_markdown(file.stem, by_shots)
    else:
        rows = list(results[0].values())
        published = find_published(file.stem, rows[0].settings, list(results[0]))
        table, text = to_table(title, rows, published), to_markdown(file.stem, rows, published)
    Console().print(table)
    markdown = file.with_suffix(".md")
    with replacing(markdown) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"Written: {file} and {markdown}", file=sys.stderr)


def _list_shots(options: Namespace) -> list[Shots]:
    """List the choices of good photographs that are asked for, if any are."""
    if options.shots and (options.model.k_shot or options.model.few_shot_source is not None):
        msg = "--shots takes good photographs of each category's training split: leave out k_shot and few_shot_source"
        raise ProtocolError(msg)
    return list_shots(options.shots or [], options.choices)


def _test_missing(plan: Plan, categories: list[str]) -> dict[str, Row]:
    """Test the categories that are not tested yet, and give the results of all that could be."""
    done = _rows_of(plan, categories)
    if done:
        print(f"{len(done)} of {len(categories)} categories are in {plan.file} already", file=sys.stderr)
    if missing := [category for category in categories if category not in done]:
        _run_jobs(plan, missing)
    return _rows_of(plan, categories)


def _check_dataset(file: Path, root: Path) -> None:
    """Refuse a file with results of another dataset, whose folder has the same name."""
    roots = [json.loads(row.settings)["data"].get("root", root) for row in read_rows(file)]
    if others := [other for other in roots if Path(other).resolve() != root.resolve()]:
        msg = f"{file} holds results of another dataset, in {others[0]}. Give another --output"
        raise ProtocolError(msg)


def _rows_of(plan: Plan, categories: list[str]) -> dict[str, Row]:
    """Read the results of the categories, in their order."""
    rows = {row.category: row for row in read_rows(plan.file) if row.settings == plan.settings}
    return {category: rows[category] for category in categories if category in rows}


def _run_jobs(plan: Plan, categories: list[str]) -> None:
    """Run the jobs. Each says itself why it failed."""
    logging.getLogger("anomalib.pipelines").setLevel(logging.CRITICAL)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)  # devices, for each category
    with suppress(SerialExecutionError, ParallelExecutionError):
        choose_runner(ProtocolJobGenerator(plan, categories)).run({})


def digest_files(model: dict[str, Any]) -> list[str]:
    """Compute the digests of the files of weights that these arguments of FBClip name."""
    backbone = resolve_backbone(model["backbone"])
    adapters = None if model["weights"] is None else resolve_adapters_file(str(model["weights"]), backbone)
    files = [Path(path) for path in (adapters, model["pretrained"]) if path]
    return [hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in files if path.is_file()]


def describe_settings(model: dict[str, Any], data: dict[str, Any], files: list[str]) -> str:
    """Describe what the results depend on, but for the category.

    Args:
        model (dict[str, Any]): Arguments of FBClip.
        data (dict[str, Any]): ``class_path`` and ``init_args`` of the datamodule.
        files (list[str]): Digests of the files of weights.

    Returns:
        str: As JSON: the arguments that are not the usual ones, the datamodule, the digests, and the version.
    """
    usual = {name: parameter.default for name, parameter in inspect.signature(FBClip).parameters.items()}
    settings = {
        "model": {name: value for name, value in model.items() if _plain(value) != _plain(usual[name])},
        "layout": data["class_path"].rpartition(".")[-1],
        "data": {name: value for name, value in data["init_args"].items() if name not in WITHOUT_EFFECT},
        "files": files,
        "version": version("anomalib-fbclip"),
    }
    return json.dumps(settings, default=str, sort_keys=True)


def _plain(value: object) -> object:
    """Give a sequence as a list: versions of the parser differ in what they make of it."""
    return list(value) if isinstance(value, tuple) else value
