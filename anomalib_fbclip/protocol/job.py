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
from anomalib.data import AnomalibDataModule, get_datamodule
from anomalib.pipelines.components import Job, JobGenerator, Runner
from anomalib.pipelines.components.runners import ParallelRunner, SerialRunner
from lightning.pytorch import Trainer

from anomalib_fbclip import FBClip

from .categories import argument_of_category
from .results import METRICS, Row, add_rows
from .verdicts import VerdictEvaluator


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

    def run(self, task_id: int | None = None) -> Row:
        """Test the category.

        Args:
            task_id (int | None, optional): Number of the device, where several jobs run at once; the runner then writes
                the results. Defaults to ``None``: the only one.

        Returns:
            Row: The results.
        """
        try:
            row = self._evaluate(task_id)
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            print(f"{self.position} {self.category} failed: {reason}", file=sys.stderr, flush=True)
            raise
        if task_id is None:
            add_rows(self.plan.file, [row])
        values = [f"{title} {100 * row.metrics[name]:.1f}" for name, title in METRICS.items() if name in row.metrics]
        print(f"{self.position} {self.category}: {', '.join(values) or 'no metric'}", file=sys.stderr, flush=True)
        return row

    def _evaluate(self, task_id: int | None) -> Row:
        datamodule = self._create_datamodule()
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
        labels = datamodule.test_data.samples["label_index"]
        anomalous = int(labels.sum())
        return Row(self.category, dict(metrics), len(labels) - anomalous, anomalous, self.plan.settings)

    def _create_datamodule(self) -> AnomalibDataModule:
        datamodule = get_datamodule(self.plan.data)
        argument = argument_of_category(type(datamodule))
        if argument is None:
            return datamodule
        return get_datamodule(
            self.plan.data | {"init_args": {**self.plan.data["init_args"], argument: self.category}},
        )

    @staticmethod
    def collect(results: list[Row]) -> list[Row]:
        """Leave the results as they are."""
        return results

    @staticmethod
    def save(results: list[Row]) -> None:
        """Do nothing: each row was written when it was there."""


@lru_cache(maxsize=1)
def load_model(arguments: str) -> FBClip:
    """Create the model once a process: to load a CLIP takes longer than to test a small category.

    Args:
        arguments (str): Arguments of FBClip, as JSON.

    Returns:
        FBClip: The model, with nothing but the metrics of scores as they are.
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
    results: list[Row]  # type: ignore[assignment]

    def _await_cleanup_processes(self, blocking: bool = False) -> None:
        before = len(self.results)
        super()._await_cleanup_processes(blocking)
        if len(self.results) > before:
            add_rows(self.generator.plan.file, self.results)


def choose_runner(generator: ProtocolJobGenerator) -> Runner:
    """Choose between one process a device, where there are several GPUs to be used, and one job after the other."""
    devices = torch.cuda.device_count()
    if generator.plan.accelerator in {"auto", "cuda", "gpu"} and devices > 1:
        return RecordingParallelRunner(generator, n_jobs=devices)
    return SerialRunner(generator)
