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
"""Arguments of the model on which its scores depend, and which its tensors don't tell."""


class Normalization(NamedTuple):
    """Normalization fitted to labeled images: it moves scores, or anomaly maps, so that 0.5 is the threshold.

    Attributes:
        threshold (float): The threshold of what the model computes; NaN if none was fitted.
        minimum (float): Least value that the model computed; NaN if it is not known.
        maximum (float): Largest value.
        decision (float): Value, once moved, above which something is anomalous.
    """

    threshold: float = math.nan
    minimum: float = math.nan
    maximum: float = math.nan
    decision: float = USUAL_THRESHOLD

    @classmethod
    def read(cls, checkpoint: Mapping[str, Any], level: str) -> "Normalization":
        """Read what anomalib's post-processor has left in a checkpoint.

        Args:
            checkpoint (Mapping[str, Any]): The checkpoint.
            level (str): ``image`` for scores, ``pixel`` for anomaly maps.

        Returns:
            Normalization: The normalization.
        """
        names = (f"_{level}_threshold", f"{level}_min", f"{level}_max")
        state = checkpoint["state_dict"]
        threshold, minimum, maximum = (float(state.get(f"post_processor.{name}", math.nan)) for name in names)
        sensitivity = checkpoint.get("anomalib_post_processor_config", {}).get(f"{level}_sensitivity", USUAL_THRESHOLD)
        return cls(threshold, minimum, maximum, 1 - sensitivity)

    @property
    def is_fitted(self) -> bool:
        """True if it moves values, or decides at another threshold than the usual one."""
        return math.isfinite(self.threshold) or not math.isclose(self.decision, USUAL_THRESHOLD)

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Move values as anomalib does.

        Args:
            values (torch.Tensor): Scores or anomaly maps, of any shape.

        Returns:
            torch.Tensor: The same, 0..1, with the threshold at 0.5; as they are where nothing was fitted.
        """
        if math.isnan(self.minimum) or math.isnan(self.maximum):
            return values
        extent = self.maximum - self.minimum
        threshold = self.minimum + extent / 2 if math.isnan(self.threshold) else self.threshold
        moved = (values - threshold) / extent if extent else (values - threshold).sign()
        return (moved + USUAL_THRESHOLD).clamp(0, 1)


class Training(NamedTuple):
    """Content of a training checkpoint.

    Attributes:
        tensors (dict[str, torch.Tensor]): The adapters by their names in the model.
        metadata (dict[str, Any]): What is known of them.
        arguments (dict[str, Any]): Arguments of the model that they were trained with.
        normalizations (tuple[Normalization, Normalization]): Of scores and of anomaly maps.
    """

    tensors: dict[str, torch.Tensor]
    metadata: dict[str, Any]
    arguments: dict[str, Any]
    normalizations: tuple[Normalization, Normalization]

    @classmethod
    def read(cls, checkpoint: Mapping[str, Any]) -> "Training":
        """Take apart what :func:`~anomalib_fbclip.weights.tensor_files.read_checkpoint` has read."""
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
    """Copy the state of Adam with its averages in bfloat16, which keeps their range; loading casts them back.

    Args:
        state (dict[str, Any]): State dict of the optimizer.

    Returns:
        dict[str, Any]: The state dict with the averages in half the size.
    """
    halved = {
        index: {name: value.bfloat16() if name.startswith("exp_avg") else value for name, value in averages.items()}
        for index, averages in state["state"].items()
    }
    return {**state, "state": halved}
