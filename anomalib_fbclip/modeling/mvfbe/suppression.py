# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Background suppression: removes from all tokens what they share with the image's background (paper: MVFBE)."""

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from anomalib_fbclip.modeling.precision import full_precision, to_full

STRENGTH = 0.5
"""Share of the suppressed token in the result; the rest is the token itself."""


class BackgroundSuppression(nn.Module):
    r"""Moves every token away from the image's background prototype.

    With the image's prototype :math:`\beta` and a strength :math:`\lambda` of ½:

    .. math::
        \hat{y} = (1 - \lambda) y + \lambda (1 - \cos(y, \beta)) (y - \beta)

    Example:
        >>> suppression = BackgroundSuppression()
        >>> [tokens.shape for tokens in suppression([torch.randn(2, 1 + 49, 32), torch.randn(2, 1 + 49, 32)])]
        [torch.Size([2, 50, 32]), torch.Size([2, 50, 32])]
    """

    def forward(self, maps: list[torch.Tensor]) -> list[torch.Tensor]:
        """Suppress the background in all maps of a batch.

        Args:
            maps (list[torch.Tensor]): One map for each layer and view, each ``[B, 1 + L, C]``.

        Returns:
            list[torch.Tensor]: The maps with less background, in the same order and shape.
        """
        with full_precision(maps[0].device):
            prototype = self.prototype(maps)
            return [_suppress(tokens, prototype) for tokens in maps]

    @staticmethod
    def prototype(maps: list[torch.Tensor]) -> torch.Tensor:
        r"""Summarize the first half of the tokens of all maps.

        .. math::
            \beta = \tfrac{1}{2} \operatorname{mean}(Y) + \tfrac{1}{2} \max(Y)

        Args:
            maps (list[torch.Tensor]): One map for each layer and view, each ``[B, 1 + L, C]``.

        Returns:
            torch.Tensor: Mean of the tokens' mean and maximum, shape ``[B, C]``.
        """
        halves = [to_full(tokens.narrow(1, 0, tokens.shape[1] // 2)) for tokens in maps]
        mean = torch.stack([half.mean(dim=1) for half in halves]).mean(dim=0)
        maximum = torch.stack([half.amax(dim=1) for half in halves]).amax(dim=0)
        return 0.5 * mean + 0.5 * maximum


def _suppress(tokens: torch.Tensor, prototype: torch.Tensor) -> torch.Tensor:
    similarity = F.cosine_similarity(to_full(tokens), prototype.unsqueeze(1), dim=-1).unsqueeze(-1)
    taken = STRENGTH * (1 - similarity)
    return torch.addcmul((1 - STRENGTH + taken) * tokens, taken, prototype.unsqueeze(1), value=-1)
