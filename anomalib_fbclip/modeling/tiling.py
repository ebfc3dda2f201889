# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Views of an image: the whole, or the whole and its overlapping tiles, whose maps are joined."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torchvision.transforms.v2 import InterpolationMode

from .region import LEAST_WEIGHT, RegionOfInterest, patches_inside
from .resize import NormalizedResize

OVERLAP = 0.25
"""Share of a tile's side that overlaps with the next tile."""

VIEWS_AT_ONCE = 8
"""Largest number of an image's views to compute at the same time, to save memory."""


class WholeImage(nn.Module):
    """Looks at images as a whole: one view of each.

    Args:
        view_size (Sequence[int]): Height and width of a view in pixels.

    Attributes:
        view_size (tuple[int, int]): Height and width of a view in pixels.
        view_count (int): Number of views of an image.
        count (tuple[int, int]): Number of rows and columns of tiles.
        image_size (tuple[int, int]): Height and width of an image in pixels.
    """

    view_count = 1
    count = (1, 1)

    def __init__(self, view_size: Sequence[int]) -> None:
        super().__init__()
        self.view_size = self.image_size = view_size[0], view_size[1]

    def split(self, images: torch.Tensor) -> torch.Tensor:  # noqa: PLR6301 - of tiles
        """Cut images into views.

        Args:
            images (torch.Tensor): Images, shape ``[B, C, H, W]``.

        Returns:
            torch.Tensor: The V views of each image, the whole first, shape ``[B V, C, h, w]``.
        """
        return images

    def split_in_parts(self, images: torch.Tensor) -> Sequence[torch.Tensor]:
        """Cut images into views, see :meth:`split`, and return a few of them at a time."""
        return [self.split(images)]

    def highest(self, values: torch.Tensor) -> torch.Tensor:  # noqa: PLR6301 - of tiles
        """Return the highest value of each image's views.

        Args:
            values (torch.Tensor): Value of each view, shape ``[B V]``.

        Returns:
            torch.Tensor: Value of each image, shape ``[B]``.
        """
        return values

    def blend(self, values: torch.Tensor) -> torch.Tensor:  # noqa: PLR6301 - of tiles
        """Blend the values of the tiles' patches where they overlap.

        Args:
            values (torch.Tensor): Maps of the views, shape ``[B V, 1, h, w]``.

        Returns:
            torch.Tensor: Maps of the images, shape ``[B, 1, rows, columns]``.
        """
        return values

    def join(  # noqa: PLR6301 - of tiles
        self,
        values: torch.Tensor,
        region: RegionOfInterest | None = None,
    ) -> torch.Tensor:
        """Join the views' maps of how anomalous their patches are.

        Args:
            values (torch.Tensor): Maps of the views, shape ``[B V, 1, h, w]``.
            region (RegionOfInterest | None, optional): Region of interest of the images. Defaults to everywhere.

        Returns:
            torch.Tensor: Maps of the images, shape ``[B, 1, rows, columns]``.
        """
        return values

    def pick(self, values: torch.Tensor) -> torch.Tensor:  # noqa: PLR6301 - of tiles
        """Take each value from the view that shows its place best, for values that can't be averaged.

        Args:
            values (torch.Tensor): Maps of the views of one image, shape ``[V, h, w]``.

        Returns:
            torch.Tensor: Map of the image, shape ``[rows, columns]``.
        """
        return values[0]

    def places(self, grid: Sequence[int]) -> torch.Tensor:  # noqa: PLR6301 - of tiles
        """Find the image's patch at each patch of its views.

        Args:
            grid (Sequence[int]): Number of rows and columns of patches of a view.

        Returns:
            torch.Tensor: Indices of the image's patches, shape ``[V h w]``.
        """
        return torch.arange(grid[0] * grid[1])


