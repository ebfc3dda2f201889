# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Photographs as cameras and scanners store them: turned, and of more than 8 bits."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

FIRST_ROW_AND_COLUMN = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}
"""Sides of the upright image on which a stored image's first row and column lie, by EXIF orientation."""

COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
"""PNG's number for grey, grey and alpha, RGB, and RGB and alpha, by the number of channels."""


def store(upright: np.ndarray, orientation: int) -> tuple[Image.Image, Image.Exif]:
    """Store a photograph ``[H, W, 3]`` as a camera that was held in another way, pixel for pixel."""
    height, width = upright.shape[:2]
    row_side, column_side = FIRST_ROW_AND_COLUMN[orientation]
    stored = np.zeros((height, width, 3) if row_side in {"top", "bottom"} else (width, height, 3), dtype=np.uint8)
    for y in range(height):
        for x in range(width):
            distance = {"top": y, "bottom": height - 1 - y, "left": x, "right": width - 1 - x}
            stored[distance[row_side], distance[column_side]] = upright[y, x]
    exif = Image.Exif()
    exif[0x0112] = orientation
    return Image.fromarray(stored), exif


def write_png(path: Path, values: np.ndarray) -> Path:
    """Write 16-bit values ``[H, W, C]`` as a PNG; Pillow writes grey ones only."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, COLOR_TYPES[channels], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    content = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    return path


def store_in_12_bits(folder: Path) -> None:
    """Store the PNGs of a folder as a camera of 12 bits does, in 16 bits: if white is 4095, they are the same."""
    for path in folder.rglob("*.png"):
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        write_png(path, np.round(pixels / 255 * 4095).astype(np.uint16))


def write_padded_jpeg(path: Path, pixels: np.ndarray, size: tuple[int, int], subsampling: int = 2) -> Path:
    """Write a JPEG whose encoder filled the last blocks with what lies beyond a height and a width.

    Pixels ``[H, W, 3]`` are written, whose sides fill whole blocks, and the header says that there are fewer.
    """
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=92, subsampling=subsampling)
    content = bytearray(file.getvalue())
    header = content.index(b"\xff\xc0\x00\x11\x08")
    content[header + 5 : header + 9] = struct.pack(">HH", *size)
    path.write_bytes(content)
    return path
