# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The patches of good parts, and how far an image's patches are from them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from anomalib_fbclip.modeling.precision import full_precision, to_full


class Match(NamedTuple):
    """The reference patches that are nearest to the patches of images.

    Attributes:
        distance (torch.Tensor): Cosine distance, 0..2, shape ``[B, L]``.
        row (torch.Tensor): Row of the memory, shape ``[B, L]``.
    """

    distance: torch.Tensor
    row: torch.Tensor


class MemoryBank(nn.Module):
    r"""Patches of good parts.

    Of an image with normalized patch tokens :math:`x`, and a memory with rows :math:`m`, the distance of a patch is

    .. math::

        d = 1 - \max_m x^\top m

    Everything is in a buffer, which ``torch.compile`` and an exported graph take as a constant.

    Args:
        patches (torch.Tensor): Joined patch tokens of :func:`join_layers`, as many of each photograph, shape
            ``[k, R, D]``.
        views (int, optional): Views of a photograph that they come from. Defaults to ``1``.

    Example:
        >>> tokens = join_layers([torch.randn(2, 1 + 9, 8), torch.randn(2, 1 + 9, 8)])
        >>> memory = MemoryBank(tokens)
        >>> memory(tokens).distance.abs().max() < 1e-5
        tensor(True)
    """

    def __init__(self, patches: torch.Tensor, views: int = 1) -> None:
        super().__init__()
        self.views = views
        self.patches: torch.Tensor
        self.register_buffer("patches", patches, persistent=False)

    def forward(self, tokens: torch.Tensor) -> Match:
        """Find the nearest row of each patch.

        Args:
            tokens (torch.Tensor): Joined patch tokens of images, shape ``[B, L, D]``.

        Returns:
            Match: Distance and row.
        """
        with full_precision(tokens.device):
            # A graph in 16 bits may round what it subtracts, and what it selects: no cosines near 1, but distances.
            distance, row = (tokens @ -self.patches.flatten(0, 1).mT + 1).min(dim=-1)
            return Match(distance, row)

    def without(self, photograph: int) -> "MemoryBank":
        """Leave a photograph out.

        Args:
            photograph (int): Its index.

        Returns:
            MemoryBank: The memory of the others.
        """
        others = [index for index in range(len(self.patches)) if index != photograph]
        return type(self)(self.patches[others], self.views)


def join_layers(layer_tokens: Sequence[torch.Tensor]) -> torch.Tensor:
    """Join the patch tokens of layers: the product of two joined tokens is the mean of the layers' cosines.

    Args:
        layer_tokens (Sequence[torch.Tensor]): Tokens of each of N layers, class token first, each ``[B, 1 + L, C]``.

    Returns:
        torch.Tensor: Joined patch tokens of length 1, shape ``[B, L, N C]``.
    """
    directions = [_normalize(to_full(tokens[:, 1:])) for tokens in layer_tokens]
    return torch.cat(directions, dim=-1) / len(directions) ** 0.5


def _normalize(tokens: torch.Tensor) -> torch.Tensor:
    """Give tokens a length of 1 by a product: a graph in 16 bits may round a division, even one marked as precise."""
    return tokens * tokens.square().sum(dim=-1, keepdim=True).clamp(min=1e-24).pow(-0.5)


def select_coreset(rows: torch.Tensor, count: int) -> torch.Tensor:
    """Choose rows that cover all others, by k-center greedy: the next one is the one that is farthest from all chosen.

    anomalib's ``KCenterGreedy`` starts at random, and compares projections; rows of length 1 need one product a step.

    Args:
        rows (torch.Tensor): Rows of length 1, shape ``[M, D]``.
        count (int): How many are chosen.

    Returns:
        torch.Tensor: Indices of the chosen rows, the first row first, shape ``[count]``.
    """
    if count >= len(rows):
        return torch.arange(len(rows), device=rows.device)
    chosen = [torch.zeros((), dtype=torch.long, device=rows.device)]
    with full_precision(rows.device):
        similarity = rows @ rows[0]
        for _ in range(count - 1):
            chosen.append(similarity.argmin())
            similarity = torch.maximum(similarity, rows @ rows[chosen[-1]])
    return torch.stack(chosen)
