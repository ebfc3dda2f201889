# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The table of a prediction or a test, written while the run goes on, and a summary on the screen."""

import sys
from collections import Counter, deque
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import TypeAlias

from anomalib.data import ImageBatch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from anomalib_fbclip.cli.screen import count
from anomalib_fbclip.errors import FAILED
from anomalib_fbclip.lightning.trainer_run import find_callback, gather, is_command_line
from anomalib_fbclip.results.records import TABLE_NAME, Record, RecordWriter, write_records
from anomalib_fbclip.results.thresholds import describe_verdicts

from .batch_records import BatchRecords
from .checked_data import CheckedData
from .report import FBClipReport, Pictures
from .results_folder import shorten_path, writes_results

MAX_SHOWN = 10
"""Largest number of images whose verdicts are shown on the screen."""


Place: TypeAlias = tuple[int, int]
"""Position of an image: its dataloader, and its index in the dataset."""


class PredictionTable(Callback):
    """Writes ``predictions.csv`` and ``predictions.jsonl`` beside the pictures, and a summary to the screen.

    Both files hold the same table, a :class:`Record` for each image in the order of the data, and grow with the
    predictions. With several devices, each writes a table of its share, and the first one merges them at the end.

    It must be called after the records are made.

    Args:
        data (CheckedData): Images that can't be predicted.
        batch_records (BatchRecords): Records of each batch.
        pictures (Pictures | None): Draws the pictures, if there are any.
    """

    def __init__(self, data: CheckedData, batch_records: BatchRecords, pictures: Pictures | None) -> None:
        self._data = data
        self._batch_records = batch_records
        self._pictures = pictures
        self._writer: RecordWriter | None = None
        self._rows: list[tuple[Place, Record]] = []
        self._failures: deque[tuple[Place, Record]] = deque()
        self._predicted: Counter[int] = Counter()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin a table."""
        if stage not in {"predict", "test"} or not writes_results(trainer):
            return
        name = TABLE_NAME if trainer.world_size == 1 else f"{TABLE_NAME}.process{trainer.global_rank}"
        self._writer = RecordWriter(Path(trainer.default_root_dir), name)
        self._rows = []
        # A test, which has no failures, ends at the first image that can't be read; a prediction skips it.
        self._failures = deque(
            ((dataloader, index), failures[index])
            for dataloader, failures in enumerate(self._data.failures)
            for index in sorted(failures)
        )
        self._predicted = Counter()

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the pictures of a batch, and write its rows."""
        records = self._batch_records.records
        paths: list[Path | None] = [None] * len(records)
        if self._pictures:
            paths = self._pictures.draw(trainer, pl_module, batch, records, batch_idx, dataloader_idx)
        for record, picture in zip(records, paths, strict=True):
            place = self._next_place(trainer, dataloader_idx)
            while trainer.world_size == 1 and self._failures and self._failures[0][0] < place:
                self._write(*self._failures.popleft())
            self._write(place, record if picture is None else record._replace(picture=str(picture)))

    on_test_batch_end = on_predict_batch_end

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Complete the table, and show the summary.

        Raises:
            SystemExit: If images can't be predicted, and this is anomalib's command line.
        """
        self._finish(trainer)

    on_test_end = on_predict_end

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Complete the table of a prediction without images."""
        self._finish(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Keep the rows so far, and say where they are."""
        if self._writer is None:
            return
        self._writer.close()
        if self._rows:
            print(f"Stopped. {self._summarize([record for _, record in self._rows], trainer)}", file=sys.stderr)
        else:
            for path in self._writer.paths:
                path.unlink()
        self._writer = None

    def _next_place(self, trainer: Trainer, dataloader: int) -> Place:
        """Find the place of a dataloader's next image. Each process gets every ``world_size``-th image."""
        position = self._predicted[dataloader] * trainer.world_size + trainer.global_rank
        self._predicted[dataloader] += 1
        selections = self._data.selections
        return dataloader, selections[dataloader][position] if selections else position

    def _write(self, place: Place, record: Record) -> None:
        if self._writer:
            self._writer.write(record)
        self._rows.append((place, record))

    def _finish(self, trainer: Trainer) -> None:
        if self._writer is None:
            return
        if trainer.world_size == 1:
            while self._failures:
                self._write(*self._failures.popleft())
        self._writer.close()
        folder = Path(trainer.default_root_dir)
        if trainer.world_size > 1:
            self._rows = sorted([*gather(trainer, self._rows), *self._failures], key=itemgetter(0))
            if trainer.is_global_zero:
                write_records([record for _, record in self._rows], folder)
            for path in self._writer.paths:
                path.unlink()
        self._writer = None
        records = [record for _, record in self._rows]
        if trainer.is_global_zero:
            print(self._summarize(records, trainer))
        if any(record.error for record in records) and is_command_line(trainer):
            raise SystemExit(FAILED)

    def _summarize(self, records: Sequence[Record], trainer: Trainer) -> str:
        folder = Path(trainer.default_root_dir)
        pictures = self._pictures.folder if self._pictures else None
        is_test = trainer.state.fn == TrainerFn.TESTING
        text = (summarize_test if is_test else summarize)(records, folder, pictures)
        report = find_callback(trainer, FBClipReport)
        return text if report is None or report.path is None else f"{text}\nReport: {shorten_path(report.path)}"


def summarize(records: Sequence[Record], folder: Path, pictures: Path | None) -> str:
    """Summarize a prediction for the screen: verdicts on a few images, numbers of outcomes, and where the files are."""
    lines = [_describe(record) for record in records] if len(records) <= MAX_SHOWN else []
    outcomes = Counter("failed" if record.error else record.verdict for record in records)
    counts = [f"{outcomes[name]} {name}" for name in ("anomalous", "normal", "failed") if outcomes[name]]
    lines.append(": ".join([count(len(records), "image"), *([", ".join(counts)] if counts else [])]))
    return "\n".join([*lines, *_list_files(folder, pictures)])


def summarize_test(records: Sequence[Record], folder: Path, pictures: Path | None) -> str:
    """Summarize a test for the screen: found and missed defects, false alarms, and where the files are."""
    return "\n".join([*describe_verdicts(records), *_list_files(folder, pictures)])


def _list_files(folder: Path, pictures: Path | None) -> list[str]:
    table = f"Table: {shorten_path(folder / TABLE_NAME)}.csv and .jsonl"
    return [table] if pictures is None else [table, f"Heatmaps: {shorten_path(pictures)}"]


def _describe(record: Record) -> str:
    name = "image" if record.path is None else shorten_path(record.path)
    if record.error:
        return f"{name}: failed"
    details = [f"score {record.score:.3f}"]
    if record.threshold is not None:
        details.append(f"threshold {record.threshold:.3g}")
    if record.regions is not None:
        details.append(count(len(record.regions), "anomalous region"))
    return f"{name}: {record.verdict or 'no verdict'} ({', '.join(details)})"
