# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Pictures of predictions: the image, how anomalous each place is, and an outline of the anomalous region."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from .inferencer import Prediction

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

OPACITY = 0.75
"""Of the color where the anomaly map is 1; it falls with the root of the map, so that half is seen well too."""

LINES_PER_SIDE = 250
"""Number of outlines that would cover the image's smaller side."""


def draw_overlay(prediction: Prediction) -> Image.Image:
    """Draw a prediction on its image, which is gray, so that all color is the anomaly map's.

    Args:
        prediction (Prediction): The prediction.

    Returns:
        Image.Image: An RGB picture of the image's size. A color stands for the same value in every picture.
    """
    height, width = prediction.image.shape[:2]
    heat = resize(prediction.anomaly_map.clip(0, 1), height, width)
    gray = np.asarray(Image.fromarray(prediction.image).convert("L"))
    opacity = OPACITY * np.sqrt(heat)[..., None]
    picture = ((1 - opacity) * gray[..., None] + opacity * color(heat)).round().astype(np.uint8)

    region = resize(prediction.mask.astype(np.float32), height, width) > 0.5  # noqa: PLR2004
    line = max(1, round(min(height, width) / LINES_PER_SIDE))
    blurred = np.asarray(Image.fromarray(region.astype(np.uint8) * 255).filter(ImageFilter.BoxBlur(line)))
    # White at the region's edge and black around it are seen on any ground.
    picture[region & (blurred < 255)] = 255  # noqa: PLR2004
    picture[~region & (blurred > 0)] = 0
    return Image.fromarray(picture)


def resize(values: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Resize a map ``[h, w]`` to ``[height, width]``, bilinearly."""
    return np.asarray(Image.fromarray(values).resize((width, height), Image.Resampling.BILINEAR))


def color(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Give values 0..1 of shape ``[H, W]`` colors: RGB values 0..255 of shape ``[H, W, 3]``."""
    places = np.linspace(0, 255, len(INFERNO))
    table = np.stack([np.interp(np.arange(256), places, channel) for channel in INFERNO.T], axis=1)
    return table.astype(np.float32)[(255 * values).round().astype(np.uint8)]
