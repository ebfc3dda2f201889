# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The optional report of a test or a prediction."""

import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anomalib.data import ImageBatch
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray

from anomalib_fbclip.errors import ImageError
from anomalib_fbclip.images.region_of_interest import RegionSource
from anomalib_fbclip.lightning.trainer_run import find_callback, gather, is_command_line
from anomalib_fbclip.results.records import Record
from anomalib_fbclip.results.report import (
    REPORT_NAME,
    Entry,
    Thresholds,
    describe_good,
    shrink_map,
    write_report,
)
from anomalib_fbclip.results.thresholds import USUAL_THRESHOLD

from .batch_records import BatchRecords, find_thresholds
from .checked_data import CheckedData
from .pictures import read_shaded
from .results_folder import shorten_path


class FBClipReport(Callback):
    """Writes ``report.html`` for a test or a prediction of :class:`FBClip`, beside the table.

    The report shows the photographs by score, and lets the reader try other thresholds. Images that are not files are
    left out.

    Example:
        On the command line: ``anomalib predict --model FBClip --data photographs --trainer.callbacks FBClipReport``.
        In Python:

        >>> from anomalib.engine import Engine
        >>> from anomalib_fbclip.lightning.callbacks.report import FBClipReport
        >>> engine = Engine(callbacks=[FBClipReport()])  # doctest: +SKIP

    Attributes:
        path (Path | None): The report of the last run, if one was written.
    """

    def __init__(self) -> None:
        self.path: Path | None = None
        self._entries: list[Entry] = []

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a report."""
        self.path, self._entries = None, []

    on_predict_start = on_test_start

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: ImageBatch, *args, **kwargs
    ) -> None:
        """Collect the entries of a batch."""
        records = find_callback(trainer, BatchRecords).records  # type: ignore[union-attr] # FBClip has one
        maps = [None] * len(records) if batch.anomaly_map is None else [*batch.anomaly_map]
        self._entries += [
            Entry(record, anomaly_map=None if anomaly_map is None else _shrink(anomaly_map))
            for record, anomaly_map in zip(records, maps, strict=True)
            if record.path is not None
        ]

    on_predict_batch_end = on_test_batch_end

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the report, and say where it is."""
        self._write(trainer, pl_module)
        if self.path is not None:
            print(f"Report: {shorten_path(self.path)}")

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the report, with the images that could not be predicted."""
        if trainer.is_global_zero:
            data = find_callback(trainer, CheckedData)
            failures = data.failures  # type: ignore[union-attr] # as above
            self._entries += [Entry(Record(path, error=reason)) for part in failures for path, reason in part.values()]
        self._write(trainer, pl_module)

    def _write(self, trainer: Trainer, pl_module: Any) -> None:  # noqa: ANN401 - FBClip, which imports the callbacks
        entries = gather(trainer, self._entries)
        if not trainer.is_global_zero or not entries:
            return
        path = Path(trainer.default_root_dir) / REPORT_NAME
        references = pl_module.reference_set
        kept = pl_module.model.decision.k_shot if pl_module.is_few_shot else 0
        write_report(
            path,
            map(partial(_add_photograph, white_level=pl_module.white_level, region=pl_module.region_source), entries),
            _thresholds(trainer),
            _command(trainer),
            {"Model": pl_module.describe(), "Good photographs": describe_good(pl_module.references, kept)},
            references.fit.scores.tolist() if references and pl_module.is_few_shot else (),
        )
        self.path = path


def _shrink(anomaly_map: torch.Tensor) -> NDArray[np.float16]:
    return shrink_map(anomaly_map.float().cpu().numpy()).astype(np.float16)


def _add_photograph(entry: Entry, white_level: int | None, region: RegionSource | None) -> Entry:
    """Read the photograph again."""
    path = entry.record.path
    if entry.record.error is not None or path is None:
        return entry
    try:
        photograph = read_shaded(path, white_level, region)
    except ImageError as error:
        return Entry(Record(path, error=str(error)))
    return entry._replace(photograph=photograph)


def _thresholds(trainer: Trainer) -> Thresholds:
    found = find_thresholds(trainer)
    return Thresholds(
        found.get("threshold", USUAL_THRESHOLD),
        found.get("pixel_threshold", USUAL_THRESHOLD),
        found.get("threshold_source") or "default",
        found.get("pixel_threshold_source") or "default",
    )


def _command(trainer: Trainer) -> str:
    """Return the code or command that predicts again with the page's thresholds; a repeated option overrides."""
    if not is_command_line(trainer):
        return "FBClip(..., image_threshold={threshold}, pixel_threshold={pixel_threshold})"
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return f"{command} --model.image_threshold {{threshold}} --model.pixel_threshold {{pixel_threshold}}"
