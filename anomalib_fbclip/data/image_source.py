# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Loading an image from any source for the pre-processor, and cropping it."""

import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms.v2.functional import to_dtype, to_image, to_pil_image

from anomalib_fbclip.images.photographs import PhotographSource, read_photograph

ImageLike = PhotographSource | NDArray | torch.Tensor
"""A file, a Pillow image, or RGB values: ``[H, W, 3]`` in an array, ``[3, H, W]`` in a tensor."""

DIMENSIONS = CHANNELS = 3


def load_image(
    source: ImageLike, minimum_side: int = 1, *, upright: bool = True, white_level: int | None = None
) -> torch.Tensor:
    """Load an image as RGB values 0..1, shape ``[3, H, W]``.

    In an array or a tensor, floating-point values lie in 0..1, and whole numbers fill their type's range. The other
    arguments apply to files and Pillow images. See :func:`~anomalib_fbclip.images.photographs.read_photograph`.

    Raises:
        ImageError: If a file or a Pillow image can't be read, its range is unknown, or it is too small.
        ValueError: If the values are not those of an RGB image.
    """
    if isinstance(source, PhotographSource):
        source = read_photograph(source, upright=upright, minimum_side=minimum_side, white_level=white_level)
    if source.ndim == DIMENSIONS:
        image = to_dtype(to_image(source), torch.float32, scale=True)
        if len(image) == CHANNELS and image.numel() and image.min() >= 0 and image.max() <= 1:
            return image
    msg = (
        "An image must be a path, a Pillow image, or RGB values: an array [H, W, 3] or a tensor [3, H, W] of whole "
        f"numbers or of fractions 0..1; not {source.dtype} {list(source.shape)}."
    )
    raise ValueError(msg)


def crop_patch(image: ImageLike, place: tuple[int, int], grid: tuple[int, int]) -> Image.Image:
    """Crop a patch of an image and its neighbors: 3 x 3 patches, fewer at the edge.

    Args:
        image (ImageLike): The image, as for ``FBClip.explain``.
        place (tuple[int, int]): Row and column of the patch.
        grid (tuple[int, int]): Number of rows and columns.

    Returns:
        Image.Image: The crop.
    """
    pixels = load_image(image)
    top, left, bottom, right = (
        round(min(max(index + offset, 0), count) * side / count)
        for offset in (-1, 2)
        for index, count, side in zip(place, grid, pixels.shape[1:], strict=True)
    )
    return to_pil_image(pixels[:, top:bottom, left:right])