class Tiles(WholeImage):
    """Looks at images as a whole and in tiles, all of the size of a view.

    Where tiles overlap, each counts less towards its edge, so that the joint map has no seams.

    Args:
        count (Sequence[int]): Number of rows and columns of tiles.
        view_size (Sequence[int]): Height and width of a tile in pixels, multiples of the patch.
        patch_size (Sequence[int]): Height and width of a patch in pixels.

    Attributes:
        grid (tuple[int, int]): Number of rows and columns of patches of an image.

    Example:
        >>> tiles = Tiles((3, 2), (224, 224), (14, 14))
        >>> tiles.image_size, tiles.grid, tiles.view_count
        ((560, 392), (40, 28), 7)
        >>> views = tiles.split(torch.rand(2, 3, 560, 392))
        >>> views.shape
        torch.Size([14, 3, 224, 224])
        >>> tiles.join(torch.ones(14, 1, 16, 16)).unique()
        tensor([1.])
    """

    def __init__(self, count: Sequence[int], view_size: Sequence[int], patch_size: Sequence[int]) -> None:
        super().__init__(view_size)
        (height, width), (patch_height, patch_width) = self.view_size, patch_size
        self.count = rows, columns = count[0], count[1]
        self.view_count = 1 + rows * columns
        self._starts = tile_starts(rows, height // patch_height), tile_starts(columns, width // patch_width)
        starts_y, starts_x = self._starts
        self.grid = int(starts_y[-1]) + height // patch_height, int(starts_x[-1]) + width // patch_width
        self.image_size = self.grid[0] * patch_height, self.grid[1] * patch_width
        self._shrink = NormalizedResize(self.view_size, InterpolationMode.BICUBIC)
        self.pixels_y: torch.Tensor
        self.pixels_x: torch.Tensor
        self.weights_y: torch.Tensor
        self.weights_x: torch.Tensor
        for name, values in (
            ("pixels_y", (starts_y[:, None] * patch_height + torch.arange(height)).flatten()),
            ("pixels_x", (starts_x[:, None] * patch_width + torch.arange(width)).flatten()),
            ("weights_y", blend_weights(starts_y, height // patch_height)),
            ("weights_x", blend_weights(starts_x, width // patch_width)),
        ):
            self.register_buffer(name, values, persistent=False)

    def split(self, images: torch.Tensor) -> torch.Tensor:
        """Cut images into the whole and its tiles, row by row. See :meth:`WholeImage.split`."""
        cut = images.index_select(2, self.pixels_y).index_select(3, self.pixels_x)
        rows, columns = self.count
        tiles = cut.unflatten(3, (columns, -1)).unflatten(2, (rows, -1)).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
        return torch.cat([self._shrink(images).unsqueeze(1), tiles], dim=1).flatten(0, 1)

    def split_in_parts(self, images: torch.Tensor) -> Sequence[torch.Tensor]:
        """Return a few views at a time, but all to the compiler. See :meth:`WholeImage.split_in_parts`."""
        views = self.split(images)
        if torch.compiler.is_compiling():  # nothing in a graph may depend on the number of images
            return [views]
        return views.split(max(VIEWS_AT_ONCE, len(images)))

    def highest(self, values: torch.Tensor) -> torch.Tensor:
        """Return the highest value of whole and tiles. See :meth:`WholeImage.highest`."""
        return values.unflatten(0, (-1, self.view_count)).amax(dim=1)

    def blend(self, values: torch.Tensor) -> torch.Tensor:
        """Weigh each tile by the distance from its edge. See :meth:`WholeImage.blend`."""
        tiles = values.unflatten(0, (-1, self.view_count))[:, 1:].squeeze(2)
        return (self.weights_y @ self._lay_out(tiles) @ self.weights_x.mT).unsqueeze(1)

    def join(self, values: torch.Tensor, region: RegionOfInterest | None = None) -> torch.Tensor:
        """Take the higher value: of the blended tiles, or of the whole, which shows large defects.

        Patches of the whole are large. Those outside a region of interest would reach far into it, so they are left
        out. See :meth:`WholeImage.join`.
        """
        whole, tiles = values.unflatten(0, (-1, self.view_count))[:, 0], self.blend(values)
        if region is None:
            return torch.maximum(self._enlarge(whole), tiles)
        pixels = self._shrink(region.pixels[None, None].to(whole))
        inside = patches_inside(pixels, whole.shape[-2:]).to(whole)
        weights = self._enlarge(inside)
        enlarged = self._enlarge(whole * inside) / weights.clamp(min=LEAST_WEIGHT)
        return torch.where(weights > LEAST_WEIGHT, torch.maximum(enlarged, tiles), tiles)

    def _enlarge(self, values: torch.Tensor) -> torch.Tensor:
        """Bring values of the patches of the whole, shape ``[B, 1, h, w]``, to the image's patches."""
        return F.interpolate(values, size=self.grid, mode="bilinear", align_corners=False)

    def pick(self, values: torch.Tensor) -> torch.Tensor:
        """Take each value from the tile that has the patch nearest to its middle. See :meth:`WholeImage.pick`."""
        laid_out = self._lay_out(values[None, 1:])[0]
        return laid_out[self.weights_y.argmax(dim=1)][:, self.weights_x.argmax(dim=1)]

    def places(self, grid: Sequence[int]) -> torch.Tensor:
        """Find the image's patch at each patch of whole and tiles. See :meth:`WholeImage.places`."""
        rows, columns = (torch.arange(side) * whole // side for side, whole in zip(grid, self.grid, strict=True))
        whole = rows[:, None] * self.grid[1] + columns
        y, x = (
            (starts[:, None] + torch.arange(side)).flatten() for starts, side in zip(self._starts, grid, strict=True)
        )
        tiles = (y[:, None] * self.grid[1] + x).unflatten(1, (self.count[1], -1)).unflatten(0, (self.count[0], -1))
        return torch.cat([whole.flatten(), tiles.transpose(1, 2).flatten()])

    def _lay_out(self, tiles: torch.Tensor) -> torch.Tensor:
        """Lay tiles, shape ``[B, rows columns, h, w]``, side by side, shape ``[B, rows h, columns w]``."""
        return tiles.unflatten(1, self.count).transpose(2, 3).flatten(3, 4).flatten(1, 2)


def tile_starts(number: int, side: int) -> torch.Tensor:
    """Return the patches at which tiles of ``side`` patches begin, shape ``[number]``."""
    return torch.arange(number) * (side - int(OVERLAP * side))


def blend_weights(starts: torch.Tensor, side: int) -> torch.Tensor:
    """Weigh the patches of tiles along one side of an image.

    Args:
        starts (torch.Tensor): Patches at which the tiles begin, shape ``[number]``.
        side (int): Number of a tile's patches along that side.

    Returns:
        torch.Tensor: Weight of each tile patch in each image patch, shape ``[image's patches, number side]``. Rows sum
            to 1.
    """
    nearest_edge = torch.minimum(torch.arange(1, side + 1), torch.arange(side, 0, -1)).float()
    weights = torch.zeros(int(starts[-1]) + side, len(starts), side)
    for index, start in enumerate(starts.tolist()):
        weights[start + torch.arange(side), index, torch.arange(side)] = nearest_edge
    weights = weights.flatten(1)
    return weights / weights.sum(dim=1, keepdim=True)
