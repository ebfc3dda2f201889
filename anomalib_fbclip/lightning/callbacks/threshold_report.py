# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Report of a run's fitted thresholds, and warning if verdicts are unreliable."""

import logging

from lightning.pytorch import Callback, LightningModule, Trainer

from anomalib_fbclip.lightning.post_processing import CHECKPOINT, LEVELS, ThresholdPostProcessor
from anomalib_fbclip.results.thresholds import describe_guess

logger = logging.getLogger(__name__)

FITTED = {CHECKPOINT, "labels", "masks", "normal images"}
"""Sources of thresholds that were fitted, in the words of the table."""

ADVICE = "Set few_shot_source to a folder of good photographs, unlabeled_source, or image_threshold."


class ThresholdReport(Callback):
    """Logs fitted thresholds before a test and before a prediction, and warns if there is none.

    Args:
        post_processor (ThresholdPostProcessor): The post-processor with the thresholds.
    """

    def __init__(self, post_processor: ThresholdPostProcessor) -> None:
        self._post_processor = post_processor

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the thresholds, once the model has its good photographs."""
        del pl_module
        if not trainer.is_global_zero:
            return
        lines = [describe_threshold(self._post_processor, level) for level in LEVELS]
        if any(lines):
            logger.info(" ".join(filter(None, lines)))
        for line in describe_guess(self._post_processor.image_threshold_source, ADVICE):
            logger.warning(line)

    on_predict_epoch_start = on_test_epoch_start


def describe_threshold(post_processor: ThresholdPostProcessor, level: str) -> str:
    """Describe the ``image`` or ``pixel`` threshold in a sentence; empty if it was not fitted."""
    source = getattr(post_processor, f"{level}_threshold_source")
    if source not in FITTED:
        return ""
    fitted, normalized = (getattr(post_processor, f"{name}{level}_threshold").item() for name in ("", "normalized_"))
    origin = f"from {'the checkpoint' if source == CHECKPOINT else source}"
    if getattr(post_processor, f"{level}_min").isfinite():
        return f"{level.capitalize()} threshold {normalized:.3g} ({origin}; {fitted:.4g} before normalization)."
    return f"{level.capitalize()} threshold {fitted:.4g} ({origin})."
