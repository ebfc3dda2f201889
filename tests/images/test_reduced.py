# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Large photographs are read at a part of their size, if that is enough."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from anomalib_fbclip.errors import ImageError
from anomalib_fbclip.images.photographs import Enough, read_photograph, read_reduced
from support.photographs import store, write_padded_jpeg

ENOUGH = Enough(longer=100, shorter=50)


def draw(width: int, height: int) -> Image.Image:
    row, column = np.mgrid[0:height, 0:width]
    channels = [255 * column / width, 255 * row / height, 127 + 100 * np.sin(column / 20)]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "tiff", "webp"])
@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((199, 150), (199, 150)),
        ((200, 150), (100, 75)),
        ((150, 400), (75, 200)),
        ((403, 300), (101, 75)),
        ((1600, 100), (800, 50)),
        ((1600, 99), (1600, 99)),
        ((3200, 1600), (400, 200)),
    ],
)
def test_sizes(suffix: str, size: tuple[int, int], expected: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / f"photograph.{suffix}"
    draw(*size).save(path)
    photograph = read_reduced(path, enough=ENOUGH)
    assert photograph.size == size[::-1]
    assert photograph.pixels.shape == (*expected[::-1], 3)
    whole = Image.fromarray(read_photograph(path, upright=True)).resize(expected, Image.Resampling.BOX)
    assert np.abs(photograph.pixels.astype(int) - np.asarray(whole)).mean() < 2


def test_the_whole_size(tmp_path: Path) -> None:
    draw(800, 600).save(tmp_path / "photograph.jpg")
    photograph = read_reduced(tmp_path / "photograph.jpg", enough=None)
    assert np.array_equal(photograph.pixels, read_photograph(tmp_path / "photograph.jpg", upright=True))
    assert photograph.size == (600, 800)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright(orientation: int, tmp_path: Path) -> None:
    upright = draw(800, 600)
    turned, exif = store(np.asarray(upright), orientation)
    turned.save(tmp_path / "turned.jpg", exif=exif, quality=95, subsampling=0)
    photograph = read_reduced(tmp_path / "turned.jpg", enough=ENOUGH)
    assert photograph.size == (600, 800)
    assert photograph.pixels.shape == (75, 100, 3)
    expected = np.asarray(upright.reduce(8)).astype(int)
    assert np.abs(photograph.pixels - expected).mean() < 2


def test_gray(tmp_path: Path) -> None:
    draw(800, 600).convert("L").save(tmp_path / "gray.jpg")
    assert read_reduced(tmp_path / "gray.jpg", enough=ENOUGH).pixels.shape == (75, 100, 3)


def test_too_small_is_told_by_the_whole_size(tmp_path: Path) -> None:
    draw(1600, 200).save(tmp_path / "photograph.jpg")
    with pytest.raises(ImageError, match="has 1600 x 200 pixels"):
        read_reduced(tmp_path / "photograph.jpg", enough=Enough(10, 10), minimum_side=224)
    assert read_reduced(tmp_path / "photograph.jpg", enough=Enough(10, 10), minimum_side=200).size == (200, 1600)


@settings(max_examples=60)
@given(
    height=st.integers(130, 280),
    width=st.integers(130, 280),
    scale=st.sampled_from([2, 4, 8]),
    subsampling=st.sampled_from([0, 1, 2]),
    beyond=st.sampled_from([0, 255]),
)
def test_what_lies_beyond_the_last_row_and_column_of_a_jpeg(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, scale: int, subsampling: int, beyond: int
) -> None:
    """Is in no pixel: it adds nothing to what a part of the size differs by from the mean of the whole one's pixels.

    So it is with 4:4:4, 4:2:2 and 4:2:0. Where an encoder repeats the last row and column, nothing is added.
    """
    inside = np.array(draw(-(-width // 16) * 16, -(-height // 16) * 16))[:height, :width]
    margins = ((0, -height % 16), (0, -width % 16), (0, 0))
    path = tmp_path_factory.getbasetemp() / "padded.jpg"

    def differ(pixels: np.ndarray) -> np.ndarray:
        write_padded_jpeg(path, pixels, (height, width), subsampling)
        whole = Image.fromarray(read_photograph(path, upright=True))
        reduced = read_reduced(path, enough=Enough(max(height, width) // scale, min(height, width) // scale))
        assert reduced.size == (height, width)
        return np.abs(reduced.pixels.astype(int) - np.asarray(whole.reduce(scale)))

    difference = differ(np.pad(inside, margins, constant_values=beyond))
    repeated = differ(np.pad(inside, margins, "edge"))
    assert difference[-1].mean() < repeated[-1].mean() + 1
    assert difference[:, -1].mean() < repeated[:, -1].mean() + 1
    assert difference.mean() < 2
