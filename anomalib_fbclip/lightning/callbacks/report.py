# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Pictures of predictions, and the optional report of a test or a prediction."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from anomalib.data import ImageBatch, ImageItem
from anomalib.data.utils.image import duplicate_filename
from anomalib.utils.path import generate_output_filename
from anomalib.visualization import ImageVisualizer
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from numpy.typing import NDArray
from PIL import Image

from anomalib_fbclip.errors import ImageError
from anomalib_fbclip.images.photographs import needs_own_reading, read_photograph
from anomalib_fbclip.images.region_of_interest import RegionSource, shade_photograph
from anomalib_fbclip.lightning.trainer_run import find_callback, gather, is_command_line
from anomalib_fbclip.results.files import incomplete_folder
from anomalib_fbclip.results.pictures import draw_picture
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
from .results_folder import shorten_path, writes_results


class PhotographVisualizer(ImageVisualizer):
    """Draws the anomaly map and the regions on each photograph of a prediction, with score, verdict and threshold.

    A picture has the photograph's proportions, and its size up to 2048 pixels a side. A test's pictures, which show the
    ground truth, are those of :class:`~anomalib.visualization.ImageVisualizer`, and its arguments apply only to them.
    """

    @staticmethod
    def draw(trainer: Trainer, model: Any, item: ImageItem, record: Record, folder: Path) -> None:  # noqa: ANN401 - FBClip
        """Draw an image with an anomaly map, shaded outside the region, with anomalib's file name."""
        if record.path is None or item.anomaly_map is None:
            return
        photograph = read_shaded(record.path, model.white_level, model.region_source)
        datamodule = getattr(trainer, "datamodule", None)
        path = generate_output_filename(
            record.path, folder, getattr(datamodule, "name", None), getattr(datamodule, "category", None)
        )
        draw_picture(photograph, item.anomaly_map.float().cpu().numpy(), record).save(path)


def read_shaded(path: str, white_level: int | None, region: RegionSource | None) -> Image.Image:
    """Read a photograph as a run does, not turned upright, and shade it outside the region."""
    photograph = Image.fromarray(read_photograph(path, upright=False, white_level=white_level))
    return shade_photograph(photograph, region, Path(path))


class Pictures:
    """Lets a visualizer draw into a temporary folder, and moves the complete pictures to their place.

    That is ``images`` in the results if the visualizer has no ``output_dir``.
    """

    def __init__(self, visualizer: ImageVisualizer) -> None:
        self._visualizer = visualizer
        self.folder: Path | None = None

    def draw(
        self,
        trainer: Trainer,
        model: Any,  # noqa: ANN401 - FBClip, which imports the callbacks
        batch: ImageBatch,
        records: Sequence[Record],
        *indices: int,
    ) -> list[Path | None]:
        """Draw the images of a batch that are from files. ``indices`` are those of the batch and the dataloader."""
        output_dir = self._visualizer.output_dir
        folder = Path(trainer.default_root_dir) / "images" if output_dir is None else Path(output_dir)
        paths: list[Path | None] = []
        with incomplete_folder(folder) as incomplete, TemporaryDirectory() as copies:
            self._visualizer.output_dir = incomplete
            try:
                for item, record in zip(batch, records, strict=True):
                    if record.path is None:  # anomalib names pictures by their files
                        paths.append(None)
                        continue
                    is_prediction = trainer.state.fn == TrainerFn.PREDICTING
                    if is_prediction and isinstance(self._visualizer, PhotographVisualizer):
                        self._visualizer.draw(trainer, model, item, record, incomplete)
                    else:
                        alone: Any = [_in_8_bits(item, Path(copies), model.white_level)]
                        self._visualizer.on_test_batch_end(trainer, model, alone, alone, *indices)
                    paths.append(_move(incomplete, folder))
            finally:
                self._visualizer.output_dir = output_dir
        if any(paths):
            self.folder = folder
        return paths


def _in_8_bits(item: ImageItem, folder: Path, white_level: int | None) -> ImageItem:
    """Replace a file that anomalib's visualizer would misread by a copy in 8 bits."""
    path = Path(str(item.image_path)).absolute()
    if not needs_own_reading(path):
        return item
    copy = folder / path.relative_to(path.anchor)  # pictures are named by the folders, too
    copy.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(read_photograph(path, upright=False, white_level=white_level)).save(copy, "PNG")
    return replace(item, image_path=str(copy))


def _move(source: Path, destination: Path) -> Path | None:
    """Move the only file below a folder to the same place below another, with a new name if that is taken."""
    pictures = [path for path in source.rglob("*") if path.is_file()]
    if not pictures:
        return None
    (picture,) = pictures
    place = destination / picture.relative_to(source)
    place.parent.mkdir(parents=True, exist_ok=True)
    return picture.rename(duplicate_filename(place))


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

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin a report."""
        self.path, self._entries = None, []

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

    def on_test_end(self, trainer: Trainer, pl_module: Any) -> None:  # noqa: ANN401 - FBClip, which imports the callbacks
        """Write the report, with the images that could not be predicted, and say where it is."""
        entries = gather(trainer, self._entries)
        entries += [Entry(record) for failures in pl_module.checked_data.failures for record in failures.values()]
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
        if not writes_results(trainer):  # otherwise the table says it
            print(f"Report: {shorten_path(path)}")

    on_predict_end = on_test_end


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
