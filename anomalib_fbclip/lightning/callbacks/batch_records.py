# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""A batch's images, before they are processed, and its predictions as rows of the table."""

import logging
from collections import Counter
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from anomalib.data import ImageBatch
from anomalib.post_processing import MEBinPostProcessor, PostProcessor
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image

from anomalib_fbclip.images.photographs import is_gray, larger_images
from anomalib_fbclip.lightning.trainer_run import TrainerRun, find_callback
from anomalib_fbclip.results.good_photographs import describe_colors, describe_inspected_references, find_copies
from anomalib_fbclip.results.records import Record, Verdict
from anomalib_fbclip.results.regions import find_regions, match_verdict

logger = logging.getLogger(__name__)


class IncomingImages(Callback):
    """Looks at the images before the pre-processor, which resizes them. It must be called before that.

    It warns if images are good photographs themselves, or if only one of the two is in color. Good photographs that are
    not files are ignored.

    ``sizes`` are the heights and widths of a batch's images in pixels, from the image's file if there is one: images of
    several sizes in a batch are resized already.
    """

    def __init__(self) -> None:
        self.sizes: list[tuple[int, int]] = []
        self._copies: dict[Path, Path] = {}
        self._references: list[Path] = []
        self._colors: Counter[bool] = Counter()

    def mark(self, record: Record) -> Record:
        """Add to a record the good photograph that the image is a copy of, if any."""
        copied = None if record.path is None else self._copies.get(Path(record.path))
        return record if copied is None else record._replace(same_as=copied.as_posix())

    def on_test_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:  # noqa: ANN401 - FBClip
        """Find good photographs among the images."""
        self._references = [Path(path) for path in pl_module.references if isinstance(path, str | Path)]
        self._colors = Counter()
        images = TrainerRun(trainer).images if self._references else []
        self._copies = find_copies(images, self._references)
        _warn(trainer, describe_inspected_references(self._copies, len(images)))

    on_predict_epoch_start = on_test_epoch_start

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: ImageBatch, *args, **kwargs
    ) -> None:
        """Note the sizes of a batch's images, and count those in color and in gray."""
        if batch.image_path:
            self.sizes = [_size_of_file(path) for path in batch.image_path]
        elif batch.image is not None:
            height, width = batch.image.shape[-2:]
            self.sizes = [(height, width)] * len(batch)
        if self._references and batch.image is not None:
            pixels = (batch.image * 255).round().int().movedim(1, -1).cpu().numpy()
            self._colors.update(map(is_gray, pixels))

    on_predict_batch_start = on_test_batch_start

    def on_test_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:  # noqa: ANN401 - FBClip
        """Compare the images' colors with those of the good photographs."""
        _warn(trainer, describe_colors(self._colors, self._references, pl_module.white_level))

    on_predict_epoch_end = on_test_epoch_end


class BatchRecords(Callback):
    """Makes a record of each image of a batch. It must be called after the post-processor.

    Boxes and areas are right if the pre-processor resizes the whole image, like that of FBClip. The records have no
    pictures yet.
    """

    def __init__(self, images: IncomingImages) -> None:
        self._images = images
        self.records: list[Record] = []

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: ImageBatch, *args, **kwargs
    ) -> None:
        """Make the records of a batch."""
        thresholds = find_thresholds(trainer)
        # Not the batch's items: anomalib copies all tensors for them.
        columns = (
            *(batch.image_path, batch.pred_score, batch.pred_label),
            *(batch.anomaly_map, batch.pred_mask, batch.gt_label),
        )
        values = zip(*(column if column is not None else repeat(None) for column in columns), strict=False)
        self.records = [
            self._images.mark(_to_record(row, size, thresholds))
            for row, size in zip(values, self._images.sizes, strict=False)
        ]

    on_test_batch_end = on_predict_batch_end


def find_thresholds(trainer: Trainer) -> dict[str, Any]:
    """Get the thresholds of a run that apply to all images, and their sources, by their names in a record."""
    post_processor = find_callback(trainer, PostProcessor)
    if post_processor is None or not post_processor.enable_thresholding:
        return {}
    threshold, pixel_threshold = (
        # What was given as 0.3 is 0.30000001 in single precision.
        round(value.item(), 6)
        for value in (post_processor.normalized_image_threshold, post_processor.normalized_pixel_threshold)
    )
    if isinstance(post_processor, MEBinPostProcessor):  # it chooses a threshold per map
        return {"threshold": threshold}
    return {
        "threshold": threshold,
        "threshold_source": getattr(post_processor, "image_threshold_source", None),
        "pixel_threshold": pixel_threshold,
        "pixel_threshold_source": getattr(post_processor, "pixel_threshold_source", None),
    }


def _warn(trainer: Trainer, lines: list[str]) -> None:
    if trainer.is_global_zero:
        for line in lines:
            logger.warning(line)


def _to_record(values: tuple[Any, ...], size: tuple[int, int], thresholds: dict[str, Any]) -> Record:
    """Make a record of an image's predictions."""
    path, score, decided, anomaly_map, mask, truth = values
    regions = None
    if mask is not None:
        mask = mask.cpu().numpy()
        if decided is not None and anomaly_map is not None:
            mask = match_verdict(mask, anomaly_map.cpu().numpy(), bool(decided))
        regions = find_regions(mask, size)
    return Record(
        path,
        score=float(score),
        verdict=_name(decided),
        anomaly_map_max=None if anomaly_map is None else float(anomaly_map.max()),
        width=size[1],
        height=size[0],
        regions=regions,
        label=_name(truth),
        **thresholds,
    )


def _name(is_anomalous: torch.Tensor | None) -> Verdict | None:
    return None if is_anomalous is None else "anomalous" if is_anomalous else "normal"


def _size_of_file(path: str) -> tuple[int, int]:
    with larger_images(), Image.open(path) as image:
        return image.height, image.width
