# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Checkpoints of a training with anomalib, and those of the reference implementation that its authors publish."""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from anomalib_fbclip.results.thresholds import USUAL_THRESHOLD

CHECKPOINT_KEY = "fbclip"
"""Key of a checkpoint's metadata."""

MODEL_PREFIX = "model."
"""Prefix of a model's tensors in a checkpoint."""

PUBLISHED = {"mvtec": "mvtec_epoch_1_model.pth", "visa": "visa_epoch_2_model.pth"}
"""Files that the authors publish, by the dataset that the adapters were trained on."""

REFERENCE_GROUPS = ("prompt_learner", "model_trainable_params")
"""Entries with adapters in a checkpoint of the reference implementation."""

REFERENCE_NAMES = {
    r"ctx_pos": r"prompt_learner.normal_context",
    r"ctx_neg": r"prompt_learner.abnormal_context",
    r"fb_Attention\.fg_to_out\.0\.(weight|bias)": r"mvfbe.attention.foreground.to_out.\1",
    r"fb_Attention\.bg_to_out\.0\.(weight|bias)": r"mvfbe.attention.background.to_out.\1",
    r"fb_Attention\.fg_(norm\.weight|norm\.bias|to_[qkv]\.weight|scale)": r"mvfbe.attention.foreground.\1",
    r"fb_Attention\.bg_(norm\.weight|norm\.bias|to_[qkv]\.weight|scale)": r"mvfbe.attention.background.\1",
    r"fb_Attention\.((?:gate\.[02]|norm)\.(?:weight|bias))": r"mvfbe.attention.\1",
    r"token_selector\.([02]\.(?:weight|bias))": r"text_fusion.strategies.attention.selector.\1",
    r"text_projection_mlp\.([02]\.(?:weight|bias))": r"text_fusion.strategies.attention.mlp.\1",
    r"scale_weights": r"alignment.scale_weights",
}
"""Names of adapters in this project, by patterns of their names in the reference's checkpoints."""

REFERENCE_UNUSED = re.compile(
    r"token_(prefix|suffix)_(pos|neg)|tokenized_prompts_(pos|neg)"
    r"|compound_prompts_text\.[0-7]|compound_prompt_projections\.[0-7]\.(weight|bias)"
    r"|fusion_weights?|gate_network\.[02]\.(weight|bias)|layer_selector",
)
"""Names in the reference's checkpoints that it does not use."""


class Normalization(NamedTuple):
    """Normalization of scores or anomaly maps, fitted to labeled images: it moves their threshold to 0.5.

    NaN stands for what was not fitted.
    """

    threshold: float = math.nan  # before the normalization, like the limits of the values
    minimum: float = math.nan
    maximum: float = math.nan
    decision: float = USUAL_THRESHOLD  # threshold after the normalization

    @classmethod
    def read(cls, checkpoint: Mapping[str, Any], level: str) -> "Normalization":
        """Read anomalib's post-processor from a checkpoint, at the level ``image`` for scores or ``pixel`` for maps."""
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


def halve_averages(state: dict[str, Any]) -> dict[str, Any]:
    """Copy the state dict of Adam with its averages in bfloat16, which keeps their range. Loading casts them back."""
    halved = {
        index: {name: value.bfloat16() if name.startswith("exp_avg") else value for name, value in averages.items()}
        for index, averages in state["state"].items()
    }
    return {**state, "state": halved}


def convert_reference(checkpoint: object, what: str) -> tuple[dict[str, torch.Tensor], str]:
    """Extract the adapters of a checkpoint of the reference implementation, and the dataset of their training.

    Something else raises ``ValueError`` about ``what``.
    """
    if not isinstance(checkpoint, dict) or not all(isinstance(checkpoint.get(part), dict) for part in REFERENCE_GROUPS):
        msg = (
            f"{what} are not a checkpoint of FB-CLIP: give one from anomalib, or one from the reference "
            f"implementation, with {' and '.join(map(repr, REFERENCE_GROUPS))}."
        )
        raise ValueError(msg)
    tensors = {
        _rename(name): tensor.squeeze((0, 1)) if name in {"ctx_pos", "ctx_neg"} else tensor
        for group in REFERENCE_GROUPS
        for name, tensor in checkpoint[group].items()
        if not REFERENCE_UNUSED.fullmatch(name)
    }
    return tensors, checkpoint.get("source_domain", "unknown")


def _rename(name: str) -> str:
    for pattern, replacement in REFERENCE_NAMES.items():
        if match := re.fullmatch(pattern, name):
            return match.expand(replacement)
    return name
