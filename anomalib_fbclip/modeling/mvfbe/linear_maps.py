# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Linear maps over the tokens of a layer, which views are: matrices with few entries that differ from one another.

A map applies to a layer's tokens, and as well to whatever is linear in them.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import torch

ROWS_AT_ONCE = 4
"""Rows of the grid whose neighborhoods share a matrix. Fewer are a little faster on a CPU, but more operations."""


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
        groups, group_weights, self_weight = (part.to(values.dtype) for part in self)
        return torch.baddbmm(self_weight * values, group_weights, groups @ values)


class Band(NamedTuple):
    """Weighted sums over patches that follow one another.

    Attributes:
        start (int): Index of the first of the M patches.
        weights (torch.Tensor): Weight of each of them in each of the N sums, shape ``[B, N, M]``.
    """

    start: int
    weights: torch.Tensor


class BandMap:
    """Makes each patch a weighted sum of patches near it, and leaves the class token as it is.

    It is a matrix of ``[L, L]`` of which only the bands beside the diagonal are kept.

    Args:
        bands (Sequence[Band]): The sums, of which there is one for each patch, in the patches' order.
    """

    def __init__(self, bands: Sequence[Band]) -> None:
        self.bands = bands

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Map values of all tokens, ``[B, 1 + L, ...]``."""
        class_value, patches = values[:, :1], values[:, 1:]
        sums = (
            weights.to(values.dtype) @ patches[:, start : start + weights.shape[-1]] for start, weights in self.bands
        )
        return torch.cat([class_value, *sums], dim=1)


def neighborhoods(
    grid: tuple[int, int],
    window: int,
    device: torch.device,
) -> Iterator[tuple[int, torch.Tensor]]:
    """Tell which patches of a grid lie in whose neighborhood, for a few rows of the grid after the other.

    Args:
        grid (tuple[int, int]): Rows and columns of the patches.
        window (int): Side of the neighborhood in patches, odd.
        device (torch.device): Where the result is wanted.

    Yields:
        tuple[int, torch.Tensor]: Index of the first patch that is near any of the N patches of these rows, and a
            boolean matrix ``[N, M]`` that says to which of them it and the following are near.

    Example:
        >>> for start, near in neighborhoods((6, 5), window=3, device=torch.device("cpu")):
        ...     print(start, tuple(near.shape))
        0 (20, 25)
        15 (10, 15)
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
