# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Photographs and anomaly maps, made small enough for a picture or a page."""

import base64
import io
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anomalib_fbclip.images.photographs import PhotographSource, read_photograph

from .heatmap import to_gray


def shrink_photograph(photograph: PhotographSource, max_side: int) -> Image.Image:
    """Read a photograph upright, and shrink it if it is large. Its proportions stay.

    Args:
        photograph (PhotographSource): The photograph.
        max_side (int): Pixels that neither side exceeds afterwards.

    Returns:
        Image.Image: An RGB image; the same one, if it is an RGB image in memory and not large.

    Raises:
        ImageError: If it can't be read.
    """
    image = photograph if _is_plain(photograph) else Image.fromarray(read_photograph(photograph, upright=True))
    longer = max(image.size)
    if longer <= max_side:
        return image
    width, height = (max(1, round(max_side * side / longer)) for side in image.size)
    return image.resize((width, height), Image.Resampling.HAMMING, reducing_gap=1)


def _is_plain(photograph: PhotographSource) -> TypeGuard[Image.Image]:
    """Tell whether it is an RGB image in memory, about which nothing is known that would turn it."""
    return (
        isinstance(photograph, Image.Image)
        and photograph.format is None
        and photograph.mode == "RGB"
        and not photograph.info
        and not photograph.getexif()
    )


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
    return to_gray(np.asarray(image).clip(0, 1))


def to_data_uri(image: Image.Image) -> str:
    """Write an image as a ``data:`` URI: a JPEG if it has colors, and a PNG, which keeps every value, if it is gray."""
    file = io.BytesIO()
    kind = "png" if image.mode == "L" else "jpeg"
    image.save(file, kind, quality=85, optimize=kind == "jpeg")  # a PNG would take eight times as long, for 3 % less
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
