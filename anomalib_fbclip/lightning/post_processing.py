# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Post-processing: fitted or explicit thresholds, and masks that agree with the verdict."""

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
"""The source of thresholds that a checkpoint brought."""

SENSITIVITY = 0.5
"""anomalib's usual sensitivity: a score is compared with 1 less it."""


class ThresholdPostProcessor(PostProcessor):
    """Post-processor of anomalib whose verdicts hold.

    - A fitted threshold lies between two values, in the middle of the widest gap that gives the best F1 score.
    - Without masks, the threshold of the anomaly map comes from the maps of the normal images.
    - The mask of an anomalous image has at least one region, and that of a normal image none.
    - Thresholds can be given. They are on the scale of the scores that are shown: the normalization moves a fitted
      threshold to 0.5. They override those of a checkpoint.

    Args:
        image_threshold (float | None, optional): Score, 0..1, above which an image is anomalous. ``None``: 0.5.
            Defaults to ``None``.
        pixel_threshold (float | None, optional): Value of the anomaly map, 0..1, above which a pixel is anomalous.
            ``None``: 0.5. Defaults to ``None``.

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
        # A checkpoint of the stock post-processor would have a threshold of scores applied to maps.
        return tuple(key for key in super()._checkpoint_config_keys if key != "enable_threshold_matching")

    def load_checkpoint_config(self, config: dict[str, Any]) -> None:
        """Restore the configuration of a checkpoint, but for the thresholds that were given."""
        super().load_checkpoint_config(config | self._given_sensitivities)
        self._sources = dict.fromkeys(LEVELS, CHECKPOINT)

    @property
    def is_fitted(self) -> bool:
        """True if thresholds and normalization were fitted to images, and do not come from a checkpoint."""
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

    def forget_fit(self, source: str) -> None:
        """Forget thresholds and normalization that were fitted or a checkpoint's, because they are of other scores.

        Args:
            source (str): Where the threshold of 0.5 comes from until labels give another, in the words of the table.
        """
        self._unfitted_source = source
        self._sources = {}
        for level in LEVELS:
            for name in (f"_{level}_threshold", f"{level}_min", f"{level}_max"):
                getattr(self, name).fill_(math.nan)
            if f"{level}_sensitivity" not in self._given_sensitivities:
                setattr(self, f"{level}_sensitivity", SENSITIVITY)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to look at labeled images."""
        del trainer
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
        """Take the predictions of labeled images."""
        del trainer, pl_module, args, kwargs
        if outputs.gt_label is None:
            return
        self._metrics["image"].update(outputs.pred_score, outputs.gt_label)
        self._metrics["pixel"].update(outputs.anomaly_map, outputs.gt_mask, outputs.gt_label)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fit thresholds and normalization; without labeled images they stay as they are."""
        del pl_module
        for level, metric in self._metrics.items():
            # Of several processes, all take part: one of them may have no image.
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
        """Post-process predictions. See :meth:`anomalib.post_processing.PostProcessor.forward`.

        Args:
            predictions (InferenceBatch): Scores and anomaly maps of the model.

        Returns:
            InferenceBatch: Normalized scores and maps, verdicts, and masks that agree with them.
        """
        processed = super().forward(predictions)
        return processed._replace(pred_mask=_agreeing_mask(processed))

    def threshold_batch(self, batch: Batch) -> None:
        """Apply the thresholds to a batch.

        Args:
            batch (Batch): Batch with normalized scores and maps; it gets verdicts, and masks that agree with them.
        """
        super().threshold_batch(batch)
        batch.pred_mask = _agreeing_mask(batch)


def resolve_post_processor(
    post_processor: PostProcessor | bool,
    image_threshold: float | None,
    pixel_threshold: float | None,
) -> PostProcessor | bool:
    """Set thresholds that were given in the default post-processor.

    Args:
        post_processor (PostProcessor | bool): A post-processor, or whether to use the default.
        image_threshold (float | None): Score, 0..1, above which an image is anomalous; ``None`` if it is not given.
        pixel_threshold (float | None): Value of the anomaly map above which a pixel is; ``None`` if it is not given.

    Returns:
        PostProcessor | bool: The post-processor; ``False`` if there is none.

    Raises:
        ValueError: If a threshold is not in 0..1, or thresholds are given and the default is not used.
    """
    if post_processor is True:
        return ThresholdPostProcessor(image_threshold, pixel_threshold)
    if image_threshold is None and pixel_threshold is None:
        return post_processor
    msg = "image_threshold and pixel_threshold are set in the default post-processor: don't give another one too."
    raise ValueError(msg)


def _agreeing_mask(predictions: InferenceBatch | Batch) -> torch.Tensor | None:
    """Give masks that agree with the verdicts, or those that there are where a map or a verdict is missing."""
    mask, anomaly_map, label = predictions.pred_mask, predictions.anomaly_map, predictions.pred_label
    if mask is None or anomaly_map is None or label is None:
        return mask
    return match_verdict(mask, anomaly_map, label)


def match_verdict(mask: torch.Tensor, anomaly_map: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Make masks agree with the verdicts: :func:`anomalib_fbclip.results.regions.match_verdict` in torch.

    Args:
        mask (torch.Tensor): Where the anomaly map is above its threshold, bool ``[B, H, W]``.
        anomaly_map (torch.Tensor): Anomaly maps, shape ``[B, H, W]``.
        label (torch.Tensor): The verdicts, bool ``[B]``.

    Returns:
        torch.Tensor: Nothing for a normal image. For an anomalous one the mask or, if that is empty, the strongest
            place of the map; bool ``[B, H, W]``.
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
