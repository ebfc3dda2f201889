# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Memory of the patches of good parts, and distances of an image's patches from them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from anomalib_fbclip.modeling.precision import full_precision, to_full


class Match(NamedTuple):
    """The nearest reference patches of the patches of images.

    Attributes:
        distance (torch.Tensor): Cosine distance, 0..2, shape ``[B, L]``.
        row (torch.Tensor): Row of the memory, shape ``[B, L]``.
    """

    distance: torch.Tensor
    row: torch.Tensor


class MemoryBank(nn.Module):
    r"""Patches of good parts.

    For a normalized patch token :math:`x` of an image, and rows :math:`m` of the memory, the distance is

    .. math::

        d = 1 - \max_m x^\top m

    The rows are a buffer, which is a constant for ``torch.compile`` and in an exported graph.

    Args:
        patches (torch.Tensor): Joined patch tokens of :func:`join_layers`, R of each photograph, shape ``[k, R, D]``.
        views (int, optional): Number of views of a photograph. Defaults to ``1``.

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
        """
        with full_precision(tokens.device):
            # Distances, not cosines near 1: a 16-bit graph may round what it subtracts or selects.
            distance, row = (tokens @ -self.patches.flatten(0, 1).mT + 1).min(dim=-1)
            return Match(distance, row)

    def without(self, photograph: int) -> "MemoryBank":
        """Return the memory without a photograph, given its index."""
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
    """Scale tokens to length 1 by a product: a 16-bit graph may round a division, even if marked as precise."""
    return tokens * tokens.square().sum(dim=-1, keepdim=True).clamp(min=1e-24).pow(-0.5)


def select_coreset(rows: torch.Tensor, count: int) -> torch.Tensor:
    """Choose rows that cover all others, by k-center greedy: each next row is the one farthest from those chosen.

    anomalib's ``KCenterGreedy`` starts at random, and compares projections; rows of length 1 need one product per step.

    Args:
        rows (torch.Tensor): Rows of length 1, shape ``[M, D]``.
        count (int): Number of rows to choose.

    Returns:
        torch.Tensor: Indices of the chosen rows, beginning with the first row, shape ``[count]``.
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
