# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Regions of interest as users give them: masks, folders of masks, and rectangles."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import ExifTags, Image

from anomalib_fbclip.errors import ImageError
from anomalib_fbclip.images.region_of_interest import (
    Box,
    RegionMasks,
    decode_region,
    encode_region,
    paint_region,
    parse_region,
    read_mask,
    shade_outside,
)


def write_mask(path: Path, size: tuple[int, int] = (40, 60), white: int = 255) -> Path:
    """White in its left half."""
    pixels = np.zeros(size, dtype=np.uint8)
    pixels[:, : size[1] // 2] = white
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


class TestBox:
    def test_fractions(self) -> None:
        assert parse_region("0.1,0.2,0.5,0.4") == Box(0.1, 0.2, 0.5, 0.4)

    def test_pixels(self) -> None:
        box = parse_region("100, 50, 200, 100", (400, 800))
        assert box == Box(0.125, 0.125, 0.25, 0.25)
        mask = box.mask((40, 80))
        assert mask[5:15, 10:30].all()
        assert mask.sum() == 10 * 20

    @given(st.integers(1, 3000), st.integers(1, 3000), st.data())
    def test_any_pixels_of_a_photograph(self, height: int, width: int, data: st.DataObject) -> None:
        """Painted in the photograph's own size, they are these pixels."""
        x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
        right, bottom = data.draw(st.integers(x + 1, width)), data.draw(st.integers(y + 1, height))
        if max(x, y, right - x, bottom - y) <= 1:
            return  # fractions
        mask = Box.parse(f"{x},{y},{right - x},{bottom - y}", (height, width)).mask((height, width))
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        assert (rows[0], rows[-1], columns[0], columns[-1]) == (y, bottom - 1, x, right - 1)
        assert mask.sum() == (right - x) * (bottom - y)

    @pytest.mark.parametrize(
        ("text", "size"),
        [
            ("0.5,0.5,0.6,0.2", None),
            ("-0.1,0,0.5,0.5", None),
            ("0,0,0,0.5", None),
            ("700,0,200,10", (400, 800)),
            ("0,0,10,500", (400, 800)),
            ("nan,0,0.5,0.5", None),
            ("0,0,nan,0.5", None),
            ("0,0,inf,0.5", (400, 800)),
        ],
    )
    def test_outside(self, text: str, size: tuple[int, int] | None) -> None:
        with pytest.raises(ValueError, match="does not lie in the photograph") as raised:
            parse_region(text, size)
        assert "\n" not in str(raised.value)

    def test_fractions_and_pixels(self) -> None:
        with pytest.raises(ValueError, match="mixes"):
            parse_region("0.1,0.1,2,2", (448, 448))

    def test_pixels_of_an_unknown_size(self) -> None:
        with pytest.raises(ValueError, match="is in pixels: give fractions"):
            parse_region("100,50,200,100")

    @pytest.mark.parametrize("text", ["", "middle", "0.1,0.2,0.3", "0,0,1,1,1", "0.1;0.1;0.5;0.5", "gone.png"])
    def test_nonsense(self, text: str) -> None:
        with pytest.raises(ValueError, match="neither a file, a folder nor x,y,width,height"):
            parse_region(text)

    @pytest.mark.parametrize(
        "text", ["0.999,0.999,0.001,0.001", "0.5,0.5,0.0001,0.0001", "0.52,0,0.0001,1", "0,0,1,0.0001"]
    )
    def test_a_small_one_has_a_pixel(self, text: str) -> None:
        assert parse_region(text).mask((56, 56)).any()


class TestMask:
    @pytest.mark.parametrize("size", [(40, 60), (7, 200), (900, 30), (2, 2)])
    def test_any_size(self, tmp_path: Path, size: tuple[int, int]) -> None:
        mask = read_mask(write_mask(tmp_path / "mask.png", size), (28, 42))
        assert mask[:, :21].all()
        assert not mask[:, 21:].any()

    @pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "P"])
    def test_any_mode(self, tmp_path: Path, mode: str) -> None:
        path = write_mask(tmp_path / "mask.png")
        with Image.open(path) as image:
            image.convert(mode).save(path)
        assert read_mask(path, (2, 2)).tolist() == [[True, False], [True, False]]

    def test_it_is_turned_upright_as_photographs_are(self, tmp_path: Path) -> None:
        path = write_mask(tmp_path / "mask.png")
        with Image.open(path) as image:
            exif = image.getexif()
            exif[ExifTags.Base.Orientation] = 3
            image.save(path, exif=exif)
        assert read_mask(path, (2, 2)).tolist() == [[False, True], [False, True]]

    def test_gray_of_more_than_half_is_white(self, tmp_path: Path) -> None:
        assert read_mask(write_mask(tmp_path / "light.png", white=128), (4, 4)).sum() == 8
        with pytest.raises(ImageError, match="ignores everything"):
            read_mask(write_mask(tmp_path / "dark.png", white=127), (4, 4))

    def test_all_black(self, tmp_path: Path) -> None:
        with pytest.raises(ImageError, match=r"black\.png ignores everything"):
            read_mask(write_mask(tmp_path / "black.png", white=0), (4, 4))

    def test_a_speck(self, tmp_path: Path) -> None:
        pixels = np.zeros((400, 400), dtype=np.uint8)
        pixels[3, 5] = 255
        Image.fromarray(pixels).save(tmp_path / "speck.png")
        with pytest.raises(ImageError, match=r"speck\.png is too small"):
            read_mask(tmp_path / "speck.png", (4, 4))

    def test_no_image(self, tmp_path: Path) -> None:
        (tmp_path / "text.png").write_text("no image")
        with pytest.raises(ImageError, match=r"text\.png"):
            read_mask(tmp_path / "text.png", (4, 4))

    def test_it_is_given_as_a_file(self, tmp_path: Path) -> None:
        path = write_mask(tmp_path / "mask.png")
        assert parse_region(str(path)) == path
        assert np.array_equal(paint_region(path, (8, 8)), read_mask(path, (8, 8)))


