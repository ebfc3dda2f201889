# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Command line: tests FB-CLIP on all categories of a dataset.

Exit codes: 0, all categories were tested; 1, some failed; 2, it could not begin; 130, it was interrupted.
"""

import hashlib
import inspect
import json
import logging
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from anomalib.data import AnomalibDataModule, get_datamodule
from anomalib.pipelines.components.runners.parallel import ParallelExecutionError
from anomalib.pipelines.components.runners.serial import SerialExecutionError
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace
from rich.console import Console

from anomalib_fbclip import FBClip
from anomalib_fbclip.checkpoints.registry import resolve_backbone
from anomalib_fbclip.checkpoints.source import resolve_adapters_file
from anomalib_fbclip.contract.files import replacing

from .categories import find_categories, name_dataset
from .command import run_command
from .errors import ProtocolError
from .job import Plan, ProtocolJobGenerator, choose_runner
from .results import Row, read_rows, to_markdown, to_table

FIXED: set[str | int] = {
    "pre_processor",
    "post_processor",
    "evaluator",
    "visualizer",
    "image_threshold",
    "pixel_threshold",
}
"""Arguments of FBClip that are no matter of choice here: none of the metrics needs a threshold."""

WITHOUT_EFFECT = {"category", "categories", "train_batch_size", "eval_batch_size", "num_workers"}
"""Arguments of datamodules on which the results of a category do not depend."""


def create_parser() -> ArgumentParser:
    """Create the parser of the command line, and of the file that ``--config`` takes."""
    parser = ArgumentParser(
        prog="python -m anomalib_fbclip.protocol",
        description="Test FB-CLIP on each category of a dataset, and average the metrics, as the paper does.",
        epilog="Exit codes: 0, all categories were tested; 1, some failed; 2, it could not begin; 130, interrupted.",
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
        "--output",
        type=Path,
        default=Path("results/protocol"),
        help="folder for DATASET.csv and DATASET.md; what is in the CSV file already is not tested again",
    )
    parser.add_argument("--accelerator", type=str, default="auto", help="an accelerator of Lightning: cpu, cuda, ...")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command with these arguments, or with those of the process, and give the exit code."""
    return run_command(create_parser(), run, arguments)


def run(options: Namespace) -> int:
    """Test the categories that are not tested yet, and show the table of all.

    Args:
        options (Namespace): The command line.

    Returns:
        int: The exit code: 0, or 1 if a category failed.

    Raises:
        ProtocolError: If it cannot begin.
        OSError: If the results cannot be written.
    """
    data = {"class_path": options.data.class_path, "init_args": options.data.get("init_args", Namespace()).as_dict()}
    model = options.model.as_dict()
    try:
        datamodule = get_datamodule(data)
        settings = describe_settings(model, data)
    except (TypeError, ValueError) as error:
        raise ProtocolError(str(error)) from error
    categories = find_categories(datamodule, options.categories)
    name = name_dataset(datamodule)
    file = options.output / f"{name}.csv"
    _check_dataset(file, Path(getattr(datamodule, "root", None) or "."))
    plan = Plan(json.dumps(model, default=str), data, options.accelerator, settings, file)

    done = _rows_of(plan, categories)
    missing = [category for category in categories if category not in done]
    if done:
        print(f"{len(done)} of {len(categories)} categories are in {file} already", file=sys.stderr)
    failed = bool(missing) and not _run_jobs(plan, missing)

    rows = list(_rows_of(plan, categories).values())
    if rows:
        title = f"FB-CLIP on {name}, {len(rows)} of {len(categories)} categories, in percent"
        Console().print(to_table(title, rows))
        markdown = file.with_suffix(".md")
        with replacing(markdown) as temporary:
            temporary.write_text(to_markdown(name, rows), encoding="utf-8")
        print(f"Written: {file} and {markdown}", file=sys.stderr)
    return int(failed)


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


def _run_jobs(plan: Plan, categories: list[str]) -> bool:
    """Run the jobs, and tell whether all succeeded. Each job says itself why it failed."""
    logging.getLogger("anomalib.pipelines").setLevel(logging.CRITICAL)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)  # devices, for each category
    try:
        choose_runner(ProtocolJobGenerator(plan, categories)).run({})
    except (SerialExecutionError, ParallelExecutionError):
        return False
    return True


def describe_settings(model: dict[str, Any], data: dict[str, Any]) -> str:
    """Describe what the results depend on, but for the category.

    Args:
        model (dict[str, Any]): Arguments of FBClip.
        data (dict[str, Any]): ``class_path`` and ``init_args`` of the datamodule.

    Returns:
        str: As JSON: the arguments that are not the usual ones, the datamodule, digests of the files of weights, and
            the version.
    """
    usual = {name: parameter.default for name, parameter in inspect.signature(FBClip).parameters.items()}
    backbone = resolve_backbone(model["backbone"])
    adapters = None if model["weights"] is None else resolve_adapters_file(str(model["weights"]), backbone)
    files = [Path(path) for path in (adapters, model["pretrained"]) if path]
    settings = {
        "model": {name: value for name, value in model.items() if value != _plain(usual[name])},
        "layout": data["class_path"].rpartition(".")[-1],
        "data": {name: value for name, value in data["init_args"].items() if name not in WITHOUT_EFFECT},
        "files": [hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in files if path.is_file()],
        "version": version("anomalib-fbclip"),
    }
    return json.dumps(settings, default=str, sort_keys=True)


def _plain(value: object) -> object:
    """Bring a default to the form in which the parser gives it."""
    return list(value) if isinstance(value, tuple) else value


if __name__ == "__main__":
    sys.exit(main())
