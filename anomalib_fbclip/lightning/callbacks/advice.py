# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Advice of a run: on its thresholds, and on images that do not match the good photographs."""

import logging
from collections import Counter
from pathlib import Path

from anomalib.data import ImageBatch
from lightning.pytorch import Callback, LightningModule, Trainer

from anomalib_fbclip.images.photographs import is_gray
from anomalib_fbclip.lightning.post_processing import CHECKPOINT, LEVELS, ThresholdPostProcessor
from anomalib_fbclip.lightning.trainer_run import TrainerRun
from anomalib_fbclip.results.good_photographs import describe_colors, describe_inspected_references, find_copies
from anomalib_fbclip.results.records import Record
from anomalib_fbclip.results.thresholds import describe_guess

logger = logging.getLogger(__name__)

FITTED = {CHECKPOINT, "labels", "masks", "normal images"}
"""Sources of thresholds that were fitted, in the words of the table."""

ADVICE = "Set few_shot_source to a folder of good photographs, unlabeled_source, or image_threshold."


class ThresholdReport(Callback):
    """Logs fitted thresholds before a test and before a prediction, and warns if there is none."""

    def __init__(self, post_processor: ThresholdPostProcessor) -> None:
        self._post_processor = post_processor

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the thresholds, once the model has its good photographs."""
        if not trainer.is_global_zero:
            return
        lines = [_describe_threshold(self._post_processor, level) for level in LEVELS]
        if any(lines):
            logger.info(" ".join(filter(None, lines)))
        _warn(trainer, describe_guess(self._post_processor.image_threshold_source, ADVICE))

    on_predict_epoch_start = on_test_epoch_start


def _describe_threshold(post_processor: ThresholdPostProcessor, level: str) -> str:
    """Describe the ``image`` or ``pixel`` threshold in a sentence; empty if it was not fitted."""
    source = getattr(post_processor, f"{level}_threshold_source")
    if source not in FITTED:
        return ""
    fitted, normalized = (getattr(post_processor, f"{name}{level}_threshold").item() for name in ("", "normalized_"))
    origin = f"from {'the checkpoint' if source == CHECKPOINT else source}"
    if getattr(post_processor, f"{level}_min").isfinite():
        return f"{level.capitalize()} threshold {normalized:.3g} ({origin}; {fitted:.4g} before normalization)."
    return f"{level.capitalize()} threshold {fitted:.4g} ({origin})."


class ReferenceCheck(Callback):
    """Warns if images are good photographs themselves, or if only one of the two is in color.

    It must be called before the pre-processor. Good photographs that are not files are ignored.
    """

    def __init__(self) -> None:
        self._copies: dict[Path, Path] = {}
        self._references: list[Path] = []
        self._colors: Counter[bool] = Counter()

    def mark(self, record: Record) -> Record:
        """Add to a record the good photograph that the image is a copy of, if any."""
        copied = None if record.path is None else self._copies.get(Path(record.path))
        return record if copied is None else record._replace(same_as=copied.as_posix())

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find good photographs among the images."""
        references = getattr(pl_module, "references", [])
        self._references = [Path(path) for path in references if isinstance(path, str | Path)]
        self._colors = Counter()
        images = TrainerRun(trainer).images if self._references else []
        self._copies = find_copies(images, self._references)
        _warn(trainer, describe_inspected_references(self._copies, len(images)))

    on_predict_epoch_start = on_test_epoch_start

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: ImageBatch, *args, **kwargs
    ) -> None:
        """Count the color and gray images of a batch."""
        if self._references and batch.image is not None:
            pixels = (batch.image * 255).round().int().movedim(1, -1).cpu().numpy()
            self._colors.update(map(is_gray, pixels))

    on_predict_batch_start = on_test_batch_start

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare the images' colors with those of the good photographs."""
        white_level = getattr(pl_module, "white_level", None)
        _warn(trainer, describe_colors(self._colors, self._references, white_level))

    on_predict_epoch_end = on_test_epoch_end


def _warn(trainer: Trainer, lines: list[str]) -> None:
    if trainer.is_global_zero:
        for line in lines:
            logger.warning(line)
