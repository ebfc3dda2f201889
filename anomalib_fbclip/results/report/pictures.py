# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The picture of a prediction: the photograph with heatmap, regions and a caption."""

from typing import NamedTuple, TypeGuard, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from anomalib_fbclip.images.photographs import PhotographSource, read_photograph
from anomalib_fbclip.results.records import Record
from anomalib_fbclip.results.regions import match_verdict

from .heatmap import PALETTE, draw_heatmap, resize_map

MAX_SIDE = 2048
"""Largest side of a picture in pixels."""

LETTERS_PER_SIDE = 28
"""Ratio of the picture's shorter side to the height of the caption's letters."""

BAND_OPACITY = 0.65
"""Opacity of the black band behind the caption."""

MIN_FONT_SIZE = 10
"""Smallest height of the caption's letters in pixels, if the picture is wide enough."""

COLOR_BAR_SIZE = (6.0, 0.7)
"""Width and height of the color bar, in font sizes."""

VERDICT_COLORS = {"anomalous": "#ff9e94", "normal": "#9fe0a8", "unknown": "#e0b3ff"}


class Words(NamedTuple):
    """A part of a caption, in one color."""

    text: str
    color: str = "white"


def draw_picture(photograph: PhotographSource, anomaly_map: NDArray[np.floating], record: Record) -> Image.Image:
    """Draw the prediction of a photograph.

    Args:
        photograph (PhotographSource): The photograph.
        anomaly_map (NDArray[np.floating]): Its anomaly map, 0..1, shape ``[h, w]``.
        record (Record): Its row of the table. Outlines are drawn where the map is above the row's pixel threshold, or
            around the boxes of its regions if it has no threshold.

    Returns:
        Image.Image: An RGB picture of the photograph's size, up to 2048 pixels a side.

    Raises:
        ImageError: If the photograph can't be read.
    """
    image = shrink_photograph(photograph, MAX_SIDE)
    heat = resize_map(anomaly_map, image.height, image.width)
    picture = draw_heatmap(image, heat, _find_mask(heat, record))
    _draw_caption(picture, heat, record)
    return picture


def shrink_photograph(photograph: PhotographSource, max_side: int) -> Image.Image:
    """Read a photograph upright as an RGB image, and shrink it to a largest side in pixels. Its proportions stay.

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
    """Return whether it is an RGB image in memory without EXIF data that would turn it."""
    return (
        isinstance(photograph, Image.Image)
        and photograph.format is None
        and photograph.mode == "RGB"
        and not photograph.info
        and not photograph.getexif()
    )


def _find_mask(heat: NDArray[np.floating], record: Record) -> NDArray[np.bool_]:
    """Find the regions in the map, resized to the picture so that they have smooth edges."""
    if record.pixel_threshold is not None:
        return match_verdict(heat > record.pixel_threshold, heat, record.verdict == "anomalous")
    mask = np.zeros_like(heat, dtype=bool)
    scale = heat.shape[1] / (record.width or heat.shape[1])
    for region in record.regions or []:
        left, top, right, bottom = (round(scale * edge) for edge in region.box)
        mask[top:bottom, left:right] = True
    return mask


def _draw_caption(picture: Image.Image, heat: NDArray[np.floating], record: Record) -> None:
    """Write the caption at the bottom or, if the bottom is more anomalous, at the top."""
    words = _words_of(record)
    font = _fit_font(words, picture.size)
    band_height = min(round(2 * font.size), picture.height)
    top = 0 if heat[-band_height:].max() > heat[:band_height].max() else picture.height - band_height
    band = (0, top, picture.width, top + band_height)
    picture.paste(Image.blend(picture.crop(band), Image.new("RGB", (picture.width, band_height)), BAND_OPACITY), band)

    draw = ImageDraw.Draw(picture)
    left, middle = font.size / 2, top + band_height / 2
    for text, color in words:
        draw.text((left, middle), text, fill=color, font=font, anchor="lm")
        left += draw.textlength(text, font) + font.size
    _draw_color_bar(picture, font, middle, record.pixel_threshold)


def _words_of(record: Record) -> list[Words]:
    words = [Words(f"score {record.score:.3f}")]
    if record.verdict is not None:
        words.insert(0, Words(record.verdict, VERDICT_COLORS[record.verdict]))
    if record.threshold is not None:
        words.append(Words(f"threshold {record.threshold:.3f}"))
    return words


def _fit_font(words: list[Words], size: tuple[int, int]) -> ImageFont.FreeTypeFont:
    """Choose a size of the font with which the caption fits into a picture."""
    font = _font(max(min(size) / LETTERS_PER_SIDE, MIN_FONT_SIZE))
    spaces = len(words) + COLOR_BAR_SIZE[0] + 3  # the color bar's labels and gaps take three
    needed = sum(font.getlength(text) for text, _ in words) + spaces * font.size
    return font if needed <= size[0] else _font(max(font.size * size[0] / needed, 1))


def _font(size: float) -> ImageFont.FreeTypeFont:
    return cast("ImageFont.FreeTypeFont", ImageFont.load_default(size))


def _draw_color_bar(
    picture: Image.Image,
    font: ImageFont.FreeTypeFont,
    middle: float,
    pixel_threshold: float | None,
) -> None:
    """Draw the color bar at the caption's right end, with a line at the pixel threshold."""
    width, height = (max(1, round(letters * font.size)) for letters in COLOR_BAR_SIZE)
    right, top = round(picture.width - 1.5 * font.size), round(middle - height / 2)
    left = right - width
    colors = Image.fromarray(PALETTE.round().astype(np.uint8)[None]).resize((width, height))
    picture.paste(colors, (left, top))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((left - 1, top - 1, right, top + height), outline="white")
    draw.text((left - font.size / 3, middle), "0", fill="white", font=font, anchor="rm")
    draw.text((right + font.size / 3, middle), "1", fill="white", font=font, anchor="lm")
    if pixel_threshold is not None:
        place = left + pixel_threshold * (width - 1)
        line = max(1, round(font.size / 8))
        draw.line((place, top - height / 3, place, top + 4 * height / 3), fill="white", width=line)
