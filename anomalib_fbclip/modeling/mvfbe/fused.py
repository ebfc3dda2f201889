# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

r"""The foreground-background attention over all views of all layers, fused for speed.

It equals :class:`~anomalib_fbclip.modeling.mvfbe.attention.ForegroundBackgroundAttention`. Three identities save work:

- The layer norm of a gated token is linear in the token, up to one factor. With the gate's share :math:`g`, and mean
  :math:`\mu` and variance :math:`v` of the token's channels:

  .. math::
      \operatorname{LayerNorm}(g x) = \frac{g}{\sqrt{g^2 v + \epsilon}} (x - \mu) \odot \gamma + \beta

  So the matrices of queries, keys and values of both branches, and of the gate's first layer, form one matrix, which is
  applied to the token itself. The mean is subtracted from the matrix's rows instead of from the token.
- A view is a linear map over the tokens of its layer. It is applied to the layer's products with that matrix.
- Both branches are heads of one attention with one output matrix.
"""

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import NamedTuple

import torch
from torch.nn import functional as F  # noqa: N812

from anomalib_fbclip.modeling.precision import full_precision, to_dtype, to_full

from .attention import AttentionBranch, ForegroundBackgroundAttention
from .linear_maps import LayerViews

TOKENS_AT_ONCE = 2**15
"""Number of tokens that a GPU attends at once: all 15 maps of one image of the paper's size, or one or two maps of a
large batch. With the paper's widths they take 1 GB in float32. A CPU gains nothing from more than one map."""


class AttentionWeights(NamedTuple):
    """The merged parameters of gate and branches, one tensor per operation.

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
    """A view's tokens, prepared for the fused attention.

    Attributes:
        tokens (torch.Tensor): The tokens' products with ``AttentionWeights.inputs``, shape ``[B, 1 + L, P]``.
        variance (torch.Tensor): Variance of each token's channels, shape ``[B, 1 + L, 1]``.
    """

    tokens: torch.Tensor
    variance: torch.Tensor


class FusedAttention:
    """Attends in many views with the parameters of one attention, which it merges once.

    Args:
        attention (ForegroundBackgroundAttention): The attention.
    """

    def __init__(self, attention: ForegroundBackgroundAttention) -> None:
        self.attention = attention
        self.weights = merge_weights(attention)

    def __call__(self, layers: Iterable[LayerViews]) -> list[torch.Tensor]:
        """Attend in every view of every layer. See :meth:`ForegroundBackgroundAttention.forward`."""
        return self.attend(self.project(layers))

    def project(self, layers: Iterable[LayerViews]) -> Iterator[ProjectedView]:
        """Project the tokens once per layer, and map the products to each view.

        Args:
            layers (Iterable[LayerViews]): The layers and their views.

        Yields:
            ProjectedView: The views, layer by layer.
        """
        for tokens, maps in layers:
            projected = F.linear(tokens, self.weights.inputs)
            for linear_map in maps:
                with full_precision(tokens.device):
                    variance = channel_variance(linear_map(to_full(tokens)))
                yield ProjectedView(linear_map(projected), variance)

    def attend(self, views: Iterable[ProjectedView]) -> list[torch.Tensor]:
        """Attend in both branches, in several views at once if ``TOKENS_AT_ONCE`` allows.

        Args:
            views (Iterable[ProjectedView]): The views, each taken only when needed.

        Returns:
            list[torch.Tensor]: Attended tokens of each view, shape ``[B, 1 + L, C]``.
        """
        attended: list[torch.Tensor] = []
        for chunk in _chunks(iter(views)):
            together = ProjectedView(*map(_concatenate, zip(*chunk, strict=True)))
            attended += self._attend_projected(together).unflatten(0, (len(chunk), -1)).unbind()
        return attended

    def _attend_projected(self, view: ProjectedView) -> torch.Tensor:
        gate, foreground, weights = self.attention.gate, self.attention.foreground, self.weights
        gate_width = gate[0].out_features
        share = gate(view.tokens[..., :gate_width])
        shares = torch.cat([share, 1 - share], dim=-1)
        factors = shares * (shares.square() * view.variance + foreground.norm.eps).rsqrt()
        projected = view.tokens[..., gate_width:].unflatten(-1, weights.bias.shape)
        merged = to_dtype(torch.addcmul(weights.bias, projected, factors[..., None, :, None]), projected.dtype)
        query, key, value = (
            part.flatten(-2).unflatten(-1, (-1, foreground.head_dim)).transpose(1, 2) for part in merged.unbind(-3)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        added = F.linear(mixed.transpose(1, 2).flatten(-2), weights.outputs, weights.output_bias)
        return self.attention.norm(to_full(added))


def merge_weights(attention: ForegroundBackgroundAttention) -> AttentionWeights:
    """Merge the parameters of an attention, with a graph to its own."""
    branches = (attention.foreground, attention.background)
    matrices, biases = zip(*map(_merge_branch, branches), strict=True)
    return AttentionWeights(
        inputs=torch.cat([attention.gate[0].get_parameter("weight"), torch.stack(matrices, dim=1).flatten(0, 2)]),
        bias=torch.stack(biases, dim=1),
        outputs=torch.cat([branch.to_out.weight for branch in branches], dim=1),
        output_bias=attention.foreground.to_out.bias + attention.background.to_out.bias,
    )


def _merge_branch(branch: AttentionBranch) -> tuple[torch.Tensor, torch.Tensor]:
    """Merge a branch's layer norm and scale into query, key and value, ``[3, I, C]``, and their bias, ``[3, I]``."""
    # The learned scale goes into the query: the fused kernels take only a constant one.
    matrices = torch.stack([branch.scale * branch.to_q.weight, branch.to_k.weight, branch.to_v.weight])
    weighted = matrices * branch.norm.weight
    return weighted - weighted.mean(dim=-1, keepdim=True), matrices @ branch.norm.bias


def channel_variance(tokens: torch.Tensor) -> torch.Tensor:
    """Compute the variance of each token's channels, from ``[B, 1 + L, C]`` to ``[B, 1 + L, 1]``."""
    # Not Tensor.var, which is ten times slower on a CPU.
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
