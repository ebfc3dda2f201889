# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Linear maps over the tokens of a layer, which views are: matrices with few distinct or few nonzero entries.

A map applies to a layer's tokens, or to anything linear in them.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch.nn import functional as F  # noqa: N812

from anomalib_fbclip.modeling.precision import to_dtype


class LinearMap(Protocol):
    """Makes each token of a view a weighted sum of a layer's tokens, or of values linear in them."""

    def __call__(self, values: torch.Tensor, /) -> torch.Tensor:
        """Map values of all tokens, from ``[B, 1 + L, ...]`` to the same shape."""


class LayerViews(NamedTuple):
    """A layer, and its views.

    Attributes:
        tokens (torch.Tensor): Tokens of the layer, class token first, shape ``[B, 1 + L, C]``.
        maps (Sequence[LinearMap]): The views: maps that are applied to the tokens.
    """

    tokens: torch.Tensor
    maps: Sequence[LinearMap]


def split_tokens(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Split values of all tokens, ``[B, 1 + L, ...]``, into those of the class token and those of the patches."""
    # Slices would add a node for the batch, too, to an exported graph with any batch size.
    return values.narrow(1, 0, 1), values.narrow(1, 1, values.shape[1] - 1)


def identity(values: torch.Tensor) -> torch.Tensor:
    """Return the values unchanged: a :class:`LinearMap` by the identity matrix."""
    return values


class GroupMap(NamedTuple):
    r"""Makes each token a weighted sum of itself and of the sums of two groups of tokens.

    It is an :math:`L \times L` matrix with two distinct entries per row off the diagonal, in the form

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
    """Neighborhoods of a grid's patches in K bands: each has N patches of a few rows, and M patches around them.

    The neighbors of a band's patches lie in the rows around it, so a matrix of all pairs has no other entries.

    Attributes:
        near (torch.Tensor): Whether each of the M patches is near each of the N patches, bool ``[K, N, M]``. The last
            band may end below the grid.
        above (int): Number of the first band's M patches above the grid.
        below (int): Number of the last band's M patches below the grid.
    """

    near: torch.Tensor
    above: int
    below: int

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        """Split values of all patches, ``[B, L, ...]``, into bands, ``[B, K, M, ...]``, with zeros beyond the grid."""
        count, _, size = self.near.shape
        padding = (0, 0) * (values.ndim - 2) + (self.above, self.below)
        # Bands overlap by half. Slices have a deterministic gradient on a GPU; indexing does not.
        halves = F.pad(values, padding).unflatten(1, (count + 1, size // 2))
        return torch.cat([halves.narrow(1, 0, count), halves.narrow(1, 1, count)], dim=2)

    def inside(self, length: int) -> Iterator[tuple[int, slice, slice]]:
        """Find the part of each band on the grid.

        Args:
            length (int): Number of the grid's patches.

        Yields:
            tuple[int, slice, slice]: Number of the N patches on the grid, which of the M patches are on it, and where
                they are among all patches.
        """
        count, own, size = self.near.shape
        for first in range(0, count * own, own):
            start = first - self.above
            around = slice(max(start, 0), min(start + size, length))
            yield min(own, length - first), slice(around.start - start, around.stop - start), around


class BandMap:
    """Makes each patch a weighted sum of patches near it, and leaves the class token unchanged.

    It is an ``[L, L]`` matrix of which only bands around the diagonal are kept.

    Args:
        bands (Bands): The neighborhoods.
        weights (torch.Tensor): Weight of each neighbor in each sum, shape ``[B, K, N, M]``.
    """

    def __init__(self, bands: Bands, weights: torch.Tensor) -> None:
        self.bands = bands
        self.weights = weights

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Map values of all tokens, ``[B, 1 + L, C]``."""
        class_value, patches = split_tokens(values)
        bands = to_dtype(self.weights, values.dtype).unbind(dim=1)
        # Band by band: copying the wide values would take longer than the products.
        inside = self.bands.inside(patches.shape[1])
        sums = (
            weights[..., :own, near] @ patches[..., around, :]
            for weights, (own, near, around) in zip(bands, inside, strict=True)
        )
        return torch.cat([class_value, *sums], dim=1)


def neighborhoods(grid: tuple[int, int], window: int, device: torch.device) -> Bands:
    """Find the neighborhoods of a grid's patches.

    Args:
        grid (tuple[int, int]): Rows and columns of the patches.
        window (int): Side of a neighborhood in patches, odd.
        device (torch.device): Device of the result.

    Example:
        >>> bands = neighborhoods((6, 5), window=3, device=torch.device("cpu"))
        >>> bands.near.shape
        torch.Size([3, 10, 20])
        >>> bands.gather(torch.randn(2, 30, 32)).shape
        torch.Size([2, 3, 20, 32])
    """
    height, width = grid
    reach = window // 2
    rows = max(2 * reach, 1)  # per band, and as many around them
    count = -(-height // rows)
    columns = torch.arange(width, device=device)
    near_column = (columns.unsqueeze(-1) - columns).abs() <= reach
    row = torch.arange(count * rows, device=device).unflatten(0, (count, rows, 1))
    near_row = torch.arange(-reach, 2 * rows - reach, device=device) + row[:, :1]
    is_near_row = ((row - near_row).abs() <= reach) & (near_row >= 0) & (near_row < height)
    near = is_near_row[:, :, None, :, None] & near_column[:, None, :]
    above = reach * width
    return Bands(near.flatten(3).flatten(1, 2), above, (count + 1) * rows * width - above - height * width)
