# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Foreground-background attention: two branches of self-attention, fed by a gate (paper: MVFBE)."""

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from anomalib_fbclip.modeling.precision import to_full

TOKENS_AT_ONCE = 2**15
"""Tokens that a GPU attends at once: all 15 maps of one image of the paper's size, one or two maps of a large batch.
With the paper's widths they take 1 GB in float32. A CPU gains nothing by more than one map."""


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


class AttentionWeights(NamedTuple):
    """The parameters of gate and branches, merged: each tensor serves a single operation.

    Attributes:
        inputs (torch.Tensor): Gate's first layer, then query, key and value of both branches, shape ``[P, C]`` with
            ``P = C / 2 + 6 I``.
        bias (torch.Tensor): Bias of query, key and value of both branches, shape ``[3, 2, I]``.
        outputs (torch.Tensor): Output layers of both branches, shape ``[C, 2 I]``.
        output_bias (torch.Tensor): Their bias, shape ``[C]``.
    """

    inputs: torch.Tensor
    bias: torch.Tensor
    outputs: torch.Tensor
    output_bias: torch.Tensor


class ProjectedView(NamedTuple):
    """What the attention needs to know of a view's tokens.

    Attributes:
        tokens (torch.Tensor): The tokens' products with ``AttentionWeights.inputs``, shape ``[B, 1 + L, P]``.
        variance (torch.Tensor): Variance of each token's channels, shape ``[B, 1 + L, 1]``.
    """

    tokens: torch.Tensor
    variance: torch.Tensor


