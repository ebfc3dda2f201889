# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Region of interest: the part of images to inspect."""

from collections.abc import Sequence

import torch
from torch import nn

LEAST_SHARE = 0.5
"""Smallest share of a patch inside the region of interest with which the patch counts."""

LEAST_WEIGHT = 1e-4
"""Total weight of the patches inside below which a pixel has no value."""


class RegionOfInterest(nn.Module):
    """Region of interest. Places outside do not enter any score, map or memory.

    The towers still see the whole image, so places outside influence the tokens inside a little.

    Args:
        pixels (torch.Tensor): Where to look, bool ``[H, W]``, of the size of the model's images.

    Attributes:
        area (int): Number of pixels inside.

    Raises:
        ValueError: If there are none.
    """

    def __init__(self, pixels: torch.Tensor) -> None:
        super().__init__()
        self.area = int(pixels.sum())
        if not self.area:
            msg = "The region of interest is empty: paint white where to look."
            raise ValueError(msg)
        self.pixels: torch.Tensor
        self.register_buffer("pixels", pixels, persistent=False)


def patches_inside(pixels: torch.Tensor, grid: Sequence[int], least: float = LEAST_SHARE) -> torch.Tensor:
    """Find the patches that count in a region.

    Args:
        pixels (torch.Tensor): The region, bool or 0..1, shape ``[B, 1, H, W]``.
        grid (Sequence[int]): Number of rows and columns of patches.
        least (float, optional): Smallest share of a patch inside with which it counts. Defaults to half.

    Returns:
        torch.Tensor: Which patches count, bool, shape ``[B, 1, *grid]``.
    """
    rows, columns = grid
    # Not average pooling: OpenVINO does not fold it for a constant, and refuses it in 16 bits.
    return pixels.float().unflatten(-1, (columns, -1)).unflatten(-3, (rows, -1)).mean(dim=(-3, -1)) >= least
