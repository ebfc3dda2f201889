# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Background suppression: takes from all tokens what they share with the image's background (paper: MVFBE)."""

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from anomalib_fbclip.modeling.precision import full_precision, to_full


class BackgroundSuppression(nn.Module):
    """Moves every token away from the image's background prototype.

    Args:
        strength (float): Share of the suppressed token in the result; the rest is the token itself.
    """

    def __init__(self, strength: float = 0.5) -> None:
        super().__init__()
        self.strength = strength

    def forward(self, maps: list[torch.Tensor]) -> list[torch.Tensor]:
        """Suppress the background in all maps of a batch.

        Args:
            maps (list[torch.Tensor]): One map for each layer and view, each ``[B, 1 + L, C]``.

        Returns:
            list[torch.Tensor]: The maps without what the background explains, in the same order and shape.
        """
        with full_precision(maps[0].device):
            prototype = self.prototype(maps)
            return [self._suppress(tokens, prototype) for tokens in maps]

    @staticmethod
    def prototype(maps: list[torch.Tensor]) -> torch.Tensor:
        """Summarise the first half of the tokens of all maps.

        Args:
            maps (list[torch.Tensor]): One map for each layer and view, each ``[B, 1 + L, C]``.

        Returns:
            torch.Tensor: Mean of the tokens' mean and maximum, shape ``[B, C]``.
        """
        halves = [to_full(tokens[:, : tokens.shape[1] // 2]) for tokens in maps]
        mean = torch.stack([half.mean(dim=1) for half in halves]).mean(dim=0)
        maximum = torch.stack([half.amax(dim=1) for half in halves]).amax(dim=0)
        return 0.5 * mean + 0.5 * maximum

    def _suppress(self, tokens: torch.Tensor, prototype: torch.Tensor) -> torch.Tensor:
        similarity = F.cosine_similarity(to_full(tokens), prototype.unsqueeze(1), dim=-1).unsqueeze(-1)
        taken = self.strength * (1 - similarity)
        return torch.addcmul((1 - self.strength + taken) * tokens, taken, prototype.unsqueeze(1), value=-1)
