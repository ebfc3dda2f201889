# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Foreground-background attention: two branches of self-attention, fed by a gate (paper: MVFBE)."""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812


class AttentionSize(NamedTuple):
    """Size of an attention branch.

    Attributes:
        heads (int): Number of heads.
        head_width (int): Channels of a head.
    """

    heads: int
    head_width: int


PAPER_SIZE = AttentionSize(heads=8, head_width=64)
"""The paper's size."""


class AttentionBranch(nn.Module):
    """Multi-head self-attention over all tokens, after a layer norm and with a learned scale.

    Args:
        width (int): Channels C of the tokens.
        size (AttentionSize): Number and width of its heads.
    """

    def __init__(self, width: int, size: AttentionSize = PAPER_SIZE) -> None:
        super().__init__()
        self.heads = size.heads
        inner = size.heads * size.head_width
        self.norm = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_k = nn.Linear(width, inner, bias=False)
        self.to_v = nn.Linear(width, inner, bias=False)
        self.to_out = nn.Linear(inner, width)
        self.scale = nn.Parameter(torch.tensor(size.head_width**-0.5))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Attend; shape ``[B, T, C]`` in and out."""
        tokens = self.norm(tokens)
        query, key, value = (
            project(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.to_q, self.to_k, self.to_v)
        )
        # The scale is learned: it goes into the query, because the fused kernels take only a constant one.
        attended = F.scaled_dot_product_attention(query * self.scale, key, value, scale=1.0)
        return self.to_out(attended.transpose(1, 2).flatten(-2))


class ForegroundBackgroundAttention(nn.Module):
    """Splits tokens by a learned gate into foreground and background, attends within each, and adds the two.

    One module serves all layers and views.

    Args:
        width (int): Channels C of the tokens.
        size (AttentionSize): Number and width of the heads of each branch.
    """

    def __init__(self, width: int, size: AttentionSize = PAPER_SIZE) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(width, width // 2), nn.ReLU(), nn.Linear(width // 2, 1), nn.Sigmoid())
        self.foreground = AttentionBranch(width, size)
        self.background = AttentionBranch(width, size)
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Attend in both branches.

        Args:
            tokens (torch.Tensor): Tokens of one view, class token included, shape ``[B, 1 + L, C]``.

        Returns:
            torch.Tensor: Attended tokens, shape ``[B, 1 + L, C]``.
        """
        gate = self.gate(tokens)
        return self.norm(self.foreground(gate * tokens) + self.background((1 - gate) * tokens))
