# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Answers of a prediction: a table beside the heatmaps, and a summary on the screen."""

import csv
import json
import tempfile
from collections.abc import Sequence
from itertools import repeat
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from anomalib.data import ImageBatch
from anomalib.post_processing import MEBinPostProcessor, PostProcessor
from anomalib.visualization import ImageVisualizer
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from PIL import Image
from skimage import measure

TABLE_NAME = "predictions"

MAX_SHOWN = 10
"""Images up to which the screen shows the answer to each."""

Verdict = Literal["normal", "anomalous"]
CallbackT = TypeVar("CallbackT", bound=Callback)


class Region(NamedTuple):
    """A connected part of an image that is anomalous.

    Attributes:
        box (tuple[int, int, int, int]): Left, top, right and bottom in pixels of the image; the region ends before
            right and bottom.
        area (int): Its size in pixels of the image.
    """

    box: tuple[int, int, int, int]
    area: int


class Answer(NamedTuple):
    """What is said of an image: a row of the table.

    Attributes:
        path (str | None): The image's file; ``None`` for an image that comes from none.
        score (float): How anomalous it is, 0..1, after the normalisation if there was one.
        verdict (Verdict | None): Whether the score is above the threshold; ``None`` where the
            post-processor applies none.
        threshold (float | None): The threshold of the score.
        pixel_threshold (float | None): The threshold of the anomaly map; ``None`` where there is none for all images.
        regions (list[Region] | None): Where the anomaly map is above it, the largest region first; ``None`` where the
            post-processor makes no mask.
    """

    path: str | None
    score: float
    verdict: Verdict | None
    threshold: float | None
    pixel_threshold: float | None
    regions: list[Region] | None


class ImageSizes(Callback):
    """Knows the size of each image of a batch, which the pre-processor changes: it must be called before that one.

    Attributes:
        sizes (list[tuple[int, int]]): Height and width in pixels of each image of the batch, of its file if it has one:
            a batch of images of several sizes is resized already.
    """

    def __init__(self) -> None:
        self.sizes: list[tuple[int, int]] = []

    def on_predict_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Look at the images."""
        del trainer, pl_module, batch_idx, dataloader_idx
        if batch.image_path:
            self.sizes = [_size_of_file(path) for path in batch.image_path]
        elif batch.image is not None:
            height, width = batch.image.shape[-2:]
            self.sizes = [(height, width)] * len(batch)


class PredictionTable(Callback):
    """Writes ``predictions.csv`` and ``predictions.jsonl`` beside the heatmaps, and a summary to the screen.

    Both files hold the same table, an :class:`Answer` for each image in the order of the data. They appear when the
    prediction has ended, and replace those of an earlier one. Where several devices predict, each a share of the
    images, the first of them writes the answers of all.

    It must be called after the post-processor and the visualizer. Boxes and areas are right where the pre-processor
    resizes the whole image, as that of FBClip does.

    Args:
        image_sizes (ImageSizes): Sizes of the images before the pre-processing.
    """

    def __init__(self, image_sizes: ImageSizes) -> None:
        self._image_sizes = image_sizes
        self._answers: list[tuple[tuple[int, int, int], Answer]] = []

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a table."""
        del trainer, pl_module
        self._answers = []

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: ImageBatch,
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take the answers of a batch."""
        del pl_module, batch
        thresholds = _thresholds(_find(PostProcessor, trainer))
        columns = (outputs.image_path, outputs.pred_score, outputs.pred_label, outputs.pred_mask)
        rows = zip(*(column if column is not None else repeat(None) for column in columns), strict=False)
        for index, (row, size) in enumerate(zip(rows, self._image_sizes.sizes, strict=True)):
            path, score, label, mask = row
            regions = None if mask is None else find_regions(mask.cpu().numpy(), size)
            answer = Answer(path, float(score), _verdict(label), *thresholds, regions)
            self._answers.append(((dataloader_idx, batch_idx, index), answer))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the table and the summary.

        Raises:
            OSError: If the table can't be written.
        """
        del pl_module
        answers = _gather(self._answers, trainer.world_size)
        if not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir)
        write_table(answers, folder)
        visualizer = _find(ImageVisualizer, trainer)
        print(summarize(answers, folder, heatmaps=visualizer.output_dir if visualizer else None))


class PredictionTableMixin(LightningModule):
    """What makes one of anomalib's models write a :class:`PredictionTable`."""

    def configure_callbacks(self) -> Sequence[Callback]:
        """Have every prediction end with a table.

        Returns:
            Sequence[Callback]: The model's components that are callbacks, and those that make the table.
        """
        image_sizes = ImageSizes()
        components = super().configure_callbacks()
        return [image_sizes, *components, PredictionTable(image_sizes)]  # type: ignore[misc]