class AttentionBranch(nn.Module):
    """Parameters of multi-head self-attention over all tokens, after a layer norm and with a learned scale.

    Args:
        width (int): Channels C of the tokens.
        size (AttentionSize): Number and width of its heads, of I channels together.
    """

    def __init__(self, width: int, size: AttentionSize = PAPER_SIZE) -> None:
        super().__init__()
        inner = size.heads * size.head_width
        self.norm = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_k = nn.Linear(width, inner, bias=False)
        self.to_v = nn.Linear(width, inner, bias=False)
        self.to_out = nn.Linear(inner, width)
        self.scale = nn.Parameter(torch.tensor(size.head_width**-0.5))

    def merge(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Merge all that is linear before the attention; what is left of the layer norm is a factor for each token.

        The norm's subtraction of a token's mean is taken from the matrix that follows: rows without a mean don't see
        that of a token.

        Returns:
            tuple[torch.Tensor, torch.Tensor]: Query, key and value, shape ``[3, I, C]``, and their bias, ``[3, I]``.
        """
        # The scale is learned: it goes into the query, because the fused kernels take only a constant one.
        matrices = torch.stack([self.scale * self.to_q.weight, self.to_k.weight, self.to_v.weight])
        weighted = matrices * self.norm.weight
        return weighted - weighted.mean(dim=-1, keepdim=True), matrices @ self.norm.bias


class Gate(nn.Sequential):
    """Share of each token that the foreground branch gets.

    Args:
        width (int): Channels C of the tokens.
    """

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(width, width // 2), nn.ReLU(), nn.Linear(width // 2, 1), nn.Sigmoid())

    def forward(self, projected: torch.Tensor) -> torch.Tensor:
        """Decide, from tokens times the first layer's matrix, shape ``[..., C / 2]``; a share of 0..1, ``[..., 1]``."""
        first, activation, second, sigmoid = self
        return sigmoid(to_full(second(activation(projected + first.get_parameter("bias")))))


class ForegroundBackgroundAttention(nn.Module):
    """Splits tokens by a learned gate into foreground and background, attends within each, and adds the two.

    One module serves all layers and views. The gate's first layer, and queries, keys and values of both branches are
    linear in the tokens, but for a factor for each token and branch. So one product gives them all, and where a view
    mixes the tokens of a layer, it can mix the layer's products instead.

    Args:
        width (int): Channels C of the tokens.
        size (AttentionSize): Number and width of the heads of each branch.
    """

    def __init__(self, width: int, size: AttentionSize = PAPER_SIZE) -> None:
        super().__init__()
        self.head_width = size.head_width
        self.gate = Gate(width)
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
        weights = self.merge()
        (attended,) = self.attend([ProjectedView(project(tokens, weights), variance(tokens))], weights)
        return attended

    def merge(self) -> AttentionWeights:
        """Merge the parameters, once for all layers and views."""
        branches = (self.foreground, self.background)
        matrices, biases = zip(*(branch.merge() for branch in branches), strict=True)
        return AttentionWeights(
            inputs=torch.cat([self.gate[0].get_parameter("weight"), torch.stack(matrices, dim=1).flatten(0, 2)]),
            bias=torch.stack(biases, dim=1),
            outputs=torch.cat([branch.to_out.weight for branch in branches], dim=1),
            output_bias=self.foreground.to_out.bias + self.background.to_out.bias,
        )

    def attend(self, views: Iterable[ProjectedView], weights: AttentionWeights) -> list[torch.Tensor]:
        """Attend in both branches, in several views at once as far as ``TOKENS_AT_ONCE`` allows.

        Args:
            views (Iterable[ProjectedView]): The views, which are taken from it when it is their turn.
            weights (AttentionWeights): The merged parameters.

        Returns:
            list[torch.Tensor]: Attended tokens of each view, shape ``[B, 1 + L, C]``.
        """
        attended: list[torch.Tensor] = []
        for chunk in _chunks(iter(views)):
            together = ProjectedView(*map(_concatenate, zip(*chunk, strict=True)))
            attended += self._attend(together, weights).unflatten(0, (len(chunk), -1)).unbind()
        return attended

    def _attend(self, view: ProjectedView, weights: AttentionWeights) -> torch.Tensor:
        gate_width = self.gate[0].out_features
        gate = self.gate(view.tokens[..., :gate_width])
        shares = torch.cat([gate, 1 - gate], dim=-1)
        # Of a token times its share: the layer norm's small addend keeps it from being that of the token itself.
        factors = shares * (shares.square() * view.variance + self.foreground.norm.eps).rsqrt()
        projected = view.tokens[..., gate_width:].unflatten(-1, weights.bias.shape)
        merged = torch.addcmul(weights.bias, projected, factors[..., None, :, None]).to(projected.dtype)
        query, key, value = (
            part.flatten(-2).unflatten(-1, (-1, self.head_width)).transpose(1, 2) for part in merged.unbind(-3)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        added = F.linear(mixed.transpose(1, 2).flatten(-2), weights.outputs, weights.output_bias)
        return self.norm(to_full(added))


def project(tokens: torch.Tensor, weights: AttentionWeights) -> torch.Tensor:
    """Compute what is linear in the tokens ``[B, T, C]``, and comes before the attention, ``[B, T, P]``."""
    return F.linear(tokens, weights.inputs)


def variance(tokens: torch.Tensor) -> torch.Tensor:
    """Compute the variance of each token's channels in full precision, ``[B, T, 1]``."""
    # Not Tensor.var, which is ten times slower on a CPU.
    tokens = to_full(tokens)
    return (tokens - tokens.mean(dim=-1, keepdim=True)).square().mean(dim=-1, keepdim=True)


def _chunks(views: Iterator[ProjectedView]) -> Iterator[list[ProjectedView]]:
    for view in views:
        yield list(islice(chain([view], views), _maps_at_once(view.tokens)))


def _maps_at_once(tokens: torch.Tensor) -> int:
    # An exported graph serves batches of any size.
    if tokens.device.type == "cpu" or torch.compiler.is_exporting():
        return 1
    batch, count, _ = tokens.shape
    return max(TOKENS_AT_ONCE // (batch * count), 1)


def _concatenate(parts: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return torch.cat(parts) if len(parts) > 1 else parts[0]
