# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The test of one category as a job of anomalib's pipelines, whose runners run one after the other, or one a device."""

import json
import sys
from collections.abc import Generator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from anomalib.data import get_datamodule
from anomalib.metrics import AnomalibMetric
from anomalib.pipelines.components import Job, JobGenerator, Runner
from anomalib.pipelines.components.runners import ParallelRunner, SerialRunner
from lightning.pytorch import Trainer
from torchmetrics.classification import BinaryRecall, BinarySpecificity

from anomalib_fbclip import FBClip
from anomalib_fbclip.lightning.evaluation.evaluator import RankingEvaluator

from .categories import argument_of_category
from .frames import METRICS, add_results


class Recall(AnomalibMetric, BinaryRecall):  # type: ignore[misc] # anomalib takes batches
    """Share of the anomalous images that are called anomalous."""


class FalsePositiveRate(AnomalibMetric, BinarySpecificity):  # type: ignore[misc] # anomalib takes batches
    """Share of the normal images that are called anomalous."""

    higher_is_better = False

    def compute(self) -> torch.Tensor:
        """Compute the share, 0..1."""
        return 1 - super().compute()


class VerdictEvaluator(RankingEvaluator):
    """Evaluates the paper's four metrics, and the verdicts at the threshold 0.5, which is that of good photographs."""

    def __init__(self) -> None:
        super().__init__()
        fields = ["pred_score", "gt_label"]
        self.test_metrics.extend([Recall(fields, prefix="image_"), FalsePositiveRate(fields, prefix="image_")])


class Plan(NamedTuple):
    """What the tests of all categories have in common; plain data, which goes to another process.

    Attributes:
        model (str): Arguments of FBClip, as JSON.
        data (dict[str, Any]): ``class_path`` and ``init_args`` of the datamodule.
        accelerator (str): An accelerator of Lightning.
        settings (str): What the results depend on, but for the category.
        file (Path): CSV file of the results.
    """

    model: str
    data: dict[str, Any]
    accelerator: str
    settings: str
    file: Path


class ProtocolJob(Job):
    """Test of one category.

    Args:
        plan (Plan): What is tested.
        category (str): The category.
        position (str): Which of the jobs this is, for the screen.
    """

    name = "protocol"

    def __init__(self, plan: Plan, category: str, position: str) -> None:
        self.plan = plan
        self.category = category
        self.position = position

    def run(self, task_id: int | None = None) -> dict[str, Any]:
        """Test the category.

        Args:
            task_id (int | None, optional): Number of the device, where several jobs run at once; the runner then writes
                the results. Defaults to ``None``: the only one.

        Returns:
            dict[str, Any]: The results by their columns.
        """
        try:
            row = self._evaluate(task_id)
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            print(f"{self.position} {self.category} failed: {reason}", file=sys.stderr, flush=True)
            raise
        if task_id is None:
            add_results(self.plan.file, [row])
        values = [f"{title} {100 * row[name]:.1f}" for name, title in METRICS.items() if name in row]
        print(f"{self.position} {self.category}: {', '.join(values) or 'no metric'}", file=sys.stderr, flush=True)
        return row

    def _evaluate(self, task_id: int | None) -> dict[str, Any]:
        data = self.plan.data
        if argument := argument_of_category(type(get_datamodule(data))):
            data = {**data, "init_args": {**data["init_args"], argument: self.category}}
        datamodule = get_datamodule(data)
        # Anomalib's engine would validate first, for thresholds that none of the metrics needs.
        trainer = Trainer(
            accelerator=self.plan.accelerator,
            devices=1 if task_id is None or self.plan.accelerator == "cpu" else [task_id],
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=task_id is None,
        )
        (metrics,) = trainer.test(load_model(self.plan.model), datamodule=datamodule, verbose=False)
        is_anomalous = datamodule.test_data.samples["label_index"] == 1
        images = {"normal": int((~is_anomalous).sum()), "anomalous": int(is_anomalous.sum())}
        return {"category": self.category, **metrics, **images, "settings": self.plan.settings}

    @staticmethod
    def collect(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Leave the results as they are."""
        return results

    @staticmethod
    def save(results: list[dict[str, Any]]) -> None:
        """Do nothing: each row was written when it was there."""


@lru_cache(maxsize=1)
def load_model(arguments: str) -> FBClip:
    """Create the model once a process, of arguments as JSON, with nothing but the metrics of scores as they are.

    To load a CLIP takes longer than to test a small category.
    """
    return FBClip(**json.loads(arguments), evaluator=VerdictEvaluator(), post_processor=False, visualizer=False)


class ProtocolJobGenerator(JobGenerator):
    """Makes the job of each category.

    Args:
        plan (Plan): What is tested.
        categories (Sequence[str]): The categories.
    """

    def __init__(self, plan: Plan, categories: Sequence[str]) -> None:
        self.plan = plan
        self.categories = categories

    @property
    def job_class(self) -> type[Job]:
        """Class of the jobs."""
        return ProtocolJob

    def generate_jobs(self, args: dict | None = None, prev_stage_result: object = None) -> Generator[Job, None, None]:
        """Make the jobs, in the order of the categories."""
        del args, prev_stage_result
        for number, category in enumerate(self.categories, 1):
            yield ProtocolJob(self.plan, category, f"[{number}/{len(self.categories)}]")


class RecordingParallelRunner(ParallelRunner):
    """Runs one job a device, and writes results as they come.

    Args:
        generator (ProtocolJobGenerator): Makes the jobs.
        n_jobs (int): Number of devices.
    """

    generator: ProtocolJobGenerator
    results: list[dict[str, Any]]

    def _await_cleanup_processes(self, blocking: bool = False) -> None:
        before = len(self.results)
        super()._await_cleanup_processes(blocking)
        if new := self.results[before:]:
            add_results(self.generator.plan.file, new)


def choose_runner(generator: ProtocolJobGenerator) -> Runner:
    """Choose between one process a device, where there are several GPUs to be used, and one job after the other."""
    devices = torch.cuda.device_count()
    if generator.plan.accelerator in {"auto", "cuda", "gpu"} and devices > 1:
        return RecordingParallelRunner(generator, n_jobs=devices)
    return SerialRunner(generator)
