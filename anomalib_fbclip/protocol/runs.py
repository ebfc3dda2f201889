# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The categories of a dataset, and their tests: one after the other, or in parallel on several devices."""

import inspect
import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
from anomalib.data import AnomalibDataModule, get_datamodule
from anomalib.data.utils import Split
from anomalib.metrics import AnomalibMetric
from lightning.pytorch import Trainer
from torchmetrics.classification import BinaryRecall, BinarySpecificity

from anomalib_fbclip import FBClip
from anomalib_fbclip.data import MetaJson
from anomalib_fbclip.data.labeled_samples import published_categories
from anomalib_fbclip.data.meta_json import make_meta_json_dataset
from anomalib_fbclip.errors import ProtocolError
from anomalib_fbclip.lightning.evaluation import RankingEvaluator

from .tables import METRICS, add_results, read_results


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
    """Find the categories of a dataset on the disk.

    Args:
        datamodule (AnomalibDataModule): Datamodule of any category of the dataset.
        chosen (Sequence[str] | None, optional): The categories to use. Defaults to ``None``: all.

    Returns:
        list[str]: Names of the categories; the dataset's name if it has none.

    Raises:
        ProtocolError: If the folder of the dataset does not exist, has no categories, or not the chosen ones.
    """
    root = Path(getattr(datamodule, "root", None) or ".")
    if not root.is_dir():
        msg = f"The dataset's folder {root} does not exist: give another --data.root"
        raise ProtocolError(msg)
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
        raise ProtocolError(msg)
    if unknown := [name for name in chosen or () if name not in found]:
        msg = f"{root} has no category {', '.join(unknown)} of {datamodule.name}: choose among {', '.join(found)}"
        raise ProtocolError(msg)
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


class Plan(NamedTuple):
    """Settings shared by the tests of all categories; plain data for other processes."""

    shots: int | str  # number of good photographs, or "unlabeled"
    choice: int  # number of the choice of photographs, from 0
    settings: str  # all that the results depend on, except for the category
    model: str  # arguments of FBClip, as JSON
    data: dict[str, Any]  # class_path and init_args of the datamodule
    accelerator: str  # of Lightning
    file: Path  # the CSV file of the results


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
