# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Regions of interest: the part of a photograph to inspect, as a user gives it."""

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anomalib_fbclip.errors import ImageError

from .image_files import find_images, printable
from .photographs import read_photograph

WHITE = 127
"""Gray level above which a pixel of a mask is inspected."""

SLACK = 1e-6
"""Fraction by which a rounded rectangle may reach beyond a photograph."""

SHADE = 0.35
"""Brightness outside the region of interest, in pictures."""

ONE_REGION = "A product has one region of interest for all photographs: give one mask as region."
"""Error if a product is made with a mask for each photograph."""

Mask = NDArray[np.bool_]


class Box(NamedTuple):
    """A rectangle, from its left upper corner, in fractions of a photograph's width and height."""

    x: float
    y: float
    width: float
    height: float

    @classmethod
    def parse(cls, text: str, photograph_size: tuple[int, int] | None = None) -> "Box":
        """Read a rectangle from ``x,y,width,height``, in fractions 0..1 of the photographs or in pixels.

        Pixels need the height and width of the photographs.
        """
        try:
            x, y, width, height = (float(number) for number in text.split(","))
        except ValueError as error:
            msg = f"Region {text!r} is neither a file, a folder nor x,y,width,height: give one of them."
            raise ValueError(msg) from error
        is_mixed = max(x, y, width, height) > 1 and any(0 < number < 1 for number in (x, y, width, height))
        if max(x, y, width, height) > 1:
            if photograph_size is None:
                msg = f"Region {text!r} is in pixels: give fractions, such as 0.1,0.1,0.8,0.8, or a mask."
                raise ValueError(msg)
            rows, columns = photograph_size
            x, y, width, height = x / columns, y / rows, width / columns, height / rows
        sides = ((x, width), (y, height))
        if not all(start >= 0 and length > 0 and start + length <= 1 + SLACK for start, length in sides):
            where = f" of {photograph_size[1]} x {photograph_size[0]} pixels" if photograph_size else ""
            msg = f"Region {text!r} does not lie in the photograph{where}: give x,y,width,height inside it."
            raise ValueError(msg)
        if is_mixed:
            msg = f"Region {text!r} mixes fractions and pixels: give x,y,width,height either in fractions or in pixels."
            raise ValueError(msg)
        return cls(x, y, width, height)

    def mask(self, size: tuple[int, int]) -> Mask:
        """Paint the rectangle, at least a pixel of it, on a mask of shape ``[H, W]``."""
        mask = np.zeros(size, dtype=np.bool_)
        top, left = min(round(self.y * size[0]), size[0] - 1), min(round(self.x * size[1]), size[1] - 1)
        bottom, right = round((self.y + self.height) * size[0]), round((self.x + self.width) * size[1])
        mask[top : max(bottom, top + 1), left : max(right, left + 1)] = True
        return mask


def read_mask(path: Path, size: tuple[int, int]) -> Mask:
    """Read a mask from an image of any size, and resize it to a height and width: white is inspected, black is ignored.

    If it can't be read, or is all black, that is an ``ImageError``.
    """
    pixels = read_photograph(path, upright=True)
    gray = Image.fromarray(pixels).convert("L")
    if not (np.asarray(gray) > WHITE).any():
        msg = f"{printable(path)} ignores everything: paint the region of interest white."
        raise ImageError(msg)
    scaled = np.asarray(gray.resize((size[1], size[0]), Image.Resampling.BOX)) > WHITE
    if not scaled.any():
        msg = f"The white part of {printable(path)} is too small for the model: paint a larger one."
        raise ImageError(msg)
    return scaled


class RegionMasks(NamedTuple):
    """A folder with a mask for each photograph, by the photographs' names without suffix."""

    folder: Path
    paths: Mapping[str, Path]

    @classmethod
    def of(cls, folder: Path) -> "RegionMasks":
        """Find the masks of a folder."""
        found = find_images(folder)
        if not found:
            msg = f"Region {printable(folder)} has no masks: give a mask, or a folder of them."
            raise ValueError(msg)
        paths = {path.stem: path for path in found}
        for path in found:
            if paths[path.stem] != path:
                msg = f"{printable(path)} and {printable(paths[path.stem])} are masks of one photograph: keep one."
                raise ValueError(msg)
        return cls(folder, paths)

    def mask(self, photograph: object, size: tuple[int, int]) -> Mask:
        """Read the mask of a photograph. If there is none, that is an ``ImageError``. See :func:`read_mask`."""
        if not isinstance(photograph, str | Path):
            msg = "An image that is not a file has no mask: give one mask for all as region."
            raise ImageError(msg)
        name = Path(photograph).stem
        path = self.paths.get(name)
        if path is None:
            wanted = printable(self.folder / f"{name}.png")
            msg = f"{printable(photograph)} has no mask: add {wanted}."
            raise ImageError(msg)
        return read_mask(path, size)


RegionSource = Path | Box | RegionMasks | Mask
"""A mask for all photographs as a file or an array, a rectangle, or a mask for each photograph."""


def parse_region(text: str, photograph_size: tuple[int, int] | None = None) -> RegionSource:
    """Read a region of interest: a mask, a folder of masks, or ``x,y,width,height``. See :meth:`Box.parse`."""
    path = Path(text)
    if text and path.is_dir():
        return RegionMasks.of(path)
    return path if path.is_file() else Box.parse(text, photograph_size)


def paint_region(source: RegionSource, size: tuple[int, int], photograph: object = None) -> Mask:
    """Paint the region of interest of a photograph, needed for a folder of masks, as a mask of a height and width.

    If a mask is missing, can't be read, or ignores everything, that is an ``ImageError``.
    """
    if isinstance(source, Box):
        return source.mask(size)
    if isinstance(source, RegionMasks):
        return source.mask(photograph, size)
    if isinstance(source, Path):
        return read_mask(source, size)
    return np.array(Image.fromarray(source).resize((size[1], size[0]), Image.Resampling.NEAREST))


def shade_photograph(photograph: Image.Image, source: RegionSource | None, path: Path) -> Image.Image:
    """Darken a photograph outside its region of interest, if there is one. See :func:`paint_region`."""
    if source is None:
        return photograph
    return shade_outside(photograph, paint_region(source, (photograph.height, photograph.width), path))


def shade_outside(photograph: Image.Image, region: Mask) -> Image.Image:
    """Darken a photograph outside a region of interest, a mask of any size."""
    mask = Image.fromarray(region).resize(photograph.size, Image.Resampling.NEAREST)
    dark = photograph.point(lambda value: value * SHADE)
    return Image.composite(photograph, dark, mask.convert("L"))


def encode_region(region: Mask) -> str:
    """Encode a mask as text, for a file's metadata."""
    buffer = io.BytesIO()
    Image.fromarray(region).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def decode_region(text: str) -> Mask:
    """Decode a mask from :func:`encode_region`."""
    with Image.open(io.BytesIO(base64.b64decode(text)), formats=["PNG"]) as image:
        return np.asarray(image.convert("L")) > 0
