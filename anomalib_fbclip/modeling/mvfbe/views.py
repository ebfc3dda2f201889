# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The three views of a layer in which foreground and background are separated (paper: MVFBE).

A view returns a linear map over the tokens of one layer, ``[B, 1 + L, C]``, with weights from the tokens and their
foreground mask. The class token stays unchanged. The patches form an ``h x w`` grid, row by row.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from anomalib_fbclip.modeling.precision import full_precision, to_full

from .linear_maps import BandMap, GroupMap, LinearMap, identity, neighborhoods, split_tokens

BLEND = 0.6
"""Share of the attended patch in the semantic view; the rest is the patch itself."""

WINDOW = 5
"""Side of a neighborhood of the spatial view in patches, odd."""


class IdentityView(nn.Module):
    """The tokens of the backbone, unchanged: the paper's identity view."""

    @staticmethod
    def forward(tokens: torch.Tensor, foreground_mask: torch.Tensor, grid: tuple[int, int]) -> LinearMap:
        """Return the identity.

        Args:
            tokens (torch.Tensor): Tokens of a layer, shape ``[B, 1 + L, C]``.
            foreground_mask (torch.Tensor): Mask of 1 (foreground) and ½, shape ``[B, L]``.
            grid (tuple[int, int]): Rows and columns of the patches, ``h * w == L``.

        Returns:
            LinearMap: The map from the tokens to the view.
        """
        del tokens, foreground_mask, grid
        return identity


class SemanticView(nn.Module):
    r"""Draws each patch towards patches of its kind in the whole image.

    A patch :math:`x_i` attends to all patches. Its logits are the product of both masks with, for the background, its
    agreement with the class token :math:`c` or, for the foreground, its disagreement. With :math:`s_i = \cos(x_i, c)`
    and the background mask :math:`b = 1 - f`:

    .. math::
        F_i &= \sum_j \operatorname{softmax}_j((1 - s_i) f_i f_j) \, x_j \\
        G_i &= \sum_j \operatorname{softmax}_j(s_i b_i b_j) \, x_j \\
        y_i &= 0.6 (f_i F_i + b_i G_i) + 0.4 x_i

    The mask takes only two values, so a softmax row has only two distinct entries. The attended sums follow from the
    sums and counts of the two groups :math:`f = 1` and :math:`f = \frac{1}{2}`, without a matrix of ``[L, L]``:

    .. math::
        F_i = \frac{\alpha_i \sum_{f_j = 1} x_j + \sum_{f_j = 1/2} x_j}{\alpha_i n_1 + n_{1/2}}, \quad
        \alpha_i = e^{(1 - s_i) f_i / 2}

    and correspondingly for :math:`G_i`, with :math:`\gamma_i = e^{s_i b_i / 2}` on the other group.

    Example:
        >>> view = SemanticView()
        >>> tokens = torch.randn(2, 1 + 49, 32)
        >>> linear_map = view(tokens, torch.ones(2, 49), grid=(7, 7))
        >>> linear_map(tokens).shape
        torch.Size([2, 50, 32])
    """

    @staticmethod
    def forward(tokens: torch.Tensor, foreground_mask: torch.Tensor, grid: tuple[int, int]) -> LinearMap:
        """Attend within foreground and background. See :meth:`IdentityView.forward`."""
        del grid
        with full_precision(tokens.device):
            tokens, mask = to_full(tokens), to_full(foreground_mask)
            class_token, patches = split_tokens(tokens)
            is_foreground = (mask == 1).to(mask.dtype)
            foreground_count = is_foreground.sum(dim=1, keepdim=True)
            background_count = mask.shape[1] - foreground_count

            stability = F.cosine_similarity(patches, class_token, dim=-1)
            # A row's entries are exp(r f_i) and exp(r f_i / 2): divided by the smaller, only their ratio is left.
            alpha = ((1 - stability) * mask / 2).exp()
            gamma = (stability * (1 - mask) / 2).exp()
            foreground = BLEND * mask / (alpha * foreground_count + background_count)
            background = BLEND * (1 - mask) / (foreground_count + gamma * background_count)
            group_weights = torch.stack([alpha * foreground + background, foreground + gamma * background], dim=-1)
            # The class token belongs to no group, and stays unchanged.
            return GroupMap(
                groups=F.pad(torch.stack([is_foreground, 1 - is_foreground], dim=1), (1, 0)),
                group_weights=F.pad(group_weights, (0, 0, 1, 0)),
                self_weight=F.pad(torch.full_like(mask, 1 - BLEND), (1, 0), value=1.0).unsqueeze(-1),
            )


