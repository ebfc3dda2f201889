# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Images for an exported graph."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anomalib_fbclip.images.photographs import PhotographSource, check_size, read_photograph

ImageSource = PhotographSource | NDArray[np.uint8]
"""A file, an image of Pillow, or RGB values 0..255 of shape ``[H, W, 3]``."""


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Read an image upright, following its EXIF data. More than 8 bits are reduced to 8.

    Args:
        path (str | Path): The image.

    Returns:
        NDArray[np.uint8]: RGB values of shape ``[H, W, 3]``.

    Raises:
        ImageError: If it can't be read, or the range of its values is unknown.
    """
    return to_rgb(path)


def to_rgb(source: ImageSource, minimum_side: int = 1, white_level: int | None = None) -> NDArray[np.uint8]:
    """Return the RGB values of an image, ``[H, W, 3]``. Files and images of Pillow are turned upright.

    ``white_level`` is that of :func:`~anomalib_fbclip.images.photographs.read_photograph`.

    Raises:
        ImageError: If it can't be read, the range of its values is unknown, or it is too small.
        ValueError: If it is not an image.
    """
    if isinstance(source, PhotographSource):
        return read_photograph(source, upright=True, minimum_side=minimum_side, white_level=white_level)
    pixels = np.asarray(source)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:  # noqa: PLR2004
        what = f"{type(source).__name__}, {pixels.dtype} {list(pixels.shape)}"
        msg = f"An image must be a path, an image of Pillow, or an array of RGB values, uint8 [H, W, 3], not {what}."
        raise ValueError(msg)
    check_size("The image", pixels.shape[0], pixels.shape[1], minimum_side)
    return pixels


def to_batch(image: NDArray[np.uint8], size: tuple[int | None, int | None]) -> NDArray[np.float32]:
    """Convert RGB values ``[H, W, 3]`` to a graph's input, 0..1, ``[1, 3, H, W]``, of a height and width, if given.

    The image is resized as in torch: bicubic, antialiased, and without rounding to whole values.
    """
    channels = image.transpose(2, 0, 1).astype(np.float32) / 255
    height, width = (wanted or given for wanted, given in zip(size, image.shape, strict=False))
    if (height, width) != image.shape[:2]:
        resized = [Image.fromarray(channel).resize((width, height), Image.Resampling.BICUBIC) for channel in channels]
        channels = np.stack([np.asarray(channel) for channel in resized])
    return np.ascontiguousarray(channels[None])
