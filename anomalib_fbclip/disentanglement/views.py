# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The three views of a layer in which foreground and background are told apart (paper: MVFBE).

Every view maps the tokens of one layer, ``[B, 1 + L, C]``, and their foreground mask to new tokens of the same shape
and leaves the class token as it is. The patches form an ``h x w`` grid, row by row.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812


class IdentityView(nn.Module):
    """The tokens as the backbone left them."""

    @staticmethod
    def forward(tokens: torch.Tensor, foreground_mask: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """Return the tokens unchanged, shape ``[B, 1 + L, C]``."""
        del foreground_mask, grid
        return tokens


class SemanticView(nn.Module):
    """Draws each patch towards the patches of its own kind, over the whole image.

    A patch attends to all others with a strength that is the product of both masks and of its own information (its
    disagreement with the class token) for the foreground, or of its stability (its agreement) for the background.

    The mask takes only two values, so a softmax row has only two distinct entries. The attended sums follow from the
    token sums of the two groups, without a matrix of ``[L, L]``.

    Args:
        blend (float): Share of the attended patch in the result; the rest is the patch itself.
    """

    def __init__(self, blend: float = 0.6) -> None:
        super().__init__()
        self.blend = blend

    def forward(self, tokens: torch.Tensor, foreground_mask: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """Attend within foreground and background.

        Args:
            tokens (torch.Tensor): Tokens of a layer, shape ``[B, 1 + L, C]``.
            foreground_mask (torch.Tensor): Mask of 1 (foreground) and ½, shape ``[B, L]``.
            grid (tuple[int, int]): Not used: this view does not know where a patch lies.

        Returns:
            torch.Tensor: Tokens of the view, shape ``[B, 1 + L, C]``.
        """
        del grid
        class_token, patches = tokens[:, :1], tokens[:, 1:]
        mask = foreground_mask.unsqueeze(-1)
        is_foreground = (mask == 1).to(patches.dtype)
        foreground_sum = (is_foreground * patches).sum(dim=1, keepdim=True)
        background_sum = ((1 - is_foreground) * patches).sum(dim=1, keepdim=True)
        foreground_count = is_foreground.sum(dim=1, keepdim=True)
        background_count = patches.shape[1] - foreground_count

        stability = F.cosine_similarity(patches, class_token, dim=-1).unsqueeze(-1)
        # A row's entries are exp(r f_i) and exp(r f_i / 2): divided by the smaller, only their ratio is left.
        alpha = ((1 - stability) * mask / 2).exp()
        gamma = (stability * (1 - mask) / 2).exp()
        foreground = (alpha * foreground_sum + background_sum) / (alpha * foreground_count + background_count)
        background = (foreground_sum + gamma * background_sum) / (foreground_count + gamma * background_count)

        attended = mask * foreground + (1 - mask) * background
        return torch.cat([class_token, self.blend * attended + (1 - self.blend) * patches], dim=1)


class SpatialView(nn.Module):
    """Rebuilds each patch from its neighbourhood on the grid, foreground and background apart.

    In the background branch, neighbours count by their agreement with the class token; in the foreground branch by
    their disagreement with it and their distance from the neighbourhood's mean. A neighbourhood always has
    ``window * window`` entries: beyond the border there are zeros, which are background.

    Both branches weigh the same patches, so one product with a banded ``[L, L]`` matrix gives the sum of both. The
    features are never unfolded, and what sums over a neighbourhood without weights is a box filter on the grid.

    Args:
        window (int): Side of the neighbourhood in patches, odd.
    """

    def __init__(self, window: int = 5) -> None:
        super().__init__()
        self.window = window

    def forward(self, tokens: torch.Tensor, foreground_mask: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """Rebuild the patches from their neighbours.

        Args:
            tokens (torch.Tensor): Tokens of a layer, shape ``[B, 1 + L, C]``.
            foreground_mask (torch.Tensor): Mask of 1 (foreground) and ½, shape ``[B, L]``.
            grid (tuple[int, int]): Rows and columns of the patches, ``h * w == L``.

        Returns:
            torch.Tensor: Tokens of the view, shape ``[B, 1 + L, C]``.
        """
        class_token, patches = tokens[:, :1], tokens[:, 1:]
        background_mask = 1 - foreground_mask
        is_neighbour = neighbourhood(grid, self.window, tokens.device)
        outside = (self.window**2 - is_neighbour.sum(dim=-1, keepdim=True)).to(tokens.dtype)

        background = self._weights(
            *self._background_logits(class_token, patches, background_mask, grid),
            is_neighbour,
        )
        foreground = self._weights(
            *self._foreground_logits(class_token, patches, foreground_mask, grid),
            is_neighbour,
        )
        foreground_total = self._sum(foreground_mask, grid).clamp(min=1e-8)
        background_total = (self._sum(background_mask, grid) + outside).clamp(min=1e-8)
        mixing = (
            foreground * foreground_mask.unsqueeze(1) / foreground_total
            + background * background_mask.unsqueeze(1) / background_total
        )
        return torch.cat([class_token, mixing @ patches], dim=1)

    @staticmethod
    def _background_logits(
        class_token: torch.Tensor,
        patches: torch.Tensor,
        background_mask: torch.Tensor,
        grid: tuple[int, int],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Length of each masked patch along the class token, the same in every neighbourhood; 0 beyond the border."""
        agreement = (patches * F.normalize(class_token, dim=-1)).sum(dim=-1)
        logits = (background_mask * agreement).unsqueeze(1)
        return logits, torch.zeros_like(background_mask).unflatten(-1, grid)

    def _foreground_logits(
        self,
        class_token: torch.Tensor,
        patches: torch.Tensor,
        foreground_mask: torch.Tensor,
        grid: tuple[int, int],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Disagreement with the class token times distance from the neighbourhood's mean."""
        disagreement = (1 - F.cosine_similarity(patches, class_token, dim=-1)).unsqueeze(1)
        masked = foreground_mask.unsqueeze(-1) * patches
        mean_image = self._mean(masked, grid)
        mean = mean_image.flatten(2).mT
        # Distances do not change when both points are moved; near the origin the difference of squares loses least.
        origin = masked.mean(dim=1, keepdim=True)
        centred, centred_mean = masked - origin, mean - origin
        squared_distance = (
            centred_mean.square().sum(dim=-1, keepdim=True)
            - 2 * centred_mean @ centred.mT
            + centred.square().sum(dim=-1).unsqueeze(1)
        )
        return disagreement * squared_distance.clamp(min=0).sqrt(), mean_image.norm(dim=1)

    def _sum(self, mask: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """Sum a mask ``[B, L]`` over each neighbourhood, with zeros beyond the border, shape ``[B, L, 1]``."""
        return self._mean(mask.unsqueeze(-1), grid).flatten(2).mT * self.window**2

    def _mean(self, values: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """Average values ``[B, L, C]`` over each neighbourhood, with zeros beyond the border, ``[B, C, h, w]``."""
        return F.avg_pool2d(values.mT.unflatten(-1, grid), self.window, stride=1, padding=self.window // 2)

    def _weights(
        self,
        logits: torch.Tensor,
        outside_logits: torch.Tensor,
        is_neighbour: torch.Tensor,
    ) -> torch.Tensor:
        """Softmax over each neighbourhood, in which all entries beyond the border share one logit.

        Args:
            logits (torch.Tensor): Logit of patch j in the neighbourhood of patch i, shape ``[B, L or 1, L]``.
            outside_logits (torch.Tensor): Logit of the entries beyond the border, shape ``[B, h, w]``.
            is_neighbour (torch.Tensor): Whether patch j is near patch i, shape ``[L, L]``.

        Returns:
            torch.Tensor: Weights of the patches, shape ``[B, L, L]``; a row sums to 1 less the share beyond the border.
        """
        outside = self.window**2 - is_neighbour.sum(dim=-1)
        # Added on the grid: OpenVINO 2026.4 adds a vector wrongly to a norm where there are several images.
        beyond = (outside_logits + outside.to(logits.dtype).log().view(outside_logits.shape[1:])).flatten(1)
        inside = logits.masked_fill(~is_neighbour, -torch.inf)
        return torch.cat([inside, beyond.unsqueeze(-1)], dim=-1).softmax(dim=-1)[..., :-1]


def neighbourhood(grid: tuple[int, int], window: int, device: torch.device) -> torch.Tensor:
    """Tell which patches of a grid lie in whose neighbourhood.

    Args:
        grid (tuple[int, int]): Rows and columns of the patches.
        window (int): Side of the neighbourhood in patches, odd.
        device (torch.device): Where the result is wanted.

    Returns:
        torch.Tensor: Symmetric boolean matrix, shape ``[L, L]`` with ``L = h * w``.
    """
    near_row, near_column = (
        (position.unsqueeze(-1) - position).abs() <= window // 2
        for position in (torch.arange(side, device=device) for side in grid)
    )
    return (near_row[:, None, :, None] & near_column[None, :, None, :]).flatten(2).flatten(0, 1)


VIEWS: dict[str, type[nn.Module]] = {"identity": IdentityView, "semantic": SemanticView, "spatial": SpatialView}
"""The paper's views by name, in the order of the maps that they give."""


def create_views(names: Sequence[str]) -> dict[str, nn.Module]:
    """Create views of the paper.

    Args:
        names (Sequence[str]): Names of the views, in the order of their maps.

    Returns:
        dict[str, nn.Module]: The views by name.

    Raises:
        ValueError: If a view is unknown or named twice, or there is none.
    """
    if not names or len(set(names)) < len(names) or not set(names) <= VIEWS.keys():
        msg = f"Views {list(names)} can't be used: choose one or several, each once, among {list(VIEWS)}."
        raise ValueError(msg)
    return {name: VIEWS[name]() for name in names}