def find_regions(mask: NDArray[np.bool_], image_size: tuple[int, int]) -> list[Region]:
    """Find the connected regions of a mask; corners connect.

    Args:
        mask (NDArray[np.bool_]): The mask, shape ``[h, w]``. The whole image lies behind it.
        image_size (tuple[int, int]): Height and width of the image in pixels.

    Returns:
        list[Region]: The regions in pixels of the image, rounded up, the largest first.
    """
    (height, width), (mask_height, mask_width) = image_size, mask.shape
    regions = []
    for part in measure.regionprops(measure.label(mask)):
        top, left, bottom, right = part.bbox
        box = (
            left * width // mask_width,
            top * height // mask_height,
            _divide_up(right * width, mask_width),
            _divide_up(bottom * height, mask_height),
        )
        regions.append(Region(box, _divide_up(int(part.area) * height * width, mask_height * mask_width)))
    return sorted(regions, key=lambda region: region.area, reverse=True)


def write_table(answers: Sequence[Answer], folder: Path) -> None:
    """Write the table as CSV and as JSON lines. Files of that name are replaced when both are complete.

    Args:
        answers (Sequence[Answer]): The rows. In the CSV file, the regions of an image are JSON too.
        folder (Path): The folder, which is made if it does not exist.

    Raises:
        OSError: If they can't be written.
    """
    rows = [answer._asdict() | {"regions": _plain(answer.regions)} for answer in answers]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{TABLE_NAME}.") as temporary:
        files = [
            _write_csv(rows, Path(temporary) / f"{TABLE_NAME}.csv"),
            _write_json_lines(rows, Path(temporary) / f"{TABLE_NAME}.jsonl"),
        ]
        for file in files:
            file.replace(folder / file.name)


def summarize(answers: Sequence[Answer], folder: Path, heatmaps: str | Path | None) -> str:
    """Summarise a prediction for the screen.

    Args:
        answers (Sequence[Answer]): The answers.
        folder (Path): The folder of the table.
        heatmaps (str | Path | None): The folder of the heatmaps, if there are any.

    Returns:
        str: The answer to each image, unless there are more than ten; how many images are normal and how many
            anomalous; and where the table and the heatmaps are.
    """
    lines = [_describe(answer) for answer in answers] if len(answers) <= MAX_SHOWN else []
    verdicts = [answer.verdict for answer in answers]
    counts = [f"{verdicts.count(verdict)} {verdict}" for verdict in ("anomalous", "normal") if verdict in verdicts]
    lines += [
        ": ".join([_count(len(answers), "image"), *([", ".join(counts)] if counts else [])]),
        f"Table: {_shorten(folder / TABLE_NAME)}.csv and .jsonl",
    ]
    return "\n".join(lines if heatmaps is None else [*lines, f"Heatmaps: {_shorten(heatmaps)}"])


def _size_of_file(path: str) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.height, image.width


def _find(kind: type[CallbackT], trainer: Trainer) -> CallbackT | None:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback for callback in callbacks if isinstance(callback, kind)), None)


def _thresholds(post_processor: PostProcessor | None) -> tuple[float | None, float | None]:
    """Get the thresholds of the scores and of the anomaly maps, as far as there is one for all images."""
    if post_processor is None or not post_processor.enable_thresholding:
        return None, None
    threshold, pixel_threshold = (
        # What was given as 0.3 is 0.30000001 in single precision.
        round(value.item(), 6)
        for value in (post_processor.normalized_image_threshold, post_processor.normalized_pixel_threshold)
    )
    chooses_for_each_image = isinstance(post_processor, MEBinPostProcessor)
    return threshold, None if chooses_for_each_image else pixel_threshold


def _verdict(label: torch.Tensor | None) -> Verdict | None:
    if label is None:
        return None
    return "anomalous" if label else "normal"


def _gather(answers: list[tuple[tuple[int, int, int], Answer]], world_size: int) -> list[Answer]:
    """Bring the answers of all processes together, in the order of the data.

    Each process gets every ``world_size``-th image, so those at one place of a batch follow each other by rank.
    """
    shares = [answers]
    if world_size > 1:
        shares = [[] for _ in range(world_size)]
        torch.distributed.all_gather_object(shares, answers)
    merged = sorted((answer for share in shares for answer in share), key=itemgetter(0))
    return [answer for _, answer in merged]


def _write_csv(rows: list[dict[str, Any]], path: Path) -> Path:
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.DictWriter(file, Answer._fields)
        writer.writeheader()
        for row in rows:
            writer.writerow(row | {"regions": row["regions"] and json.dumps(row["regions"])})
    return path


def _write_json_lines(rows: list[dict[str, Any]], path: Path) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _plain(regions: list[Region] | None) -> list[dict[str, Any]] | None:
    return None if regions is None else [region._asdict() for region in regions]


def _describe(answer: Answer) -> str:
    details = [f"score {answer.score:.3f}"]
    if answer.threshold is not None:
        details.append(f"threshold {answer.threshold:.3g}")
    if answer.regions is not None:
        details.append(_count(len(answer.regions), "anomalous region"))
    name = "image" if answer.path is None else _shorten(answer.path)
    return f"{name}: {answer.verdict or 'no verdict'} ({', '.join(details)})"


def _shorten(path: str | Path) -> str:
    """Give a path as it is seen from the working folder, if it lies in it."""
    path, here = Path(path), Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _divide_up(numerator: int, denominator: int) -> int:
    return -(-numerator // denominator)
