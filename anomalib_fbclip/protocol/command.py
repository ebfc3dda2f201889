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
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from anomalib.data import AnomalibDataModule, get_datamodule
from anomalib.pipelines.components.runners.parallel import ParallelExecutionError
from anomalib.pipelines.components.runners.serial import SerialExecutionError
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt, PositiveInt
from rich.console import Console

from anomalib_fbclip import FBClip
from anomalib_fbclip.cli.configs import describe_missing
from anomalib_fbclip.errors import FAILED, NORMAL, ProtocolError
from anomalib_fbclip.results.files import replacing
from anomalib_fbclip.weights.registry import resolve_backbone
from anomalib_fbclip.weights.source import resolve_adapters_file

from .categories import find_categories, name_dataset
from .frames import (
    find_complete,
    find_published,
    read_results,
    tabulate,
    tabulate_shots,
    to_markdown,
    to_screen,
)
from .job import Plan, ProtocolJobGenerator, choose_runner

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


def list_shots(numbers: list[int], choices: int) -> list[Shots]:
    """List what is tested: so many choices for each number of good photographs, and zero-shot once."""
    return [Shots(number, choice) for number in dict.fromkeys(numbers) for choice in range(choices if number else 1)]


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


def run(arguments: list[str] | None) -> int:
    """Test the categories that are not tested yet, and show the table of all.

    Args:
        arguments (list[str] | None): The command line; ``None``: that of the process.

    Returns:
        int: The exit code.

    Raises:
        ArgumentError: If an argument is wrong.
        ProtocolError: If it cannot begin.
        OSError: If the results cannot be written.
    """
    if line := describe_missing(sys.argv[1:] if arguments is None else arguments):
        raise ProtocolError(line)
    options = create_parser().parse_args(arguments)
    data = {"class_path": options.data.class_path, "init_args": options.data.get("init_args", Namespace()).as_dict()}
    model = options.model.as_dict()
    if options.shots and (model["k_shot"] or model["few_shot_source"] is not None):
        msg = "--shots takes good photographs of each category's training split: leave out k_shot and few_shot_source"
        raise ProtocolError(msg)
    try:
        datamodule, files = get_datamodule(data), digest_files(model)
    except (TypeError, ValueError) as error:
        raise ProtocolError(str(error)) from error
    categories = find_categories(datamodule, options.categories)
    file = options.output / f"{name_dataset(datamodule)}.csv"
    _check_dataset(file, Path(getattr(datamodule, "root", None) or "."))

    def test(model: dict[str, Any]) -> pd.DataFrame:
        settings = describe_settings(model, data, files)
        plan = Plan(json.dumps(model, default=str), data, options.accelerator, settings, file)
        return _test_missing(plan, categories)

    results: dict[tuple[int, int], pd.DataFrame] = {}
    for shots in list_shots(options.shots or [], options.choices):
        print(f"{shots.title}:", file=sys.stderr)
        results[shots] = test({**model, "k_shot": shots.number, "seed": model["seed"] + shots.choice})
    if not options.shots:
        results[0, 0] = test(model)
    found = [*results.values()]
    if any(map(len, found)):
        cells = tabulate_shots(results) if options.shots else tabulate(found[0], find_published(file.stem, found[0]))
        _show(f"{len(find_complete(found))} of {len(categories)} categories", cells, file)
    return FAILED if any(len(each) < len(categories) for each in found) else NORMAL


def _show(tested: str, cells: pd.DataFrame, file: Path) -> None:
    """Show the table of the results, and write it beside the file of them."""
    Console().print(to_screen(f"FB-CLIP on {file.stem}, {tested}, in percent", cells))
    markdown = file.with_suffix(".md")
    with replacing(markdown) as temporary:
        temporary.write_text(to_markdown(file.stem, cells), encoding="utf-8")
    print(f"Written: {file} and {markdown}", file=sys.stderr)


def _test_missing(plan: Plan, categories: list[str]) -> pd.DataFrame:
    """Test the categories that are not tested yet, and give the results of all that could be."""
    done = _results_of(plan, categories)
    if len(done):
        print(f"{len(done)} of {len(categories)} categories are in {plan.file} already", file=sys.stderr)
    if missing := [category for category in categories if category not in set(done["category"])]:
        logging.getLogger("anomalib.pipelines").setLevel(logging.CRITICAL)  # each job says itself why it failed
        logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(
            logging.WARNING
        )  # devices, for each category
        with suppress(SerialExecutionError, ParallelExecutionError):
            choose_runner(ProtocolJobGenerator(plan, missing)).run({})
    return _results_of(plan, categories)


def _check_dataset(file: Path, root: Path) -> None:
    """Refuse a file with results of another dataset, whose folder has the same name."""
    roots = [json.loads(settings)["data"].get("root", root) for settings in read_results(file)["settings"]]
    if others := [other for other in roots if Path(other).resolve() != root.resolve()]:
        msg = f"{file} holds results of another dataset, in {others[0]}. Give another --output"
        raise ProtocolError(msg)


def _results_of(plan: Plan, categories: list[str]) -> pd.DataFrame:
    """Read the results of the categories, in their order."""
    results = read_results(plan.file)
    results = results[results["category"].isin(categories) & (results["settings"] == plan.settings)]
    return results.sort_values("category", key=lambda names: names.map(categories.index), ignore_index=True)


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
