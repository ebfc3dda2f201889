# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Heatmaps, which show the anomaly map as colors."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

# Matplotlib's "inferno" at eleven places. Its lightness rises evenly, also for the color-blind and in gray print.
INFERNO = np.array([
    (0, 0, 4),
    (22, 11, 57),
    (66, 10, 104),
    (106, 23, 110),
    (147, 38, 103),
    (188, 55, 84),
    (221, 81, 58),
    (243, 120, 25),
    (252, 165, 10),
    (246, 215, 70),
    (252, 255, 164),
])

PALETTE: NDArray[np.float32] = np.stack(
    [np.interp(np.arange(256), np.linspace(0, 255, len(INFERNO)), channel) for channel in INFERNO.T], axis=1
).astype(np.float32)
"""Colors of the values 0/255 to 255/255: RGB values 0..255, shape ``[256, 3]``."""

OPACITY = 0.75
"""Opacity of the color where the anomaly map is 1. It follows the root of the map, so that 0.5 is still visible."""

LINES_PER_SIDE = 250
"""Ratio of the photograph's shorter side to the width of an outline."""

ROWS = 64
"""Number of rows of a picture to draw at once."""


def draw_heatmap(
    photograph: Image.Image,
    anomaly_map: NDArray[np.floating],
    mask: NDArray[np.bool_],
) -> Image.Image:
    """Draw an anomaly map and its regions on the gray photograph, so that all color comes from the map.

    Args:
        photograph (Image.Image): The photograph, RGB.
        anomaly_map (NDArray[np.floating]): The anomaly map of the whole photograph, 0..1, shape ``[h, w]``.
        mask (NDArray[np.bool_]): The regions, of any shape ``[h, w]``.

    Returns:
        Image.Image: An RGB picture of the photograph's size.
    """
    width, height = photograph.size
    heat = resize_map(anomaly_map, height, width)
    picture = photograph.convert("L").convert("RGB")
    for rows in _strips(height):
        strip = heat[rows].clip(0, 1)
        picture.paste(to_colors(strip), (0, rows.start), to_gray(OPACITY * np.sqrt(strip)))
    if mask.any():
        _outline(picture, resize_map(mask, height, width) > 0.5)  # noqa: PLR2004
    return picture


def to_colors(values: NDArray[np.floating]) -> Image.Image:
    """Convert values 0..1 of shape ``[H, W]`` to colors: an RGB image."""
    codes = to_gray(values)
    codes.putpalette(PALETTE.astype(np.uint8).tobytes())  # rounding down keeps lightness rising at each step
    return codes.convert("RGB")


def to_gray(values: NDArray[np.floating]) -> Image.Image:
    """Convert values 0..1 of shape ``[H, W]`` to a gray image, 0..255."""
    return Image.fromarray((255 * values).round().astype(np.uint8))


def resize_map(values: NDArray, height: int, width: int) -> NDArray:
    """Resize an anomaly map or a mask ``[h, w]`` to ``[height, width]``, bilinearly, if it has another size."""
    if values.shape == (height, width):
        return values
    image = Image.fromarray(values.astype(np.float32))
    scale = image.height / height
    resized = np.empty((height, width), dtype=np.float32)
    for rows in _strips(height):
        box = (0, scale * rows.start, image.width, min(scale * rows.stop, image.height))
        strip = image.resize((width, rows.stop - rows.start), Image.Resampling.BILINEAR, box)
        resized[rows] = np.asarray(strip)
    return resized


def _strips(height: int) -> Iterator[slice]:
    """Cut a picture into strips: allocating whole pictures would take longer than drawing them."""
    for top in range(0, height, ROWS):
        yield slice(top, min(top + ROWS, height))


def _outline(picture: Image.Image, region: NDArray[np.bool_]) -> None:
    """Draw lines around a region ``[H, W]``: white at its edge and black outside, visible on any background."""
    mask = Image.fromarray(region.astype(np.uint8) * 255)
    bounds = mask.getbbox()
    if bounds is None:
        return
    line = max(1, round(min(region.shape) / LINES_PER_SIDE))
    left, top, right, bottom = bounds
    box = (max(left - line, 0), max(top - line, 0), min(right + line, mask.width), min(bottom + line, mask.height))
    white_on_black = mask.crop(box)
    blurred = white_on_black.filter(ImageFilter.BoxBlur(line))
    edge = blurred.point([0, *[255] * 254, 0])
    picture.paste(white_on_black, box, edge)