class TestMasks:
    def test_each_photograph_has_its_own(self, tmp_path: Path) -> None:
        write_mask(tmp_path / "masks" / "left.png")
        with Image.open(tmp_path / "masks" / "left.png") as image:
            image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "masks" / "right.bmp")
        masks = parse_region(str(tmp_path / "masks"))
        left, right = (paint_region(masks, (2, 2), Path("photographs", name)) for name in ("left.jpg", "right.png"))
        assert left.tolist() == [[True, False]] * 2
        assert right.tolist() == [[False, True]] * 2

    @pytest.mark.parametrize("photograph", [Path("other.png"), None])
    def test_a_missing_one(self, tmp_path: Path, photograph: Path | None) -> None:
        write_mask(tmp_path / "masks" / "left.png")
        with pytest.raises(ImageError, match="has no mask") as raised:
            paint_region(RegionMasks.of(tmp_path / "masks"), (2, 2), photograph)
        assert "\n" not in str(raised.value)
        assert ("other.png" in str(raised.value)) == (photograph is not None)

    def test_an_empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="has no masks"):
            parse_region(str(tmp_path))

    def test_two_of_one_photograph(self, tmp_path: Path) -> None:
        for name in ("left.png", "left.bmp"):
            write_mask(tmp_path / name)
        with pytest.raises(ValueError, match="one photograph"):
            parse_region(str(tmp_path))


regions = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40))


@given(regions)
def test_text_of_a_region_can_be_read_again(region: np.ndarray) -> None:
    assert np.array_equal(decode_region(encode_region(region)), region)


def test_what_lies_outside_is_shaded() -> None:
    photograph = Image.new("RGB", (60, 40), (200, 100, 50))
    shaded = np.asarray(shade_outside(photograph, np.array([[True, False], [True, False]])))
    assert (shaded[:, :30] == (200, 100, 50)).all()
    assert (shaded[:, 30:] < (100, 50, 25)).all()
    assert shaded[:, 30:].any()
