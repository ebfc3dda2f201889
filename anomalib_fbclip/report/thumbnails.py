# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Photographs and anomaly maps, made small enough for a picture or a page."""

import base64
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anomalib_fbclip.contract.photographs import read_photograph

PhotographSource = str | Path | Image.Image
"""A file, or an image of Pillow."""


def shrink_photograph(photograph: PhotographSource, max_side: int) -> Image.Image:
    """Read a photograph upright, and shrink it if it is large. Its proportions stay.

    Args:
        photograph (PhotographSource): The photograph.
        max_side (int): Pixels that neither side exceeds afterwards.

    Returns:
        Image.Image: An RGB image.

    Raises:
        ImageError: If it can't be read.
    """
    image = Image.fromarray(read_photograph(photograph, upright=True))
    image.thumbnail((max_side, max_side))
    return image


def shrink_map(anomaly_map: NDArray[np.floating], max_side: int) -> Image.Image:
    """Turn an anomaly map into an image of 8 bits, and shrink it if it is large.

    Args:
        anomaly_map (NDArray[np.floating]): The anomaly map, 0..1, shape ``[h, w]``.
        max_side (int): Pixels that neither side exceeds afterwards.

    Returns:
        Image.Image: A gray image; 255 stands for 1.
    """
    image = Image.fromarray(anomaly_map.astype(np.float32))
    image.thumbnail((max_side, max_side), Image.Resampling.BILINEAR)
    return Image.fromarray((255 * np.asarray(image).clip(0, 1)).round().astype(np.uint8))


def to_data_uri(image: Image.Image) -> str:
    """Write an image as a ``data:`` URI: a JPEG if it has colors, and a PNG, which keeps every value, if it is gray."""
    file = io.BytesIO()
    kind = "png" if image.mode == "L" else "jpeg"
    image.save(file, kind, quality=85, optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
