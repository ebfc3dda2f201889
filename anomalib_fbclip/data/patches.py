# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Cuts patches out of images."""

from PIL import Image
from torchvision.transforms.v2.functional import to_pil_image

from .image_source import ImageSource, load_image


def crop_patch(image: ImageSource, place: tuple[int, int], grid: tuple[int, int]) -> Image.Image:
    """Cut a patch out of an image, with the patches around it.

    Args:
        image (ImageSource): The image, as ``FBClip.explain`` takes it.
        place (tuple[int, int]): Row and column of the patch.
        grid (tuple[int, int]): Number of rows and columns.

    Returns:
        Image.Image: The piece: 3 patches high and wide, less at the edge of the image.
    """
    pixels = load_image(image)
    top, left, bottom, right = (
        round(min(max(index + offset, 0), count) * side / count)
        for offset in (-1, 2)
        for index, count, side in zip(place, grid, pixels.shape[1:], strict=True)
    )
    return to_pil_image(pixels[:, top:bottom, left:right])
