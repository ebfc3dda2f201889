# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""From patch probabilities to an anomaly map of the image's size, and back to the patch where it is highest."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from .precision import full_precision, to_full
from .region import LEAST_WEIGHT, RegionOfInterest, patches_inside

LOWEST = -100.0
"""Value of pixels outside the region of interest: lower than that of any patch."""

SIGMA, RADIUS = 4.0, 16
"""Standard deviation of the Gaussian, and the radius at which it is cut off, in pixels."""


class MapValues(NamedTuple):
    """How anomalous the places of images are.

    Attributes:
        patches (torch.Tensor): Values of the patches, shape ``[B, 1, h, w]``.
        pixels (torch.Tensor): The same, upsampled and smoothed, shape ``[B, H, W]``.
        inside (torch.Tensor | None): The patches in the region of interest, bool ``[1, 1, h, w]``; ``None``: all.
        area (int): The area for :func:`~.decision.top_mean`.
    """

    patches: torch.Tensor
    pixels: torch.Tensor
    inside: torch.Tensor | None
    area: int


class AnomalyMapGenerator(nn.Module):
    """Upsamples a patch map bilinearly, and smooths it with a Gaussian.

    Args:
        score_area (int | None, optional): Largest area in pixels for :func:`~.decision.top_mean`, so that a small
            defect raises the score of a large map, too. ``None``: the area of the map. Defaults to ``None``.

    Example:
        >>> generator = AnomalyMapGenerator()
        >>> generator(torch.rand(2, 1, 37, 37), (518, 518)).shape
        torch.Size([2, 518, 518])
    """

    def __init__(self, score_area: int | None = None) -> None:
        super().__init__()
        self.score_area = score_area
        offsets = torch.arange(-RADIUS, RADIUS + 1, dtype=torch.float64)
        kernel = (-0.5 * (offsets / SIGMA).square()).exp()
        self.kernel: torch.Tensor
        self.register_buffer("kernel", (kernel / kernel.sum()).float(), persistent=False)

    def forward(
        self, patch_map: torch.Tensor, image_size: Sequence[int], region: RegionOfInterest | None = None
    ) -> torch.Tensor:
        """Make the anomaly map.

        Args:
            patch_map (torch.Tensor): Value of each patch, shape ``[B, 1, h, w]``.
            image_size (Sequence[int]): Height and width of the map in pixels.
            region (RegionOfInterest | None, optional): Region of interest. Patches with less than half of their area
                inside do not count. ``None``: everywhere. Defaults to ``None``.

        Returns:
            torch.Tensor: Anomaly map, shape ``[B, H, W]``; ``LOWEST`` outside the region.
        """
        return self.values(patch_map, image_size, region).pixels

    def values(self, patch_map: torch.Tensor, image_size: Sequence[int], region: RegionOfInterest | None) -> MapValues:
        """Make the anomaly map, and say what counts for a score. See :meth:`forward`."""
        area = image_size[0] * image_size[1] if region is None else region.area
        area = area if self.score_area is None else min(area, self.score_area)
        if region is None:
            return MapValues(patch_map, self._smooth(patch_map, image_size), None, area)
        pixels = region.pixels.to(patch_map.device)
        inside = patches_inside(pixels[None, None], patch_map.shape[-2:])
        # Only patches inside count, by their weight in each pixel.
        weights = self._smooth(inside.to(patch_map.dtype), image_size)
        values = self._smooth(patch_map * inside, image_size) / weights.clamp(min=LEAST_WEIGHT)
        return MapValues(patch_map, torch.where(pixels & (weights > LEAST_WEIGHT), values, LOWEST), inside, area)

    def within_reach(self, region: RegionOfInterest, grid: Sequence[int]) -> RegionOfInterest:
        """Leave out pixels that get no value from a patch inside, as in lines thinner than half a patch.

        Raises:
            ValueError: If there are no others.
        """
        nothing = torch.zeros(1, 1, *grid, device=region.pixels.device)
        reached = self(nothing, region.pixels.shape, region)[0] > LOWEST
        if not reached.any():
            msg = "The region of interest is thinner than half a patch of the model: paint a larger one, or use tiles."
            raise ValueError(msg)
        return RegionOfInterest(region.pixels & reached)

    def _smooth(self, patch_map: torch.Tensor, image_size: Sequence[int]) -> torch.Tensor:
        with full_precision(patch_map.device):
            upsampled = F.interpolate(to_full(patch_map), size=image_size, mode="bilinear", align_corners=False)
            padded = _mirror(_mirror(upsampled, -2), -1)
            kernel = self.kernel.to(padded.dtype)
            blurred = F.conv2d(F.conv2d(padded, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
            return blurred.squeeze(1)


def _mirror(image: torch.Tensor, dim: int) -> torch.Tensor:
    """Extend an image by the radius on both sides, mirrored with its edge repeated, as often as needed."""
    size = image.shape[dim]
    position = torch.arange(-RADIUS, size + RADIUS, device=image.device) % (2 * size)
    return image.index_select(dim, torch.minimum(position, 2 * size - 1 - position))


def highest_patch(anomaly_map: torch.Tensor, grid: Sequence[int]) -> tuple[int, int]:
    """Find row and column of the patch in which an anomaly map is highest.

    Args:
        anomaly_map (torch.Tensor): Anomaly map of one image, shape ``[H, W]``.
        grid (Sequence[int]): Number of rows and columns of patches.

    Example:
        >>> highest_patch(torch.eye(4).flip(0)[:3], (3, 2))
        (0, 1)
    """
    height, width = anomaly_map.shape
    y, x = divmod(int(anomaly_map.argmax()), width)
    return y * grid[0] // height, x * grid[1] // width
