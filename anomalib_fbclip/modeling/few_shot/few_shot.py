# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Decision by a few photographs of good parts, together with the text."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import nn

from anomalib_fbclip.modeling.anomaly_map import MapValues
from anomalib_fbclip.modeling.decision import Decision, IntermediateOutputs, ModelOutput, top_mean, top_patches

from .calibration import Calibration, Spread, prediction_limit
from .memory_bank import Match, MemoryBank, join_layers

MAPS: tuple[Literal["references", "text"], ...] = ("references", "text")
"""Maps that take part in the decision."""

LOWEST_DEVIATION = -3.0
"""Lowest standard deviations of a patch. The text finds the rest of an image with a clear defect very normal, and
smoothing would hide the defect in that."""


class Merge(nn.Module):
    r"""Adds the distances of an image's patches from good parts and the text's logits.

    Both are measured in standard deviations of good parts: a text map that varies much on good parts counts little.

    .. math::

        Z = \max(z_d(d), -3) + \max(z_t(\operatorname{logit} p), -3)

    Args:
        spreads (Mapping[str, Spread]): Spread on good parts of each merged map, by its name in ``MAPS``.
    """

    def __init__(self, spreads: Mapping[str, Spread]) -> None:
        super().__init__()
        self.spreads = nn.ModuleDict(spreads)

    def forward(self, distances: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Merge maps.

        Args:
            distances (torch.Tensor): Distance of each patch from good parts, shape ``[B, 1, h, w]``.
            logits (torch.Tensor): The text's logits, of the same shape.

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
        calibration (Calibration): Turns standard deviations into probabilities.
    """

    memory_bank: ClassVar[type[MemoryBank]] = MemoryBank
    limit = staticmethod(prediction_limit)
    """Computes the threshold from leave-one-out scores."""

    def __init__(self, memory: MemoryBank, merge: Merge, calibration: Calibration) -> None:
        super().__init__()
        self.memory = memory
        self.merge = merge
        self.calibration = calibration

    def forward(self, outputs: IntermediateOutputs) -> torch.Tensor:
        """Compare images with good parts.

        Args:
            outputs (IntermediateOutputs): The model's outputs for the images.

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
        """Restore a decision from its :meth:`tensors`.

        Args:
            tensors (Mapping[str, torch.Tensor]): The tensors by name.
            views (int, optional): Number of views of a photograph. Defaults to ``1``.
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

    def predict(self, class_score: torch.Tensor | None, values: MapValues) -> ModelOutput:
        """Turn standard deviations into probabilities. See :meth:`Decision.predict`."""
        del class_score
        return ModelOutput(self.calibration(score(values, self.memory.views)), self.calibration(values.pixels))


def score(values: MapValues, views: int) -> torch.Tensor:
    """Average the highest values of each image: of its pixels, or with tiles of its patches.

    Args:
        values (MapValues): How anomalous the places are.
        views (int): Number of views of an image.

    Returns:
        torch.Tensor: Scores, shape ``[B]``.
    """
    return top_mean(values.pixels, values.area) if views == 1 else top_patches(values.patches, values.inside)


def later_half(layer_tokens: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    """Return the later half of the chosen layers, whose tokens distinguish parts best."""
    return layer_tokens[len(layer_tokens) // 2 :]


def text_logits(outputs: IntermediateOutputs) -> torch.Tensor:
    """Compute the logits of the patches' abnormal probabilities, shape ``[B, 1, h, w]``."""
    return outputs.patch_map.logit(eps=1e-6)
