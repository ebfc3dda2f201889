# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Decides by a few photographs of good parts, together with the text."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import nn

from anomalib_fbclip.modeling.decision import Decision, IntermediateOutputs, ModelOutput, top_mean

from .calibration import Calibration, Spread, prediction_limit
from .memory_bank import Match, MemoryBank, join_layers

MAPS: tuple[Literal["references", "text"], ...] = ("references", "text")
"""Maps that take part in the decision."""

LOWEST_DEVIATION = -3.0
"""Standard deviations below which a patch is no more normal. A clear defect makes the text sure of the rest of its
image, and smoothing would hide the defect in that."""


class Merge(nn.Module):
    r"""Adds up how unlike good parts an image's patches are, and how abnormal the text finds them.

    Both are measured in standard deviations of good parts: a text map that varies much on good parts is worth little.

    .. math::

        Z = \max(z_d(d), -3) + \max(z_t(\operatorname{logit} p), -3)

    Args:
        spreads (Mapping[str, Spread]): What good parts have, for each map that takes part, of ``MAPS``.
    """

    def __init__(self, spreads: Mapping[str, Spread]) -> None:
        super().__init__()
        self.spreads = nn.ModuleDict(spreads)

    def forward(self, distances: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Merge maps.

        Args:
            distances (torch.Tensor): Distance of each patch from good parts, shape ``[B, 1, h, w]``.
            logits (torch.Tensor): Logits that the text gives them, of the same shape.

        Returns:
            torch.Tensor: How anomalous each patch is, in standard deviations of good parts, of the same shape.
        """
        values = {"references": distances, "text": logits}
        deviations = [spread(values[name]).clamp(min=LOWEST_DEVIATION) for name, spread in self.spreads.items()]
        return torch.stack(deviations).sum(dim=0)


class FewShot(Decision):
    """Decides by photographs of good parts, together with the text.

    Args:
        memory (MemoryBank): Patches of good parts.
        merge (Merge): Merges the distances from them with the text map.
        calibration (Calibration): From standard deviations to probabilities.
    """

    memory_bank: ClassVar[type[MemoryBank]] = MemoryBank
    limit = staticmethod(prediction_limit)
    """From leave-one-out scores to the threshold."""

    def __init__(self, memory: MemoryBank, merge: Merge, calibration: Calibration) -> None:
        super().__init__()
        self.memory = memory
        self.merge = merge
        self.calibration = calibration

    def forward(self, outputs: IntermediateOutputs) -> torch.Tensor:
        """Compare images with good parts.

        Args:
            outputs (IntermediateOutputs): What the model found in the images.

        Returns:
            torch.Tensor: How anomalous each patch is in standard deviations of good parts, shape ``[B, 1, h, w]``.
        """
        distances = self.match(outputs).distance.unflatten(1, outputs.patch_map.shape[1:])
        return self.merge(distances, text_logits(outputs))

    @property
    def k_shot(self) -> int:
        """Number of photographs."""
        return len(self.memory.patches)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor], views: int = 1) -> "FewShot":
        """Build the part anew from :meth:`tensors`.

        Args:
            tensors (Mapping[str, torch.Tensor]): The tensors by name.
            views (int, optional): Views of a photograph that they come from. Defaults to ``1``.

        Returns:
            FewShot: The part.
        """
        spreads: dict[str, Spread] = {
            name: Spread(tensors[f"merge.spreads.{name}.mean"], tensors[f"merge.spreads.{name}.std"])
            for name in MAPS
            if f"merge.spreads.{name}.mean" in tensors
        }
        memory = cls.memory_bank(tensors["memory.patches"], views)
        return cls(memory, Merge(spreads), Calibration(tensors["calibration.threshold"]))

    def match(self, outputs: IntermediateOutputs) -> Match:
        """Find the nearest reference patch of each patch."""
        return self.memory(join_layers(later_half(outputs.layer_tokens)))

    def predict(self, class_score: torch.Tensor | None, pixel_values: torch.Tensor, area: int) -> ModelOutput:
        """Turn standard deviations into probabilities. See :meth:`Decision.predict`."""
        del class_score
        return ModelOutput(self.calibration(top_mean(pixel_values, area)), self.calibration(pixel_values))


def later_half(layer_tokens: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    """Take the later half of the chosen layers, whose tokens tell parts best."""
    return layer_tokens[len(layer_tokens) // 2 :]


def text_logits(outputs: IntermediateOutputs) -> torch.Tensor:
    """Logits of the patches' abnormal probabilities, shape ``[B, 1, h, w]``."""
    return outputs.patch_map.logit(eps=1e-6)
