# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Command line that tests FB-CLIP on all categories of a dataset, one after the other, or in parallel on devices."""

import hashlib
import inspect
import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from functools import lru_cache, partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd
import torch
from anomalib.data import AnomalibDataModule, get_datamodule
from anomalib.data.utils import Split
from anomalib.metrics import AnomalibMetric
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt, PositiveInt
from lightning.pytorch import Trainer
from rich.console import Console
from rich.markdown import Markdown
from torchmetrics.classification import BinaryRecall, BinarySpecificity

from anomalib_fbclip import FBClip
from anomalib_fbclip.cli.packaged import describe_missing
from anomalib_fbclip.data import MetaJson
from anomalib_fbclip.data.auxiliary import published_categories
from anomalib_fbclip.data.meta_json import make_meta_json_dataset
from anomalib_fbclip.data.references import DATASET
from anomalib_fbclip.errors import FAILED, NORMAL, CommandError
from anomalib_fbclip.lightning.evaluation import RankingEvaluator
from anomalib_fbclip.results.files import replacing
from anomalib_fbclip.weights.backbones import resolve_backbone
from anomalib_fbclip.weights.source import resolve_adapters_file

from .tables import METRICS, add_results, read_results, tabulate, tabulate_shots, to_markdown

THRESHOLDS: set[str | int] = {"image_threshold", "pixel_threshold"}
OBJECTS: set[str | int] = {"pre_processor", "post_processor", "evaluator", "visualizer"}
"""Arguments of FBClip that are not options here. None of the paper's metrics needs a threshold."""

UNLABELED_SHOTS = "unlabeled"
"""Value of ``--shots`` with which test images are compared with each other."""

WITHOUT_EFFECT = {"category", "categories", "train_batch_size", "eval_batch_size", "num_workers"}
"""Arguments of datamodules that do not change a category's results."""


class Plan(NamedTuple):
    """Settings shared by the tests of all categories; plain data for other processes."""

    shots: int | str  # number of good photographs, or "unlabeled"
    choice: int  # number of the choice of photographs, from 0
    settings: str  # all that the results depend on, except for the category
    model: str  # arguments of FBClip, as JSON
    data: dict[str, Any]  # class_path and init_args of the datamodule
    accelerator: str  # of Lightning
    file: Path  # the CSV file of the results


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
        raise CommandError(line)
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
        raise CommandError(msg)
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
        raise CommandError(msg)


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


def _argument_of_category(datamodule: type[AnomalibDataModule]) -> str | None:
    """Return the name of the argument for a datamodule's category; ``None`` if there is none."""
    parameters = inspect.signature(datamodule).parameters
    return next((name for name in ("category", "categories") if name in parameters), None)


def name_dataset(datamodule: AnomalibDataModule) -> str:
    """Return the name of a datamodule's dataset: the given name, or else that of the folder."""
    root = getattr(datamodule, "root", None)
    if root is None or "name" in inspect.signature(type(datamodule)).parameters:
        return datamodule.name
    return Path(root).resolve().name


def find_categories(datamodule: AnomalibDataModule, chosen: Sequence[str] | None = None) -> list[str]:
    """Find the categories of a dataset on the disk: the chosen ones, or all; its own name if it has none."""
    root = Path(getattr(datamodule, "root", None) or ".")
    if not root.is_dir():
        msg = f"The dataset's folder {root} does not exist: give another --data.root"
        raise CommandError(msg)
    found = [datamodule.name]
    if isinstance(datamodule, MetaJson):
        samples = make_meta_json_dataset(root, datamodule.categories, datamodule.meta_file, split=Split.TEST)
        found = [*samples["category"].unique()]
    elif _argument_of_category(type(datamodule)):
        # Those of VisA and Real-IAD are in a subfolder of the root.
        folders = [path for pattern in ("*", "*/*") for path in root.glob(pattern) if path.is_dir()]
        published = published_categories(datamodule)
        found = sorted({path.name for path in folders if path.name in published or (path / "test").is_dir()})
    if not found:
        msg = f"{root} has no categories of {datamodule.name}: give another --data.root"
        raise CommandError(msg)
    if unknown := [name for name in chosen or () if name not in found]:
        msg = f"{root} has no category {', '.join(unknown)} of {datamodule.name}: choose among {', '.join(found)}"
        raise CommandError(msg)
    return list(dict.fromkeys(chosen)) if chosen else found


