# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Images as anomalib reads them and as an exported graph takes them."""

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .errors import EdgeError, ImageError, last_line

IMAGE_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
"""Those of anomalib."""

ImageSource = str | Path | Image.Image | NDArray[np.uint8]
"""A file, an image of Pillow, or RGB values 0..255 of shape ``[H, W, 3]``."""

# What Pillow raises for files that are damaged, or no images.
DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


def find_images(path: Path, exclude: Path | None = None) -> list[Path]:
    """Find the images of a folder and the folders in it.

    Args:
        path (Path): The folder, or one image, whatever its suffix.
        exclude (Path | None, optional): A folder that is passed over. Defaults to ``None``.

    Returns:
        list[Path]: The images, sorted.

    Raises:
        EdgeError: If there is no such file or folder, or no image in it.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        msg = f"{path} does not exist: give an image, or a folder of images."
        raise EdgeError(msg)
    excluded = exclude and exclude.resolve()
    images = [
        file
        for file in sorted(path.rglob("*"))
        if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file() and excluded not in file.resolve().parents
    ]
    if not images:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        msg = f"{path} has no images, nor have the folders in it: give a folder with {suffixes} files."
        raise EdgeError(msg)
    return images


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read an image as anomalib reads it: as RGB, and as it is stored, whatever orientation its EXIF data names.

    Args:
        path (Path): The image.

    Returns:
        NDArray[np.uint8]: RGB values of shape ``[H, W, 3]``.

    Raises:
        ImageError: If it can't be read.
    """
    try:
        with Image.open(path) as file:
            return np.array(file.convert("RGB"))
    except DECODING_ERRORS as error:
        msg = f"{path} can't be read as an image: {last_line(error)}"
        raise ImageError(msg) from error


def to_rgb(source: ImageSource) -> NDArray[np.uint8]:
    """Get the values of an image from where it is.

    Args:
        source (ImageSource): The image.

    Returns:
        NDArray[np.uint8]: RGB values of shape ``[H, W, 3]``.

    Raises:
        ImageError: If a file can't be read.
        ValueError: If it is none of what is expected.
    """
    if isinstance(source, str | Path):
        return read_image(Path(source))
    if isinstance(source, Image.Image):
        return np.array(source.convert("RGB"))
    array = np.asarray(source)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:  # noqa: PLR2004
        what = f"{type(source).__name__}, {array.dtype} {list(array.shape)}"
        msg = f"An image is a path, an image of Pillow, or an array of RGB values, uint8 [H, W, 3], and not {what}."
        raise ValueError(msg)
    return array


def to_batch(image: NDArray[np.uint8], size: tuple[int | None, int | None]) -> NDArray[np.float32]:
    """Turn an image into a graph's input.

    Args:
        image (NDArray[np.uint8]): RGB values of shape ``[H, W, 3]``.
        size (tuple[int | None, int | None]): Height and width that the graph takes; ``None`` where it takes any. The
            image is resized as torch does it: bicubic, antialiased, and without rounding to whole values.

    Returns:
        NDArray[np.float32]: Values 0..1 of shape ``[1, 3, H, W]``.
    """
    channels = image.transpose(2, 0, 1).astype(np.float32) / 255
    height, width = (wanted or given for wanted, given in zip(size, image.shape, strict=False))
    if (height, width) != image.shape[:2]:
        resized = [Image.fromarray(channel).resize((width, height), Image.Resampling.BICUBIC) for channel in channels]
        channels = np.stack([np.asarray(channel) for channel in resized])
    return np.ascontiguousarray(channels[None])
