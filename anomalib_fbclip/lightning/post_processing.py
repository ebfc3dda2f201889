# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Post-processing: fitted or given thresholds, and masks that agree with the verdicts."""

import math
from typing import TYPE_CHECKING, Any

import torch
from anomalib.data import Batch, InferenceBatch
from anomalib.post_processing import PostProcessor
from lightning import LightningModule, Trainer

from anomalib_fbclip.results.regions import strongest_place_radius
from anomalib_fbclip.results.thresholds import DEFAULT, check_threshold

from .adaptive_threshold import FittedThreshold, ImageThreshold, PixelThreshold

if TYPE_CHECKING:
    from torchmetrics import Metric

LEVELS = ("image", "pixel")

CHECKPOINT = "checkpoint"
"""Source of thresholds that come from a checkpoint."""

FITTED = {CHECKPOINT, "labels", "masks", "normal images"}
"""Sources of thresholds that were fitted, in the words of the table."""

SENSITIVITY = 0.5
"""anomalib's default sensitivity: the threshold is 1 minus it."""


class ThresholdPostProcessor(PostProcessor):
    """Post-processor with robust or given thresholds, and masks that agree with the verdicts.

    - A fitted threshold lies between two values, in the middle of the widest gap with the best F1 score.
    - Without masks, the threshold of the anomaly map comes from the maps of normal images.
    - The mask of an anomalous image has at least one region, and that of a normal image none.
    - Given thresholds apply to normalized scores and maps: normalization moves a fitted threshold to 0.5. They override
      those of a checkpoint.

    Args:
        image_threshold (float | None, optional): Score, 0..1, above which an image is anomalous; ``None`` for 0.5.
            Defaults to ``None``.
        pixel_threshold (float | None, optional): Value of the anomaly map, 0..1, above which a pixel is anomalous;
            ``None`` for 0.5. Defaults to ``None``.

    Raises:
        ValueError: If a threshold is not in 0..1.

    Example:
        >>> post_processor = ThresholdPostProcessor(image_threshold=0.7)
        >>> round(post_processor.normalized_image_threshold.item(), 6)
        0.7
        >>> post_processor.image_threshold_source
        'given'
    """

    def __init__(self, image_threshold: float | None = None, pixel_threshold: float | None = None) -> None:
        super().__init__(enable_threshold_matching=False)
        self._given_sensitivities: dict[str, Any] = {}
        for level, threshold in zip(LEVELS, (image_threshold, pixel_threshold), strict=True):
            check_threshold(f"{level}_threshold", threshold)
            if threshold is not None:
                self._given_sensitivities[f"{level}_sensitivity"] = 1 - threshold
        super().load_checkpoint_config(self._given_sensitivities)
        self._metrics: dict[str, Metric] = {}
        self._sources: dict[str, str] = {}
        self._unfitted_source = DEFAULT

    @property
    def _checkpoint_config_keys(self) -> tuple[str, ...]:
        # With a checkpoint of anomalib's post-processor, the threshold of scores would be applied to maps.
        return tuple(key for key in super()._checkpoint_config_keys if key != "enable_threshold_matching")

    def load_checkpoint_config(self, config: dict[str, Any]) -> None:
        """Restore the configuration of a checkpoint, except for given thresholds."""
        super().load_checkpoint_config(config | self._given_sensitivities)
        self._sources = dict.fromkeys(LEVELS, CHECKPOINT)

    @property
    def is_fitted(self) -> bool:
        """True if thresholds and normalization were fitted to images in this process."""
        return bool(self._sources) and not self.is_of_checkpoint

    @property
    def is_of_checkpoint(self) -> bool:
        """True if thresholds and normalization come from a checkpoint."""
        return CHECKPOINT in self._sources.values()

    @property
    def image_threshold_source(self) -> str:
        """Source of the threshold of the scores, as in a :class:`~anomalib_fbclip.results.records.Record`."""
        return self._source("image")

    @property
    def pixel_threshold_source(self) -> str:
        """Source of the threshold of the maps, as in a :class:`~anomalib_fbclip.results.records.Record`."""
        return self._source("pixel")

    def _source(self, level: str) -> str:
        if f"{level}_sensitivity" in self._given_sensitivities:
            return "given"
        is_fitted = bool(getattr(self, f"_{level}_threshold").isfinite())
        is_moved = not math.isclose(getattr(self, f"{level}_sensitivity"), SENSITIVITY)
        return self._sources.get(level, DEFAULT) if is_fitted or is_moved else self._unfitted_source

    def describe(self) -> str:
        """Describe each fitted threshold in a sentence; empty if there is none."""
        return " ".join(self._describe(level) for level in LEVELS if self._source(level) in FITTED)

    def _describe(self, level: str) -> str:
        source = self._source(level)
        fitted, normalized = (getattr(self, f"{name}{level}_threshold").item() for name in ("", "normalized_"))
        origin = f"from {'the checkpoint' if source == CHECKPOINT else source}"
        if getattr(self, f"{level}_min").isfinite():
            return f"{level.capitalize()} threshold {normalized:.3g} ({origin}; {fitted:.4g} before normalization)."
        return f"{level.capitalize()} threshold {fitted:.4g} ({origin})."

    def forget_fit(self, source: str) -> None:
        """Discard fitted thresholds and normalization, because scores change.

        Until the next fit, the source of the threshold of 0.5 is the given one, in the words of the table.
        """
        self._unfitted_source = source
        self._sources = {}
        for level in LEVELS:
            for name in (f"_{level}_threshold", f"{level}_min", f"{level}_max"):
                getattr(self, name).fill_(math.nan)
            if f"{level}_sensitivity" not in self._given_sensitivities:
                setattr(self, f"{level}_sensitivity", SENSITIVITY)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a fit."""
        self._metrics = {"image": ImageThreshold(), "pixel": PixelThreshold()}
        for metric in self._metrics.values():
            metric.to(pl_module.device)

    def on_validation_batch_end(  # type: ignore[override] # as anomalib has it
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Batch,
        *args,
        **kwargs,
    ) -> None:
        """Add the predictions of labeled images."""
        if outputs.gt_label is None:
            return
        self._metrics["image"].update(outputs.pred_score, outputs.gt_label)
        self._metrics["pixel"].update(outputs.anomaly_map, outputs.gt_mask, outputs.gt_label)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fit thresholds and normalization, if there were labeled images."""
        for level, metric in self._metrics.items():
            # All processes take part, even one without images.
            fit: FittedThreshold | None = metric.compute() if metric.update_called or trainer.world_size > 1 else None
            if fit is not None:
                self._set_fit(level, fit)
        self._metrics = {}

    def _set_fit(self, level: str, fit: FittedThreshold) -> None:
        if self._sources.get(level) == CHECKPOINT and f"{level}_sensitivity" not in self._given_sensitivities:
            setattr(self, f"{level}_sensitivity", SENSITIVITY)
        self._sources[level] = fit.source
        if self.enable_thresholding:
            getattr(self, f"_{level}_threshold").copy_(fit.threshold)
        if self.enable_normalization:
            getattr(self, f"{level}_min").copy_(fit.minimum)
            getattr(self, f"{level}_max").copy_(fit.maximum)

    def forward(self, predictions: InferenceBatch) -> InferenceBatch:
        """Normalize scores and maps, and add verdicts, and masks that agree with them."""
        processed = super().forward(predictions)
        return processed._replace(pred_mask=_agreeing_mask(processed))

    def threshold_batch(self, batch: Batch) -> None:
        """Add verdicts, and masks that agree with them, to a batch with normalized scores and maps."""
        super().threshold_batch(batch)
        batch.pred_mask = _agreeing_mask(batch)


