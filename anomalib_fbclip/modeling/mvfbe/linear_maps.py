# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Linear maps over the tokens of a layer, which views are: matrices with few entries that differ from one another.

A map applies to a layer's tokens, and as well to whatever is linear in them.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch.nn import functional as F  # noqa: N812

from anomalib_fbclip.modeling.precision import to_dtype


class LinearMap(Protocol):
    """Makes each token of a view a weighted sum of a layer's tokens, or of anything that is linear in them."""

    def __call__(self, values: torch.Tensor, /) -> torch.Tensor:
        """Map values of all tokens, from ``[B, 1 + L, ...]`` to the same shape."""


class LayerViews(NamedTuple):
    """A layer, and its views.

    Attributes:
        tokens (torch.Tensor): Tokens of the layer, class token first, shape ``[B, 1 + L, C]``.
        maps (Sequence[LinearMap]): Each view, as the map that makes it of the tokens.
    """

    tokens: torch.Tensor
    maps: Sequence[LinearMap]


def split_tokens(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Split values of all tokens, ``[B, 1 + L, ...]``, into those of the class token and those of the patches."""
    # A slice has a node for the batch, too, where its size is open, as in an exported graph.
    return values.narrow(1, 0, 1), values.narrow(1, 1, values.shape[1] - 1)


def identity(values: torch.Tensor) -> torch.Tensor:
    """Leave everything as it is: a :class:`LinearMap` by the identity matrix."""
    return values


class GroupMap(NamedTuple):
    r"""Makes each token a weighted sum of itself and of the sums of two groups of tokens.

    It is a matrix of :math:`L \times L` with two distinct entries in each row, off the diagonal, in the form

    .. math::
        y_i = s_i x_i + w_{i1} \sum_{j \in G_1} x_j + w_{i2} \sum_{j \in G_2} x_j

    Attributes:
        groups (torch.Tensor): 1 where a token belongs to a group, otherwise 0, shape ``[B, 2, 1 + L]``.
        group_weights (torch.Tensor): Weight of the groups' sums in each token, shape ``[B, 1 + L, 2]``.
        self_weight (torch.Tensor): Weight of each token in itself, shape ``[B, 1 + L, 1]``.
    """

    groups: torch.Tensor
    group_weights: torch.Tensor
    self_weight: torch.Tensor

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Map values of all tokens, ``[B, 1 + L, ...]``."""
        groups, group_weights, self_weight = (to_dtype(part, values.dtype) for part in self)
        return torch.baddbmm(self_weight * values, group_weights, groups @ values)


class Bands(NamedTuple):
    """Neighborhoods of the patches of a grid, for a few rows of the grid at once: a band.

    All patches near those of a band lie in the rows around it, so a matrix of all pairs of patches has nothing beyond.

    Attributes:
        near (torch.Tensor): Says to which of K times N patches, the grid's in their order and beyond its last, which of
            the M patches of their band are near, shape ``[K, N, M]``.
        above (int): Patches of the first band that lie above the grid.
        below (int): Patches of the last band that lie below the grid.
    """

    near: torch.Tensor
    above: int
    below: int

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        """Take the patches of each band: from values of all patches, ``[B, L, ...]``, to ``[B, K, M, ...]``.

        There are zeros above and below the grid.
        """
        count, _, size = self.near.shape
        padding = (0, 0) * (values.ndim - 2) + (self.above, self.below)
        # Bands overlap by half, and slices have a deterministic gradient on a GPU, which a choice by index has not.
        halves = F.pad(values, padding).unflatten(1, (count + 1, size // 2))
        return torch.cat([halves.narrow(1, 0, count), halves.narrow(1, 1, count)], dim=2)

    def inside(self, length: int) -> Iterator[tuple[int, slice, slice]]:
        """Tell what of each band lies on the grid.

        Args:
            length (int): Number of the grid's patches.

        Yields:
            tuple[int, slice, slice]: How many of the band's N patches, which of the M patches around them, and where
                these lie among all patches of the grid.
        """
        count, own, size = self.near.shape
        for first in range(0, count * own, own):
            start = first - self.above
            around = slice(max(start, 0), min(start + size, length))
            yield min(own, length - first), slice(around.start - start, around.stop - start), around


class BandMap:
    """Makes each patch a weighted sum of patches near it, and leaves the class token as it is.

    It is a matrix of ``[L, L]`` of which only the bands beside the diagonal are kept.

    Args:
        bands (Bands): The patches near each patch.
        weights (torch.Tensor): Weight of each of them in each sum, shape ``[B, K, N, M]``.
    """

    def __init__(self, bands: Bands, weights: torch.Tensor) -> None:
        self.bands = bands
        self.weights = weights

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Map values of all tokens, ``[B, 1 + L, C]``."""
        class_value, patches = split_tokens(values)
        bands = to_dtype(self.weights, values.dtype).unbind(dim=1)
        # One band after the other: values are wide, and copies of them take longer than the products.
        inside = self.bands.inside(patches.shape[1])
        sums = (
            weights[..., :own, near] @ patches[..., around, :]
            for weights, (own, near, around) in zip(bands, inside, strict=True)
        )
        return torch.cat([class_value, *sums], dim=1)


def neighborhoods(grid: tuple[int, int], window: int, device: torch.device) -> Bands:
    """Tell which patches of a grid lie in whose neighborhood.

    Args:
        grid (tuple[int, int]): Rows and columns of the patches.
        window (int): Side of the neighborhood in patches, odd.
        device (torch.device): Where the result is wanted.

    Returns:
        Bands: The neighborhoods.

    Example:
        >>> bands = neighborhoods((6, 5), window=3, device=torch.device("cpu"))
        >>> bands.near.shape
        torch.Size([3, 10, 20])
        >>> bands.gather(torch.randn(2, 30, 32)).shape
        torch.Size([2, 3, 20, 32])
    """
    height, width = grid
    reach = window // 2
    rows = max(2 * reach, 1)  # and as many around them
    count = -(-height // rows)
    columns = torch.arange(width, device=device)
    near_column = (columns.unsqueeze(-1) - columns).abs() <= reach
    row = torch.arange(count * rows, device=device).unflatten(0, (count, rows, 1))
    near_row = torch.arange(-reach, 2 * rows - reach, device=device) + row[:, :1]
    is_near_row = ((row - near_row).abs() <= reach) & (near_row >= 0) & (near_row < height)
    near = is_near_row[:, :, None, :, None] & near_column[:, None, :]
    above = reach * width
    return Bands(near.flatten(3).flatten(1, 2), above, (count + 1) * rows * width - above - height * width)