class Recall(AnomalibMetric, BinaryRecall):  # type: ignore[misc] # anomalib takes batches
    """Share of the anomalous images that are called anomalous."""


class FalsePositiveRate(AnomalibMetric, BinarySpecificity):  # type: ignore[misc] # anomalib takes batches
    """Share of the normal images that are called anomalous."""

    higher_is_better = False

    def compute(self) -> torch.Tensor:
        """Compute the share, 0..1."""
        return 1 - super().compute()


@lru_cache(maxsize=1)
def _load_model(arguments: str) -> FBClip:
    """Create a model from JSON, once per process, because that takes longer than testing a small category.

    Besides the paper's metrics, it counts verdicts at the threshold 0.5, that of good photographs.
    """
    evaluator, fields = RankingEvaluator(), ["pred_score", "gt_label"]
    evaluator.test_metrics.extend([Recall(fields, prefix="image_"), FalsePositiveRate(fields, prefix="image_")])
    return FBClip(**json.loads(arguments), evaluator=evaluator, post_processor=False, visualizer=False)


def run_missing(plan: Plan, categories: Sequence[str]) -> None:
    """Test the categories that are missing in the plan's file, and add them. A failure does not stop the others."""
    results = read_results(plan.file)
    done = {*results.loc[results["settings"] == plan.settings, "category"]}
    missing = [category for category in categories if category not in done]
    if already := len(categories) - len(missing):
        print(f"{already} of {len(categories)} categories are in {plan.file} already", file=sys.stderr)
    devices = torch.cuda.device_count() if plan.accelerator in {"auto", "cuda", "gpu"} else 1
    for number, (category, test) in enumerate(_list_tests(plan, missing, devices), 1):
        try:
            row = test()
        except Exception as error:  # noqa: BLE001 - other categories can still be tested
            outcome = f" failed: {' '.join(str(error).split()) or type(error).__name__}"
        else:
            add_results(plan.file, [row])
            values = [f"{title} {100 * row[name]:.1f}" for name, title in METRICS.items() if name in row]
            outcome = f": {', '.join(values) or 'no metric'}"
        print(f"[{number}/{len(missing)}] {category}{outcome}", file=sys.stderr, flush=True)


def _list_tests(plan: Plan, categories: Sequence[str], devices: int) -> Iterator[tuple[str, Callable]]:
    """Yield functions that return the results: computed here, or in one process per device, in order of completion."""
    if devices <= 1:
        yield from ((category, partial(_evaluate, plan, category)) for category in categories)
        return
    with ExitStack() as stack:
        pools = [ProcessPoolExecutor(1, mp_context=get_context("spawn")) for _ in range(devices)]
        for pool in pools:
            stack.callback(pool.shutdown, cancel_futures=True)
        places = [(category, number % devices) for number, category in enumerate(categories)]
        tests = {pools[device].submit(_evaluate, plan, category, device): category for category, device in places}
        yield from ((tests[test], test.result) for test in as_completed(tests))


def _evaluate(plan: Plan, category: str, device: int | None = None) -> dict[str, Any]:
    """Test a category, on the device with a number if given, and return its results by column."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)  # it lists devices each time
    data = plan.data
    if argument := _argument_of_category(type(get_datamodule(data))):
        data = {**data, "init_args": {**data["init_args"], argument: category}}
    datamodule = get_datamodule(data)
    # anomalib's engine would first validate, to fit thresholds that the metrics do not need.
    trainer = Trainer(
        accelerator=plan.accelerator,
        devices=1 if device is None or plan.accelerator == "cpu" else [device],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=device is None,
    )
    (metrics,) = trainer.test(_load_model(plan.model), datamodule=datamodule, verbose=False)
    is_anomalous = datamodule.test_data.samples["label_index"] == 1
    images = {"normal": int((~is_anomalous).sum()), "anomalous": int(is_anomalous.sum())}
    return {"category": category, **metrics, **images, "settings": plan.settings}
