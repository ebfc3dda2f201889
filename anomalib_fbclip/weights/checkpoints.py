# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Checkpoints of a training of :class:`~anomalib_fbclip.FBClip` with anomalib."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from anomalib_fbclip.results.thresholds import USUAL_THRESHOLD

CHECKPOINT_KEY = "fbclip"
"""Key of a checkpoint's metadata."""

MODEL_PREFIX = "model."
"""Prefix of a model's tensors in a checkpoint."""

ARGUMENTS = ("views", "text_strategies", "background_suppression", "image_score")
"""Arguments of the model that its scores depend on, and that its tensors don't reveal."""


class Normalization(NamedTuple):
    """Normalization of scores or anomaly maps, fitted to labeled images: it moves their threshold to 0.5.

    Attributes:
        threshold (float): Threshold before the normalization; NaN if none was fitted.
        minimum (float): Smallest value before the normalization; NaN if it is unknown.
        maximum (float): Largest value before the normalization; NaN if it is unknown.
        decision (float): Threshold after the normalization.
    """

    threshold: float = math.nan
    minimum: float = math.nan
    maximum: float = math.nan
    decision: float = USUAL_THRESHOLD

    @classmethod
    def read(cls, checkpoint: Mapping[str, Any], level: str) -> "Normalization":
        """Read the state of anomalib's post-processor from a checkpoint.

        Args:
            checkpoint (Mapping[str, Any]): The checkpoint.
            level (str): ``image`` for scores, ``pixel`` for anomaly maps.
        """
        names = (f"_{level}_threshold", f"{level}_min", f"{level}_max")
        state = checkpoint["state_dict"]
        threshold, minimum, maximum = (float(state.get(f"post_processor.{name}", math.nan)) for name in names)
        sensitivity = checkpoint.get("anomalib_post_processor_config", {}).get(f"{level}_sensitivity", USUAL_THRESHOLD)
        return cls(threshold, minimum, maximum, 1 - sensitivity)

    @property
    def is_fitted(self) -> bool:
        """True if a threshold was fitted, or the threshold after the normalization is not the default."""
        return math.isfinite(self.threshold) or not math.isclose(self.decision, USUAL_THRESHOLD)

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Normalize values of any shape as anomalib does: to 0..1, with the threshold at 0.5.

        Values without a known range are returned unchanged.
        """
        if math.isnan(self.minimum) or math.isnan(self.maximum):
            return values
        extent = self.maximum - self.minimum
        threshold = self.minimum + extent / 2 if math.isnan(self.threshold) else self.threshold
        moved = (values - threshold) / extent if extent else (values - threshold).sign()
        return (moved + USUAL_THRESHOLD).clamp(0, 1)


class Training(NamedTuple):
    """Content of a training checkpoint, see :class:`~anomalib_fbclip.weights.adapters.Adapters`."""

    tensors: dict[str, torch.Tensor]
    metadata: dict[str, Any]
    arguments: dict[str, Any]
    normalizations: tuple[Normalization, Normalization]

    @classmethod
    def read(cls, checkpoint: Mapping[str, Any]) -> "Training":
        """Extract what adapters need from a checkpoint."""
        parameters = checkpoint["hyper_parameters"]
        return cls(
            {
                name.removeprefix(MODEL_PREFIX): tensor
                for name, tensor in checkpoint["state_dict"].items()
                if name.startswith(MODEL_PREFIX)
            },
            checkpoint[CHECKPOINT_KEY],
            {name: parameters[name] for name in ARGUMENTS if name in parameters},
            (Normalization.read(checkpoint, "image"), Normalization.read(checkpoint, "pixel")),
        )


def halve_averages(state: dict[str, Any]) -> dict[str, Any]:
    """Copy the state dict of Adam with its averages in bfloat16, which keeps their range. Loading casts them back."""
    halved = {
        index: {name: value.bfloat16() if name.startswith("exp_avg") else value for name, value in averages.items()}
        for index, averages in state["state"].items()
    }
    return {**state, "state": halved}
