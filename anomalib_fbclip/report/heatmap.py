# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Heatmaps: how anomalous each place of a photograph is, as a color."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

# Matplotlib's "inferno" at eleven places: its lightness rises evenly, for eyes of every kind and in gray print.
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
"""RGB values 0..255 of the colors of 0/255 to 255/255, shape ``[256, 3]``."""

OPACITY = 0.75
"""Of the color where the anomaly map is 1. It falls with the root of the map, so that half is seen well, too."""

LINES_PER_SIDE = 250
"""Number of outlines that would cover the photograph's shorter side."""


def draw_heatmap(
    photograph: NDArray[np.uint8],
    anomaly_map: NDArray[np.floating],
    mask: NDArray[np.bool_],
) -> NDArray[np.uint8]:
    """Draw an anomaly map and its regions on a photograph, which is gray, so that all color is the anomaly map's.

    Args:
        photograph (NDArray[np.uint8]): RGB values of shape ``[H, W, 3]``.
        anomaly_map (NDArray[np.floating]): The anomaly map, 0..1, shape ``[h, w]``. The whole photograph lies behind
            it.
        mask (NDArray[np.bool_]): The regions, of any shape ``[h, w]``, too.

    Returns:
        NDArray[np.uint8]: RGB values of shape ``[H, W, 3]``. A color stands for the same value in every picture.
    """
    height, width = photograph.shape[:2]
    heat = resize_map(anomaly_map.clip(0, 1), height, width)
    gray = np.asarray(Image.fromarray(photograph).convert("L"))
    opacity = OPACITY * np.sqrt(heat)[..., None]
    picture = ((1 - opacity) * gray[..., None] + opacity * to_colors(heat)).round().astype(np.uint8)
    _outline(picture, resize_map(mask, height, width) > 0.5)  # noqa: PLR2004
    return picture


def to_colors(values: NDArray[np.floating]) -> NDArray[np.float32]:
    """Give values 0..1 of shape ``[H, W]`` their colors: RGB values 0..255 of shape ``[H, W, 3]``."""
    return PALETTE[(255 * values).round().astype(np.uint8)]


def resize_map(values: NDArray, height: int, width: int) -> NDArray[np.float32]:
    """Resize an anomaly map or a mask ``[h, w]`` to ``[height, width]``, bilinearly."""
    image = Image.fromarray(values.astype(np.float32))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def _outline(picture: NDArray[np.uint8], region: NDArray[np.bool_]) -> None:
    """Draw lines around a region ``[H, W]``: white at its edge and black around it are seen on any ground."""
    line = max(1, round(min(region.shape) / LINES_PER_SIDE))
    blurred = np.asarray(Image.fromarray(region.astype(np.uint8) * 255).filter(ImageFilter.BoxBlur(line)))
    picture[region & (blurred < 255)] = 255  # noqa: PLR2004
    picture[~region & (blurred > 0)] = 0
