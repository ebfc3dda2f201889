# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Command line that tests FB-CLIP on all categories of a dataset."""

import hashlib
import inspect
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from anomalib.data import AnomalibDataModule, get_datamodule
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt, PositiveInt
from rich.console import Console
from rich.markdown import Markdown

from anomalib_fbclip import FBClip
from anomalib_fbclip.cli.packaged import describe_missing
from anomalib_fbclip.data.references import DATASET
from anomalib_fbclip.errors import FAILED, NORMAL, ProtocolError
from anomalib_fbclip.results.files import replacing
from anomalib_fbclip.weights.registry import resolve_backbone
from anomalib_fbclip.weights.source import resolve_adapters_file

from .runs import Plan, find_categories, name_dataset, run_missing
from .tables import read_results, tabulate, tabulate_shots, to_markdown

THRESHOLDS: set[str | int] = {"image_threshold", "pixel_threshold"}
OBJECTS: set[str | int] = {"pre_processor", "post_processor", "evaluator", "visualizer"}
"""Arguments of FBClip that are not options here. None of the paper's metrics needs a threshold."""

UNLABELED_SHOTS = "unlabeled"
"""Value of ``--shots`` with which test images are compared with each other."""

WITHOUT_EFFECT = {"category", "categories", "train_batch_size", "eval_batch_size", "num_workers"}
"""Arguments of datamodules that do not change a category's results."""


def create_parser() -> ArgumentParser:
    """Create the parser of the command line and of ``--config`` files."""
    parser = ArgumentParser(
        prog="python -m anomalib_fbclip.protocol",
        description="Test FB-CLIP on each category of a dataset, and average the metrics, as the paper does. "
        "'compare --help' describes how to compare models.",
        epilog="Exit codes: 0, all categories were tested; 2, something went wrong; 130, interrupted.",
        exit_on_error=False,
    )
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file of any of these options")
    of_data = "the dataset: a file as in configs/data, or the name of a datamodule"
    parser.add_subclass_arguments(AnomalibDataModule, "data", required=True, fail_untyped=False, help=of_data)
    parser.add_class_arguments(FBClip, "model", skip=OBJECTS | THRESHOLDS, fail_untyped=False, instantiate=False)
    parser.add_argument("--categories", type=list[str] | None, help="categories to test (default: all)")
    of_shots = "numbers of good photographs from each category's training split, 0 for zero-shot, or 'unlabeled' to "
    of_shots += "compare test images with each other: [0, unlabeled, 1, 2, 4, 8]"
    parser.add_argument("--shots", type=list[NonNegativeInt | Literal["unlabeled"]] | None, help=of_shots)
    parser.add_argument("--choices", type=PositiveInt, default=3, help="number of random choices of photographs")
    of_output = "folder for DATASET.csv and DATASET.md; results in the CSV file are not computed again"
    parser.add_argument("--output", type=Path, default=Path("results/protocol"), help=of_output)
    parser.add_argument("--accelerator", type=str, default="auto", help="an accelerator of Lightning: cpu, cuda, ...")
    return parser


def run(arguments: list[str]) -> int:
    """Test the missing categories, show the table of all, and return the exit code."""
    if line := describe_missing(arguments):
        raise ProtocolError(line)
    options = create_parser().parse_args(arguments)
    data = {"class_path": options.data.class_path, "init_args": options.data.get("init_args", Namespace()).as_dict()}
    datamodule = get_datamodule(data)
    file = options.output / f"{name_dataset(datamodule)}.csv"
    plans = _make_plans(options, data, file)
    categories = find_categories(datamodule, options.categories)
    _check_dataset(file, Path(getattr(datamodule, "root", None) or "."))
    for plan in plans:
        if len(plans) > 1:
            print(f"Good photographs: {plan.shots}, choice {plan.choice + 1}", file=sys.stderr)
        run_missing(plan, categories)

    runs = pd.DataFrame(plans)[["shots", "choice", "settings"]]
    results = runs.merge(read_results(file), on="settings")
    results = results[results["category"].isin(categories)]
    results = results.sort_values("category", key=lambda names: names.map(categories.index), kind="stable")
    complete = [name for name in categories if (results["category"] == name).sum() == len(plans)]
    if len(results):
        cells = tabulate_shots(results, complete) if options.shots else tabulate(file.stem, results)
        _show(file, f"{len(complete)} of {len(categories)} categories", cells)
    return NORMAL if len(complete) == len(categories) else FAILED


def _make_plans(options: Namespace, data: dict[str, Any], file: Path) -> list[Plan]:
    """Plan the tests: several choices of each number of good photographs, or the model as given."""
    model = options.model.as_dict()
    if options.shots and (model["k_shot"] or model["few_shot_source"] or model["unlabeled_source"]):
        msg = "--shots chooses the photographs: leave out k_shot, few_shot_source and unlabeled_source"
        raise ProtocolError(msg)
    files, plans = _digest_files(model), []
    for shots in dict.fromkeys(options.shots or [model["k_shot"]]):
        for choice in range(options.choices if options.shots and shots else 1):
            photographs = {"unlabeled_source": DATASET} if shots == UNLABELED_SHOTS else {"k_shot": shots}
            chosen = {**model, **photographs, "seed": model["seed"] + choice}
            settings, text = _describe_settings(chosen, data, files), json.dumps(chosen, default=str)
            plans.append(Plan(shots, choice, settings, text, data, options.accelerator, file))
    return plans


def _check_dataset(file: Path, root: Path) -> None:
    """Refuse a file with results of another dataset of the same name."""
    roots = [json.loads(settings)["data"].get("root", root) for settings in read_results(file)["settings"]]
    if others := [other for other in roots if Path(other).resolve() != root.resolve()]:
        msg = f"{file} has results of another dataset, in {others[0]}: give another --output"
        raise ProtocolError(msg)


def _show(file: Path, tested: str, cells: pd.DataFrame) -> None:
    """Show the table of the results, and write it beside the CSV file."""
    table, markdown = to_markdown(cells.rename_axis(index={"category": file.stem})), file.with_suffix(".md")
    with replacing(markdown) as temporary:
        temporary.write_text(table, encoding="utf-8")
    print(f"FB-CLIP on {file.stem}, {tested}, in percent:")
    Console().print(Markdown(table))
    print(f"Written: {file} and {markdown}", file=sys.stderr)


def _digest_files(model: dict[str, Any]) -> list[str]:
    """Compute digests of the weight files in arguments of FBClip."""
    backbone = resolve_backbone(model["backbone"])
    adapters = None if model["weights"] is None else resolve_adapters_file(str(model["weights"]), backbone)
    files = [Path(path) for path in (adapters, model["pretrained"]) if path]
    return [hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in files if path.is_file()]


def _describe_settings(model: dict[str, Any], data: dict[str, Any], files: list[str]) -> str:
    """Describe as JSON what the results depend on, except for the category. Defaults of FBClip are left out."""

    def plain(value: object) -> object:  # some versions of the parser turn lists into tuples
        return list(value) if isinstance(value, tuple) else value

    usual = {name: parameter.default for name, parameter in inspect.signature(FBClip).parameters.items()}
    settings = {
        "model": {name: value for name, value in model.items() if plain(value) != plain(usual[name])},
        "layout": data["class_path"].rpartition(".")[-1],
        "data": {name: value for name, value in data["init_args"].items() if name not in WITHOUT_EFFECT},
        "files": files,
        "version": version("anomalib-fbclip"),
    }
    return json.dumps(settings, default=str, sort_keys=True)