class SpatialView(nn.Module):
    r"""Rebuilds each patch from its neighborhood on the grid, separately for foreground and background.

    The background branch weighs neighbors by their agreement with the class token :math:`c`. The foreground branch
    weighs them by their disagreement with it, and by their distance from the neighborhood's mean :math:`m_i`. With
    :math:`u_j = f_j x_j`, :math:`v_j = b_j x_j`, and sums over the neighborhood :math:`N(i)`:

    .. math::
        P_i &= \frac{1}{\sum_j f_j}
            \sum_j \operatorname{softmax}_j((1 - \cos(u_j, c)) \, \lVert u_j - m_i \rVert) \, u_j \\
        Q_i &= \frac{1}{\sum_j b_j} \sum_j \operatorname{softmax}_j(\cos(v_j, c) \, \lVert v_j \rVert) \, v_j \\
        y_i &= P_i + Q_i

    A neighborhood always has ``WINDOW * WINDOW`` entries. Those beyond the border are zeros, and background.

    Both branches weigh the same patches, so one product gives their sum. A band of rows and all of its neighbors are
    consecutive patches: its result is a product of a small matrix with a slice of the features. Nothing is unfolded.

    Example:
        >>> view = SpatialView()
        >>> tokens = torch.randn(2, 1 + 49, 32)
        >>> linear_map = view(tokens, torch.ones(2, 49), grid=(7, 7))
        >>> linear_map(tokens).shape
        torch.Size([2, 50, 32])
    """

    @staticmethod
    def forward(tokens: torch.Tensor, foreground_mask: torch.Tensor, grid: tuple[int, int]) -> LinearMap:
        """Rebuild the patches from their neighbors. See :meth:`IdentityView.forward`."""
        with full_precision(tokens.device):
            tokens, mask = to_full(tokens), to_full(foreground_mask)
            class_token, patches = split_tokens(tokens)
            masked = mask.unsqueeze(-1) * patches
            # Moving all points does not change distances. Near the origin, differences of squares lose least.
            origin = masked.mean(dim=1, keepdim=True)
            neighbors = _Neighbors(
                centered=masked - origin,
                mask=mask,
                disagreement=1 - F.cosine_similarity(patches, class_token, dim=-1),
                agreement=(1 - mask) * (patches @ F.normalize(class_token, dim=-1).mT).squeeze(-1),
            )
            bands = neighborhoods(grid, WINDOW, tokens.device)
            in_bands = _Neighbors(*map(bands.gather, neighbors))
            return BandMap(bands, SpatialView._weights(in_bands, origin.unsqueeze(1), bands.near.to(mask.dtype)))

    @staticmethod
    def _weights(neighbors: "_Neighbors", origin: torch.Tensor, near: torch.Tensor) -> torch.Tensor:
        r"""Compute the factors of :math:`x_j` in :math:`P_i + Q_i`.

        Distances come from products, as :math:`\lVert u - m \rVert^2 = \lVert u \rVert^2 - 2 u m + \lVert m \rVert^2`.

        Args:
            neighbors (_Neighbors): The M patches of each of K bands.
            origin (torch.Tensor): Origin of the centered patches, shape ``[B, 1, 1, C]``.
            near (torch.Tensor): 1 if patch j is near patch i, otherwise 0, shape ``[K, N, M]``.

        Returns:
            torch.Tensor: Weights, shape ``[B, K, N, M]``.
        """
        size = WINDOW**2
        outside = size - near.sum(dim=-1, keepdim=True)
        centered_mean = (near @ neighbors.centered - outside * origin) / size
        squared_distance = (
            centered_mean.square().sum(dim=-1, keepdim=True)
            - 2 * centered_mean @ neighbors.centered.mT
            + neighbors.centered.square().sum(dim=-1).unsqueeze(2)
        )
        distance = squared_distance.clamp(min=0).sqrt()
        mean_length = (centered_mean + origin).norm(dim=-1, keepdim=True)

        # Both branches together, [B, 2, ...]. All entries beyond the border share one logit.
        agreement = neighbors.agreement.unsqueeze(2).expand_as(distance)
        inside_logits = torch.stack([neighbors.disagreement.unsqueeze(2) * distance, agreement], dim=1)
        # Added after stacking: OpenVINO 2026.4 adds a vector wrongly to a norm in batches of several images.
        outside_logits = torch.stack([mean_length, torch.zeros_like(mean_length)], dim=1) + outside.log()
        logits = torch.cat([inside_logits.masked_fill(near == 0, -torch.inf), outside_logits], dim=-1)
        foreground_total = (neighbors.mask.unsqueeze(2) * near).sum(dim=-1, keepdim=True)
        totals = torch.stack([foreground_total, size - foreground_total], dim=1).clamp(min=1e-8)
        masks = torch.stack([neighbors.mask, 1 - neighbors.mask], dim=1).unsqueeze(3)
        return (logits.softmax(dim=-1)[..., :-1] * masks / totals).sum(dim=1)


class _Neighbors(NamedTuple):
    """Values of the patches in neighborhoods: all L patches, or the M of each of K bands.

    Attributes:
        centered (torch.Tensor): Patches times the foreground mask, minus an origin, shape ``[B, L, C]``.
        mask (torch.Tensor): Foreground mask, shape ``[B, L]``.
        disagreement (torch.Tensor): One minus the cosine to the class token, shape ``[B, L]``.
        agreement (torch.Tensor): Length along the class token, times the background mask, shape ``[B, L]``.
    """

    centered: torch.Tensor
    mask: torch.Tensor
    disagreement: torch.Tensor
    agreement: torch.Tensor


VIEWS: dict[str, type[nn.Module]] = {"identity": IdentityView, "semantic": SemanticView, "spatial": SpatialView}
"""The paper's views by name, in the order of their maps."""


def create_views(names: Sequence[str]) -> dict[str, nn.Module]:
    """Create the paper's views by name, in the order of their maps.

    Raises:
        ValueError: If a view is unknown or named twice, or there is none.
    """
    if not names or len(set(names)) < len(names) or not set(names) <= VIEWS.keys():
        msg = f"Views {list(names)} can't be used: choose one or several, each once, among {list(VIEWS)}."
        raise ValueError(msg)
    return {name: VIEWS[name]() for name in names}
