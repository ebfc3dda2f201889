# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Scalar fields, colors and random streams, with which everything is drawn.

Lengths and heights are fractions of the image's side, so that a picture looks alike at every size.
"""

import colorsys
import zlib
from functools import lru_cache

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

Field = NDArray[np.float32]
"""Values of an image ``[size, size]``; colors, from 0 to 1, ``[3, size, size]`` or, for a single one, ``[3, 1, 1]``."""


def stream(seed: int, *names: str | int) -> Generator:
    """Return the random stream of a seed, not negative, and of names. Streams of different names are independent."""
    return np.random.default_rng([seed, *(zlib.crc32(str(name).encode()) for name in names)])


@lru_cache(maxsize=8)
def coordinates(size: int) -> tuple[Field, Field]:
    """Return the coordinates x and y of each pixel's center, from 0 to 1."""
    axis = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size)
    x, y = np.broadcast_to(axis, (size, size)).copy(), np.repeat(axis[:, None], size, axis=1)
    x.flags.writeable = y.flags.writeable = False
    return x, y


def directions(size: int, angle: float) -> tuple[Field, Field]:
    """Return the coordinates along and across a direction, ``angle`` in radians, from the image's center."""
    x, y = coordinates(size)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    x, y = x - np.float32(0.5), y - np.float32(0.5)
    return x * cos + y * sin, y * cos - x * sin


def resize(field: Field, width: int, height: int) -> Field:
    """Resize a scalar field, smoothly."""
    image = Image.fromarray(np.ascontiguousarray(field, dtype=np.float32))
    return np.array(image.resize((width, height), Image.Resampling.BICUBIC))


def noise(rng: Generator, size: int, cells: float, octaves: int = 1, aspect: float = 1.0) -> Field:
    """Draw smooth random noise.

    Args:
        rng (Generator): Random stream.
        size (int): Side of the image in pixels.
        cells (float): Number of bumps along the side, in the coarsest octave.
        octaves (int, optional): Number of octaves; each is twice as fine and about half as strong as the one before.
            Defaults to ``1``.
        aspect (float, optional): Length of the bumps along y divided by that along x. Defaults to ``1.0``.

    Returns:
        Field: Values with mean about 0 and standard deviation about 0.5.
    """
    columns, rows = max(2, round(cells)) + 2, max(2, round(cells / aspect)) + 2
    field = rng.standard_normal((rows, columns), dtype=np.float32) * np.float32(0.6)
    strength = 0.6
    for _ in range(octaves - 1):
        columns, rows, strength = min(2 * columns, size), min(2 * rows, size), strength * 0.55
        field = resize(field, columns, rows)
        field += rng.standard_normal((rows, columns), dtype=np.float32) * np.float32(strength)
    return resize(field, size, size)


def grain(rng: Generator, size: int) -> Field:
    """Draw noise without correlation, of mean 0 and standard deviation 1."""
    return rng.standard_normal((size, size), dtype=np.float32)


def soften(field: Field, radius: float) -> Field:
    """Blur a scalar field.

    Args:
        field (Field): Values ``[size, size]``.
        radius (float): Radius of the blur as a fraction of the side; at least a pixel.

    Returns:
        Field: Blurred values.
    """
    # A coarser grid, with a short kernel, takes a fifth of the time.
    size = len(field)
    side = max(4, min(size, round(1.6 / radius)))
    image = Image.fromarray(np.ascontiguousarray(field, dtype=np.float32))
    small = np.asarray(image.resize((side, side), Image.Resampling.BOX))
    for _ in range(2):
        padded = np.pad(small, ((2, 2), (0, 0)), mode="edge")
        small = ((padded[:-4] + padded[4:] + 2 * (padded[1:-3] + padded[3:-1]) + 3 * padded[2:-2]) / 9).T
    return resize(small, size, size)


def smoothstep(field: Field, low: float, high: float) -> Field:
    """Map values smoothly to 0 at ``low`` and 1 at ``high``."""
    t = field - np.float32(low)
    t *= np.float32(1 / (high - low))
    np.clip(t, 0, 1, out=t)
    return t * t * (3 - 2 * t)


def cells(rng: Generator, size: int, count: int) -> tuple[Field, Field, NDArray[np.intp]]:  # noqa: PLR0914
    """Divide the image into irregular cells.

    Args:
        rng (Generator): Random stream.
        size (int): Side of the image in pixels.
        count (int): Number of cells along the side.

    Returns:
        tuple[Field, Field, NDArray[np.intp]]: Distances from the nearest and the second nearest cell center, in units
            of a cell, and the index of each pixel's cell, below ``(count + 2) ** 2``.
    """
    columns = count + 2
    center_x, center_y = rng.random((2, columns * columns), dtype=np.float32)
    half = size // 2  # distances are smooth enough to be interpolated
    x, y = coordinates(half)
    x, y = x * np.float32(count) + 1, y * np.float32(count) + 1
    column, row = x.astype(np.intp), y.astype(np.intp)
    x, y, own = x - column, y - row, row * columns + column
    first = np.full((half, half), 9, dtype=np.float32)
    second = first
    nearest = np.zeros((half, half), dtype=np.intp)
    for step_y in (-1, 0, 1):
        for step_x in (-1, 0, 1):
            index = own + (step_y * columns + step_x)
            dx = x - (center_x + np.float32(step_x))[index]
            dy = y - (center_y + np.float32(step_y))[index]
            distance = dx * dx + dy * dy
            second = np.minimum(second, np.maximum(first, distance))
            nearest = np.where(distance < first, index, nearest)
            first = np.minimum(first, distance)
    rows = np.arange(size) * half // size
    return resize(np.sqrt(first), size, size), resize(np.sqrt(second), size, size), nearest[rows[:, None], rows]


def color(
    rng: Generator,
    hue: tuple[float, float] = (0.0, 1.0),
    saturation: tuple[float, float] = (0.2, 0.8),
    value: tuple[float, float] = (0.3, 0.85),
) -> Field:
    """Draw a color from ranges of hue (0 to 1, may go beyond), saturation and value.

    Returns:
        Field: Red, green and blue ``[3, 1, 1]``, from 0 to 1.
    """
    h, s, v = rng.uniform(*hue) % 1, rng.uniform(*saturation), rng.uniform(*value)
    return np.array(colorsys.hsv_to_rgb(h, s, v), dtype=np.float32)[:, None, None]


def blend(base: Field, other: Field, weight: Field) -> Field:
    """Mix two colors, or two images, by a weight for each pixel.

    Args:
        base (Field): Color where the weight is 0: ``[3, 1, 1]`` or ``[3, size, size]``.
        other (Field): Color where the weight is 1: ``[3, 1, 1]`` or ``[3, size, size]``.
        weight (Field): Weights ``[size, size]``.

    Returns:
        Field: Colors ``[3, size, size]``.
    """
    # Fresh memory takes longer than the arithmetic.
    mixed = weight * (other - base)
    mixed += base
    return mixed


def shade(base: Field, amount: Field) -> Field:
    """Lighten (above 0) or darken (below 0) a color or an image by a relative amount for each pixel."""
    return base * (1 + amount)
