# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Multi-view foreground-background enhancement (paper: MVFBE)."""

from collections.abc import Mapping

import torch
from torch import nn

from .attention import ForegroundBackgroundAttention
from .foreground_mask import SoftForegroundMask
from .fused import FusedAttention
from .linear_maps import LayerViews


class MultiViewDisentanglement(nn.Module):
    r"""Separates foreground and background in several views of every layer (paper: MVFBE).

    For layer :math:`l` with tokens :math:`X_l`, soft foreground mask :math:`f_l` and view :math:`v`:

    .. math::
        f_l &= M(X_l, X_{l-1}) \\
        V_{l,v} &= W_v(X_l, f_l) \\
        Y_{l,v} &= A(V_{l,v} X_l) \\
        \hat{Y} &= S(Y)

    :math:`M` is the mask, :math:`W_v` a view, which gives a linear map, :math:`A` the attention and :math:`S` the
    background suppression, which sees the maps of all layers and views together.

    Args:
        foreground_mask (SoftForegroundMask): Mask of the patches that belong to the object.
        views (Mapping[str, nn.Module]): Views of a layer by name, in the order of their maps. Each gives a
            :class:`~anomalib_fbclip.modeling.mvfbe.linear_maps.LinearMap`.
        attention (ForegroundBackgroundAttention): Attention over the tokens of a view, one for all layers and views.
        suppression (nn.Module): Background suppression, from a list of maps to a list of maps.

    Example:
        >>> from anomalib_fbclip.modeling.mvfbe import AttentionSize, BackgroundSuppression, create_views
        >>> mvfbe = MultiViewDisentanglement(
        ...     SoftForegroundMask(),
        ...     create_views(["identity", "semantic", "spatial"]),
        ...     ForegroundBackgroundAttention(32, AttentionSize(num_heads=2, head_dim=8)),
        ...     BackgroundSuppression(),
        ... )
        >>> layer_tokens = [torch.randn(2, 1 + 49, 32) for _ in range(5)]
        >>> maps = mvfbe(layer_tokens, grid=(7, 7))
        >>> len(maps), maps[0].shape
        (15, torch.Size([2, 50, 32]))
    """

    def __init__(
        self,
        foreground_mask: SoftForegroundMask,
        views: Mapping[str, nn.Module],
        attention: ForegroundBackgroundAttention,
        suppression: nn.Module,
    ) -> None:
        super().__init__()
        self.foreground_mask = foreground_mask
        self.views = nn.ModuleDict(views)
        self.attention = attention
        self.suppression = suppression

    def forward(self, layer_tokens: list[torch.Tensor], grid: tuple[int, int]) -> list[torch.Tensor]:
        """Enhance the foreground in the tokens of the chosen layers.

        Args:
            layer_tokens (list[torch.Tensor]): Tokens of the chosen layers, class token first, each ``[B, 1 + L, C]``.
            grid (tuple[int, int]): Rows and columns of the patches, ``h * w == L``.

        Returns:
            list[torch.Tensor]: Maps of each view of each layer, each ``[B, 1 + L, C]``.
        """
        layers = []
        for tokens, previous_tokens in zip(layer_tokens, [None, *layer_tokens], strict=False):
            mask = self.foreground_mask(tokens, previous_tokens)
            layers.append(LayerViews(tokens, [view(tokens, mask, grid) for view in self.views.values()]))
        attention = FusedAttention(self.attention)  # equals self.attention, but is faster
        return self.suppression(attention(layers))
