# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The picture of a prediction: the photograph with heatmap, regions and a caption."""

from collections.abc import Iterator
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from .records import Record
from .regions import match_verdict

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


def draw_picture(photograph: Image.Image, anomaly_map: NDArray[np.floating], record: Record) -> Image.Image:
    """Draw the prediction of an RGB photograph, up to 2048 pixels a side, from its anomaly map ``[h, w]``.

    Outlines are drawn where the map is above the record's pixel threshold, or around the boxes of its regions if it has
    no threshold.
    """
    image = shrink_photograph(photograph, MAX_SIDE)
    heat = resize_map(anomaly_map, image.height, image.width)
    picture = draw_heatmap(image, heat, _find_mask(heat, record))
    _draw_caption(picture, heat, record)
    return picture


def shrink_photograph(photograph: Image.Image, max_side: int) -> Image.Image:
    """Shrink a photograph to a largest side in pixels. Its proportions stay."""
    longer = max(photograph.size)
    if longer <= max_side:
        return photograph
    width, height = (max(1, round(max_side * side / longer)) for side in photograph.size)
    return photograph.resize((width, height), Image.Resampling.HAMMING, reducing_gap=1)


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


def _words_of(record: Record) -> list[tuple[str, str]]:
    """Return the parts of the caption, with their colors."""
    words = [(f"score {record.score:.3f}", "white")]
    if record.verdict is not None:
        words.insert(0, (record.verdict, VERDICT_COLORS[record.verdict]))
    if record.threshold is not None:
        words.append((f"threshold {record.threshold:.3f}", "white"))
    return words


def _fit_font(words: list[tuple[str, str]], size: tuple[int, int]) -> ImageFont.FreeTypeFont:
    """Choose a size of the font with which the caption fits into a picture."""
    font = _font(max(min(size) / LETTERS_PER_SIDE, MIN_FONT_SIZE))
    spaces = len(words) + COLOR_BAR_SIZE[0] + 3  # the color bar's labels and gaps take three
    needed = sum(font.getlength(text) for text, _ in words) + spaces * font.size
    return font if needed <= size[0] else _font(max(font.size * size[0] / needed, 1))


def _font(size: float) -> ImageFont.FreeTypeFont:
    return cast("ImageFont.FreeTypeFont", ImageFont.load_default(size))


def _draw_color_bar(
    picture: Image.Image, font: ImageFont.FreeTypeFont, middle: float, pixel_threshold: float | None
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


def draw_heatmap(photograph: Image.Image, anomaly_map: NDArray[np.floating], mask: NDArray[np.bool_]) -> Image.Image:
    """Draw an anomaly map and its regions on the gray RGB photograph, so that all color comes from the map.

    The map, 0..1, and the mask of the regions show the whole photograph, and have any shapes ``[h, w]``.
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
