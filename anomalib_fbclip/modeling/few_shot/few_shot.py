# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Decides by a few photographs of good parts, together with the text."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from anomalib_fbclip.modeling.image_score import top_mean

from .calibration import Calibration, Spread
from .memory import Match, ReferenceMemory, join_layers

if TYPE_CHECKING:
    from anomalib_fbclip.modeling.fbclip import Detection

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


class FewShot(nn.Module):
    """Decides by photographs of good parts, together with the text.

    Args:
        memory (ReferenceMemory): Patches of good parts.
        merge (Merge): Merges the distances from them with the text map.
        calibration (Calibration): From standard deviations to probabilities.
    """

    def __init__(self, memory: ReferenceMemory, merge: Merge, calibration: Calibration) -> None:
        super().__init__()
        self.memory = memory
        self.merge = merge
        self.calibration = calibration

    def forward(self, detection: "Detection") -> torch.Tensor:
        """Compare images with good parts.

        Args:
            detection (Detection): What the model found in the images.

        Returns:
            torch.Tensor: How anomalous each patch is in standard deviations of good parts, shape ``[B, 1, h, w]``.
        """
        distances = self.match(detection).distance.unflatten(1, detection.patch_map.shape[1:])
        return self.merge(distances, text_logits(detection))

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor]) -> "FewShot":
        """Build the part anew from :meth:`tensors`.

        Args:
            tensors (Mapping[str, torch.Tensor]): The tensors by name.

        Returns:
            FewShot: The part.
        """
        spreads: dict[str, Spread] = {
            name: Spread(tensors[f"merge.spreads.{name}.mean"], tensors[f"merge.spreads.{name}.std"])
            for name in MAPS
            if f"merge.spreads.{name}.mean" in tensors
        }
        memory = ReferenceMemory(tensors["memory.patches"])
        return cls(memory, Merge(spreads), Calibration(tensors["calibration.threshold"]))

    def tensors(self) -> dict[str, torch.Tensor]:
        """All that the part knows, by name."""
        return dict(self.named_buffers())

    @property
    def k_shot(self) -> int:
        """Number of photographs."""
        return len(self.memory.patches)

    def match(self, detection: "Detection") -> Match:
        """Find the nearest reference patch of each patch."""
        return self.memory(join_layers(later_half(detection.layer_tokens)))

    def calibrate(self, deviation_map: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Turn maps in standard deviations, shape ``[B, H, W]``, into probabilities.

        Args:
            deviation_map (torch.Tensor): The maps, upsampled and smoothed.

        Returns:
            tuple[torch.Tensor, torch.Tensor]: Scores, shape ``[B]``, and anomaly maps, shape ``[B, H, W]``.
        """
        return self.calibration(top_mean(deviation_map)), self.calibration(deviation_map)


def later_half(layer_tokens: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    """Take the later half of the chosen layers, whose tokens tell parts best."""
    return layer_tokens[len(layer_tokens) // 2 :]


def text_logits(detection: "Detection") -> torch.Tensor:
    """Logits of the patches' abnormal probabilities, shape ``[B, 1, h, w]``."""
    return detection.patch_map.logit(eps=1e-6)