def resolve_post_processor(
    post_processor: PostProcessor | bool,
    image_threshold: float | None,
    pixel_threshold: float | None,
) -> PostProcessor | bool:
    """Create the default post-processor with the given thresholds, or return another one, or ``False``, unchanged."""
    if post_processor is True:
        return ThresholdPostProcessor(image_threshold, pixel_threshold)
    if image_threshold is None and pixel_threshold is None:
        return post_processor
    msg = "Give image_threshold and pixel_threshold, or a post-processor, not both."
    raise ValueError(msg)


def _agreeing_mask(predictions: InferenceBatch | Batch) -> torch.Tensor | None:
    """Make masks agree with the verdicts; unchanged if maps or verdicts are missing."""
    mask, anomaly_map, label = predictions.pred_mask, predictions.anomaly_map, predictions.pred_label
    if mask is None or anomaly_map is None or label is None:
        return mask
    return match_verdict(mask, anomaly_map, label)


def match_verdict(mask: torch.Tensor, anomaly_map: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Make masks agree with the verdicts: :func:`anomalib_fbclip.results.regions.match_verdict` in torch.

    Masks and maps have the shape ``[B, H, W]``. The mask of a normal image becomes empty. That of an anomalous one, if
    it is empty, becomes the strongest place of the map.
    """
    height, width = anomaly_map.shape[-2:]
    radius = strongest_place_radius(height, width)
    peak = anomaly_map.flatten(1).argmax(dim=1, keepdim=True)
    rows, columns = (torch.arange(side, device=mask.device) for side in (height, width))
    near_row = (rows - peak // width).abs() <= radius
    near_column = (columns - peak % width).abs() <= radius
    place = near_row.unsqueeze(2) & near_column.unsqueeze(1)
    is_empty = ~mask.flatten(1).any(dim=1)
    return label.view(-1, 1, 1) & (mask | (is_empty.view(-1, 1, 1) & place))
