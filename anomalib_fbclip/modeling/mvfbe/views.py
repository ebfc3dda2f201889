# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The three views of a layer in which foreground and background are told apart (paper: MVFBE).

Every view maps the tokens of one layer, ``[B, 1 + L, C]``, and their foreground mask to new tokens of the same shape
and leaves the class token as it is. The patches form an ``h x w`` grid, row by row.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from anomalib_fbclip.modeling.precision import full_precision, to_full


class Mixing(Protocol):
    """Makes a view of a layer's tokens ``[B, 1 + L, C]``, or of anything that is linear in them."""

    def __call__(self, values: torch.Tensor, /) -> torch.Tensor:
        """Mix values of all tokens, shape ``[B, 1 + L, ...]``."""


ROWS_AT_ONCE = 4
"""Rows of the grid whose neighbourhoods share a matrix. Fewer are a little faster on a CPU, but more operations."""


class MixingView(nn.Module):
    """A view whose tokens are weighted sums of the layer's tokens.

    What follows, as far as it is linear, can then be computed once for a layer and mixed for each of its views.
    """

    def forward(self, tokens: torch.Tensor, foreground_mask: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """Make the view.

        Args:
            tokens (torch.Tensor): Tokens of a layer, shape ``[B, 1 + L, C]``.
            foreground_mask (torch.Tensor): Mask of 1 (foreground) and ½, shape ``[B, L]``.
            grid (tuple[int, int]): Rows and columns of the patches, ``h * w == L``.

        Returns:
            torch.Tensor: Tokens of the view, shape ``[B, 1 + L, C]``.
        """
        return self.mixing(tokens, foreground_mask, grid)(tokens)

    @abstractmethod
    def mixing(self, tokens: torch.Tensor, foreground_mask: torch.Tensor, grid: tuple[int, int]) -> Mixing:
        """Compute the weights, in full precision, from what :meth:`forward` is given.

        Returns:
            Mixing: A function that makes the weighted sums.
        """


class IdentityView(MixingView):
    """The tokens as the backbone left them."""

    @staticmethod
    def mixing(tokens: torch.Tensor, foreground_mask: torch.Tensor, grid: tuple[int, int]) -> Mixing:
        """Leave everything as it is. See :meth:`MixingView.mixing`."""
        del tokens, foreground_mask, grid
        return _unchanged


def _unchanged(values: torch.Tensor) -> torch.Tensor:
    return values


class SemanticView(MixingView):
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

    def mixing(self, tokens: torch.Tensor, foreground_mask: torch.Tensor, grid: tuple[int, int]) -> Mixing:
        """Attend within foreground and background. See :meth:`MixingView.mixing`."""
        del grid
        with full_precision(tokens.device):
            tokens, mask = to_full(tokens), to_full(foreground_mask)
            class_token, patches = tokens[:, :1], tokens[:, 1:]
            is_foreground = (mask == 1).to(mask.dtype)
            foreground_count = is_foreground.sum(dim=1, keepdim=True)
            background_count = mask.shape[1] - foreground_count

            stability = F.cosine_similarity(patches, class_token, dim=-1)
            # A row's entries are exp(r f_i) and exp(r f_i / 2): divided by the smaller, only their ratio is left.
            alpha = ((1 - stability) * mask / 2).exp()
            gamma = (stability * (1 - mask) / 2).exp()
            foreground = self.blend * mask / (alpha * foreground_count + background_count)
            background = self.blend * (1 - mask) / (foreground_count + gamma * background_count)
            shares = torch.stack([alpha * foreground + background, foreground + gamma * background], dim=-1)
            # The class token belongs to no group, and stays what it is.
            return GroupMixing(
                groups=F.pad(torch.stack([is_foreground, 1 - is_foreground], dim=1), (1, 0)),
                shares=F.pad(shares, (0, 0, 1, 0)),
                itself=F.pad(torch.full_like(mask, 1 - self.blend), (1, 0), value=1.0).unsqueeze(-1),
            )


class GroupMixing(NamedTuple):
    """Adds to each token a share of itself and of the sums of two groups of tokens.

    Attributes:
        groups (torch.Tensor): 1 where a token belongs to a group, otherwise 0, shape ``[B, 2, 1 + L]``.
        shares (torch.Tensor): Share of the groups' sums in each token, shape ``[B, 1 + L, 2]``.
        itself (torch.Tensor): Share of each token in itself, shape ``[B, 1 + L, 1]``.
    """

    groups: torch.Tensor
    shares: torch.Tensor
    itself: torch.Tensor

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Mix values of all tokens, ``[B, 1 + L, ...]``."""
        groups, shares, itself = (part.to(values.dtype) for part in self)
        return torch.baddbmm(itself * values, shares, groups @ values)


class SpatialView(MixingView):
    """Rebuilds each patch from its neighbourhood on the grid, foreground and background apart.

    In the background branch, neighbours count by their agreement with the class token; in the foreground branch by
    their disagreement with it and their distance from the neighbourhood's mean. A neighbourhood always has
    ``window * window`` entries: beyond the border there are zeros, which are background.

    Both branches weigh the same patches, so one product gives the sum of both. The patches of a few rows of the grid,
    and all of their neighbours, are a few rows that follow one another: a product of a small matrix with a part of the
    features, which are never unfolded.

    Args:
        window (int): Side of the neighbourhood in patches, odd.
    """

    def __init__(self, window: int = 5) -> None:
        super().__init__()
        self.window = window

    def mixing(self, tokens: torch.Tensor, foreground_mask: torch.Tensor, grid: tuple[int, int]) -> Mixing:
        """Rebuild the patches from their neighbours. See :meth:`MixingView.mixing`."""
        with full_precision(tokens.device):
            tokens, mask = to_full(tokens), to_full(foreground_mask)
            class_token, patches = tokens[:, :1], tokens[:, 1:]
            masked = mask.unsqueeze(-1) * patches
            # Distances do not change when both points are moved; near the origin the difference of squares loses least.
            origin = masked.mean(dim=1, keepdim=True)
            neighbours = _Neighbours(
                centred=masked - origin,
                mask=mask,
                disagreement=1 - F.cosine_similarity(patches, class_token, dim=-1),
                agreement=(1 - mask) * (patches @ F.normalize(class_token, dim=-1).mT).squeeze(-1),
            )
            return BandMixing([
                Band(start, self._weights(neighbours.cut(start, near.shape[-1]), origin, near.to(mask.dtype)))
                for start, near in neighbourhoods(grid, self.window, tokens.device)
            ])

    def _weights(self, neighbours: "_Neighbours", origin: torch.Tensor, near: torch.Tensor) -> torch.Tensor:
        """Weigh the neighbours of the patches of a few rows.

        Args:
            neighbours (_Neighbours): The M patches near any of these N.
            origin (torch.Tensor): The point from which the patches are given, shape ``[B, 1, C]``.
            near (torch.Tensor): 1 where patch j is near patch i, otherwise 0, shape ``[N, M]``.

        Returns:
            torch.Tensor: Weights, shape ``[B, N, M]``.
        """
        size = self.window**2
        outside = size - near.sum(dim=-1, keepdim=True)
        centred_mean = (near @ neighbours.centred - outside * origin) / size
        squared_distance = (
            centred_mean.square().sum(dim=-1, keepdim=True)
            - 2 * centred_mean @ neighbours.centred.mT
            + neighbours.centred.square().sum(dim=-1).unsqueeze(1)
        )
        distance = squared_distance.clamp(min=0).sqrt()
        mean_length = (centred_mean + origin).norm(dim=-1, keepdim=True)

        # Both branches together, [B, 2, ...]. All entries beyond the border share one logit.
        agreement = neighbours.agreement.unsqueeze(1).expand_as(distance)
        inside_logits = torch.stack([neighbours.disagreement.unsqueeze(1) * distance, agreement], dim=1)
        # After they are stacked: OpenVINO 2026.4 adds a vector wrongly to a norm where there are several images.
        outside_logits = torch.stack([mean_length, torch.zeros_like(mean_length)], dim=1) + outside.log()
        logits = torch.cat([inside_logits.masked_fill(near == 0, -torch.inf), outside_logits], dim=-1)
        foreground_total = (neighbours.mask.unsqueeze(1) * near).sum(dim=-1, keepdim=True)
        totals = torch.stack([foreground_total, size - foreground_total], dim=1).clamp(min=1e-8)
        masks = torch.stack([neighbours.mask, 1 - neighbours.mask], dim=1).unsqueeze(2)
        return (logits.softmax(dim=-1)[..., :-1] * masks / totals).sum(dim=1)


class _Neighbours(NamedTuple):
    """Patches of which neighbourhoods are made.

    Attributes:
        centred (torch.Tensor): Patches times the foreground mask, from some origin, shape ``[B, M, C]``.
        mask (torch.Tensor): Foreground mask, shape ``[B, M]``.
        disagreement (torch.Tensor): One minus the cosine to the class token, shape ``[B, M]``.
        agreement (torch.Tensor): Length along the class token, times the background mask, shape ``[B, M]``.
    """

    centred: torch.Tensor
    mask: torch.Tensor
    disagreement: torch.Tensor
    agreement: torch.Tensor

    def cut(self, start: int, count: int) -> "_Neighbours":
        """Take patches that follow one another."""
        return _Neighbours(*(part[:, start : start + count] for part in self))


class Band(NamedTuple):
    """Weighted sums over patches that follow one another.

    Attributes:
        start (int): Index of the first of the M patches.
        weights (torch.Tensor): Weight of each of them in each of the N sums, shape ``[B, N, M]``.
    """

    start: int
    weights: torch.Tensor


class BandMixing:
    """Makes each patch a weighted sum of patches near it, and leaves the class token as it is.

    Args:
        bands (Sequence[Band]): The sums, of which there is one for each patch, in the patches' order.
    """

    def __init__(self, bands: Sequence[Band]) -> None:
        self.bands = bands

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Mix values of all tokens, ``[B, 1 + L, ...]``."""
        class_value, patches = values[:, :1], values[:, 1:]
        sums = (
            weights.to(values.dtype) @ patches[:, start : start + weights.shape[-1]] for start, weights in self.bands
        )
        return torch.cat([class_value, *sums], dim=1)


def neighbourhoods(
    grid: tuple[int, int],
    window: int,
    device: torch.device,
) -> Iterator[tuple[int, torch.Tensor]]:
    """Tell which patches of a grid lie in whose neighbourhood, for a few rows of the grid after the other.

    Args:
        grid (tuple[int, int]): Rows and columns of the patches.
        window (int): Side of the neighbourhood in patches, odd.
        device (torch.device): Where the result is wanted.

    Yields:
        tuple[int, torch.Tensor]: Index of the first patch that is near any of the N patches of these rows, and a
            boolean matrix ``[N, M]`` that says to which of them it and the following are near.
    """
    height, width = grid
    reach = window // 2
    near_column = _near(width, width, 0, reach, device)
    for first in range(0, height, ROWS_AT_ONCE):
        last = min(first + ROWS_AT_ONCE, height)
        top, bottom = max(first - reach, 0), min(last + reach, height)
        near_row = _near(last - first, bottom - top, first - top, reach, device)
        yield top * width, (near_row[:, None, :, None] & near_column[None, :, None, :]).flatten(2).flatten(0, 1)


def _near(count: int, other_count: int, ahead: int, reach: int, device: torch.device) -> torch.Tensor:
    """Tell which of two rows of positions, of which one begins some ahead of the other, lie near each other."""
    positions = torch.arange(ahead, ahead + count, device=device)
    return (positions.unsqueeze(-1) - torch.arange(other_count, device=device)).abs() <= reach


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
