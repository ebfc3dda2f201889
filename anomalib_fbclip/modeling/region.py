# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Region of interest: the part of images that is looked at."""

from collections.abc import Sequence

import torch
from torch import nn

LEAST_SHARE = 0.5
"""Share of a patch that lies in the region of interest, if the patch counts."""

LEAST_WEIGHT = 1e-4
"""Weight of the patches inside, below which a place has no value."""


class RegionOfInterest(nn.Module):
    """Holds the part of images that is looked at. What lies outside takes part in no score, map or memory.

    The towers see the whole image, so what lies outside may still color the tokens inside a little.

    Args:
        pixels (torch.Tensor): Where to look, bool ``[H, W]``, of the size of the images that the model takes.

    Attributes:
        area (int): Number of pixels that are looked at.

    Raises:
        ValueError: If there are none.
    """

    def __init__(self, pixels: torch.Tensor) -> None:
        super().__init__()
        self.area = int(pixels.sum())
        if not self.area:
            msg = "The region of interest is empty: it ignores everything. Paint white where to look."
            raise ValueError(msg)
        self.pixels: torch.Tensor
        self.register_buffer("pixels", pixels, persistent=False)


def share_inside(pixels: torch.Tensor, grid: Sequence[int]) -> torch.Tensor:
    """Tell which share of each patch lies inside.

    Args:
        pixels (torch.Tensor): What is inside, bool or 0..1, shape ``[B, 1, H, W]``.
        grid (Sequence[int]): Number of rows and columns of patches.

    Returns:
        torch.Tensor: Shares, 0..1, shape ``[B, 1, *grid]``.
    """
    rows, columns = grid
    # No average pooling, which OpenVINO does not compute ahead of a constant, and refuses in 16 bits.
    return pixels.float().unflatten(-1, (columns, -1)).unflatten(-3, (rows, -1)).mean(dim=(-3, -1))
