# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Foreground-background attention: two branches of self-attention, fed by a gate (paper: MVFBE).

This is the textbook form. The model computes the same faster, by
:class:`~anomalib_fbclip.modeling.mvfbe.fused.FusedAttention`.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from anomalib_fbclip.modeling.precision import to_full

from .linear_maps import LayerViews


class AttentionSize(NamedTuple):
    """Size of an attention branch.

    Attributes:
        num_heads (int): Number of heads.
        head_dim (int): Channels of a head.
    """

    num_heads: int
    head_dim: int


PAPER_SIZE = AttentionSize(num_heads=8, head_dim=64)
"""The paper's size."""


class Gate(nn.Sequential):
    r"""Computes the share of each token that goes to the foreground branch.

    .. math::
        g(x) = \sigma(w_2^\top \operatorname{relu}(W_1 x + b_1) + b_2)

    The product :math:`W_1 x` is the input, because the fused attention computes it with its other products.

    Args:
        width (int): Channels C of the tokens.
    """

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(width, width // 2), nn.ReLU(), nn.Linear(width // 2, 1), nn.Sigmoid())

    def project(self, tokens: torch.Tensor) -> torch.Tensor:
        """Multiply tokens ``[..., C]`` by the first layer's matrix, ``[..., C / 2]``."""
        return F.linear(tokens, self[0].get_parameter("weight"))

    def forward(self, projected: torch.Tensor) -> torch.Tensor:
        """Compute the shares, 0..1, ``[..., 1]``, from projected tokens ``[..., C / 2]``."""
        first, activation, second, sigmoid = self
        return sigmoid(to_full(second(activation(projected + first.get_parameter("bias")))))


class AttentionBranch(nn.Module):
    r"""Multi-head self-attention over all tokens, after a layer norm and with a learned scale.

    For each head, with :math:`\bar{X} = \operatorname{LayerNorm}(X)` and a learned scalar :math:`s`:

    .. math::
        \operatorname{softmax}(s \, \bar{X} W_q (\bar{X} W_k)^\top) \, \bar{X} W_v

    Args:
        width (int): Channels C of the tokens.
        size (AttentionSize): Number and channels of its heads.
    """

    def __init__(self, width: int, size: AttentionSize) -> None:
        super().__init__()
        inner_width = size.num_heads * size.head_dim
        self.head_dim = size.head_dim
        self.norm = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, inner_width, bias=False)
        self.to_k = nn.Linear(width, inner_width, bias=False)
        self.to_v = nn.Linear(width, inner_width, bias=False)
        self.to_out = nn.Linear(inner_width, width)
        self.scale = nn.Parameter(torch.tensor(size.head_dim**-0.5))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Attend.

        Args:
            tokens (torch.Tensor): The branch's share of the tokens, shape ``[B, 1 + L, C]``.

        Returns:
            torch.Tensor: Attended tokens, shape ``[B, 1 + L, C]``.
        """
        normalized = self.norm(tokens)
        query = self._split_heads(self.to_q(normalized))
        key = self._split_heads(self.to_k(normalized))
        value = self._split_heads(self.to_v(normalized))
        weights = (self.scale * query @ key.mT).softmax(dim=-1)
        return self.to_out((weights @ value).transpose(1, 2).flatten(-2))

    def _split_heads(self, values: torch.Tensor) -> torch.Tensor:
        """Bring ``[B, 1 + L, heads * head_dim]`` to ``[B, heads, 1 + L, head_dim]``."""
        return values.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class ForegroundBackgroundAttention(nn.Module):
    r"""Splits tokens by a learned gate into foreground and background, attends within each, and adds the two.

    For the tokens :math:`X` of a layer and the linear map :math:`V` of a view:

    .. math::
        Y = A(V X), \quad A(Z) = \operatorname{LayerNorm}(A_f(g(Z) \odot Z) + A_b((1 - g(Z)) \odot Z))

    :math:`A_f` and :math:`A_b` are an :class:`AttentionBranch` each. There is no residual. One module serves all layers
    and views.

    Args:
        width (int): Channels C of the tokens.
        size (AttentionSize): Number and channels of the heads of each branch.

    Example:
        >>> attention = ForegroundBackgroundAttention(32, AttentionSize(num_heads=2, head_dim=8))
        >>> attention.attend(torch.randn(2, 1 + 49, 32)).shape
        torch.Size([2, 50, 32])
    """

    def __init__(self, width: int, size: AttentionSize) -> None:
        super().__init__()
        self.gate = Gate(width)
        self.foreground = AttentionBranch(width, size)
        self.background = AttentionBranch(width, size)
        self.norm = nn.LayerNorm(width)

    def forward(self, layers: Iterable[LayerViews]) -> list[torch.Tensor]:
        """Attend in every view of every layer.

        Args:
            layers (Iterable[LayerViews]): The layers and their views.

        Returns:
            list[torch.Tensor]: Attended tokens of each view of each layer, each ``[B, 1 + L, C]``.
        """
        return [self.attend(linear_map(layer.tokens)) for layer in layers for linear_map in layer.maps]

    def attend(self, tokens: torch.Tensor) -> torch.Tensor:
        """Attend in both branches.

        Args:
            tokens (torch.Tensor): Tokens of one view, class token included, shape ``[B, 1 + L, C]``.

        Returns:
            torch.Tensor: Attended tokens, shape ``[B, 1 + L, C]``.
        """
        gate = self.gate(self.gate.project(tokens))
        return self.norm(self.foreground(gate * tokens) + self.background((1 - gate) * tokens))
