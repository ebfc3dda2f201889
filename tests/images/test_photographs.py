# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The reader of photographs: the same picture at any depth, upright, or one line that names the file."""

import errno
import io
import itertools
import multiprocessing
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from anomalib_fbclip.errors import ImageError
from anomalib_fbclip.images.photographs import (
    Enough,
    check_white_level,
    describe_pages,
    is_gray,
    larger_images,
    needs_own_reading,
    read_photograph,
    read_reduced,
)
from support.photographs import store, write_png

STREAM = np.random.default_rng(0)
GREY = STREAM.integers(0, 256, (24, 36), dtype=np.uint8)
COLORS = STREAM.integers(0, 256, (24, 36, 3), dtype=np.uint8)


def read(path: Path | Image.Image) -> np.ndarray:
    return read_photograph(path, upright=True)


def rgb(pixels: np.ndarray) -> np.ndarray:
    return pixels if pixels.ndim == 3 else np.stack([pixels] * 3, axis=2)


def refused(path: Path | Image.Image) -> str:
    with pytest.raises(ImageError) as error:
        read(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def write_tiff(path: Path, values: np.ndarray, **options: object) -> Path:
    tifffile.imwrite(path, values, photometric="rgb" if values.ndim == 3 else "minisblack", **options)
    return path


def write_with_pillow(path: Path, values: np.ndarray) -> Path:
    Image.fromarray(values).save(path)
    return path


def write_with_opencv(path: Path, values: np.ndarray) -> Path:
    cv2.imwrite(str(path), values[..., ::-1] if values.ndim == 3 else values)
    return path


WRITERS: dict[str, tuple[Callable[[Path, np.ndarray], Path], str]] = {
    "PNG": (lambda path, values: write_png(path, np.atleast_3d(values)), "png"),
    "PNG of OpenCV": (write_with_opencv, "png"),
    "TIFF of OpenCV": (write_with_opencv, "tif"),
    "little-endian TIFF": (lambda path, values: write_tiff(path, values, byteorder="<"), "tif"),
    "big-endian TIFF": (lambda path, values: write_tiff(path, values, byteorder=">"), "tif"),
    "compressed TIFF": (lambda path, values: write_tiff(path, values, compression="lzw", predictor=True), "tif"),
    "TIFF in strips": (lambda path, values: write_tiff(path, values, rowsperstrip=7), "tif"),
    "TIFF in tiles": (lambda path, values: write_tiff(path, values, tile=(16, 16)), "tif"),
}
COLOR_WRITERS: dict[str, tuple[Callable[[Path, np.ndarray], Path], str]] = {"PPM": (write_with_opencv, "ppm")}
GREY_WRITERS: dict[str, tuple[Callable[[Path, np.ndarray], Path], str]] = {
    "PNG of Pillow": (write_with_pillow, "png"),
    "TIFF of Pillow": (write_with_pillow, "tif"),
    "PGM": (write_with_opencv, "pgm"),
}
ALL_WRITERS = WRITERS | COLOR_WRITERS | GREY_WRITERS

of_every_writer = pytest.mark.parametrize(
    ("writer", "pixels"),
    [
        *((writer, COLORS) for writer in WRITERS | COLOR_WRITERS),
        *((writer, GREY) for writer in WRITERS | GREY_WRITERS),
    ],
    ids=lambda value: value if isinstance(value, str) else "grey" if value.ndim == 2 else "colors",
)


@pytest.mark.parametrize("factor", [256, 257])
@of_every_writer
def test_16_bits_are_the_picture_of_8_bits(tmp_path: Path, writer: str, pixels: np.ndarray, factor: int) -> None:
    write, suffix = ALL_WRITERS[writer]
    path = write(tmp_path / f"image.{suffix}", pixels.astype(np.uint16) * factor)
    assert needs_own_reading(path)
    assert np.array_equal(read(path), rgb(pixels))
    with Image.open(path) as image:
        assert np.array_equal(read(image), rgb(pixels))


@pytest.mark.parametrize("channels", [2, 4])
def test_transparency_of_16_bits_is_left_out_as_with_8_bits(tmp_path: Path, channels: int) -> None:
    alpha = STREAM.integers(0, 256, (24, 36, 1), dtype=np.uint8)
    pixels = COLORS if channels == 4 else GREY[..., None]
    values = np.concatenate([pixels, alpha], axis=2).astype(np.uint16) * 257
    path = write_png(tmp_path / "image.png", values)
    assert needs_own_reading(path)
    assert np.array_equal(read(path), np.broadcast_to(pixels, COLORS.shape))
    if channels == 4:
        path = write_tiff(tmp_path / "image.tif", values, extrasamples=["unassalpha"])
        assert needs_own_reading(path)
        assert np.array_equal(read(path), COLORS)


DEPTHS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "16 bits": lambda pixels: pixels.astype(np.uint16) * 257,
    "16 bits, shifted": lambda pixels: pixels.astype(np.uint16) << 8,
    "fractions": lambda pixels: pixels.astype(np.float32) / 255,
}


@pytest.mark.parametrize("depth", DEPTHS)
@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_any_picture_is_the_same_at_any_depth(
    tmp_path_factory: pytest.TempPathFactory, depth: str, data: st.DataObject
) -> None:
    shapes = array_shapes(min_dims=2, max_dims=2, max_side=6)
    if depth != "fractions":  # Pillow reads grey ones only
        shapes = st.one_of(shapes, shapes.map(lambda shape: (*shape, 3)))
    pixels = data.draw(arrays(np.uint8, shapes))
    folder = tmp_path_factory.mktemp("depth")
    assert np.array_equal(read(write_tiff(folder / "image.tif", DEPTHS[depth](pixels))), rgb(pixels))
    if depth != "fractions":
        path = write_png(folder / "image.png", np.atleast_3d(DEPTHS[depth](pixels)))
        assert np.array_equal(read(path), rgb(pixels))
    if pixels.ndim == 2:
        assert np.array_equal(read(Image.fromarray(DEPTHS[depth](pixels))), rgb(pixels))


def test_values_between_those_of_8_bits_are_rounded(tmp_path: Path) -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = np.round(values / 257).astype(np.uint8)
    assert np.array_equal(read(write_with_pillow(tmp_path / "image.png", values)), rgb(expected))
    colors = np.stack([values, values[::-1], values.T], axis=2)
    expected = np.stack([expected, expected[::-1], expected.T], axis=2)
    assert np.array_equal(read(write_png(tmp_path / "colors.png", colors)), expected)


def test_white_may_be_zero(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    for values in (GREY, GREY.astype(np.uint16) * 257, GREY.astype(np.float32) / 255):
        tifffile.imwrite(path, values, photometric="miniswhite")
        assert np.array_equal(read(path), rgb(255 - GREY))


class TestKnownRange:
    @pytest.mark.parametrize("pixels", [GREY, GREY // 64], ids=["light", "dark"])
    def test_12_bits_of_a_tiff(self, tmp_path: Path, pixels: np.ndarray) -> None:
        values = np.round(pixels / 255 * 4095).astype(np.uint16)
        path = write_tiff(tmp_path / "packed.tif", values, bitspersample=12)
        assert needs_own_reading(path)
        assert np.array_equal(read(path), rgb(pixels))

    @pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
    @pytest.mark.parametrize("writer", ["maximum of the range", "maximum that occurs"])
    def test_the_largest_value_of_a_tiff(self, tmp_path: Path, bits: int, writer: str) -> None:
        values = np.round(GREY / 255 * ((1 << bits) - 1)).astype(np.uint16)
        values[values == values.max()] -= values.max() // 10
        maximum = (1 << bits) - 1 if writer == "maximum of the range" else int(values.max())
        path = write_tiff(tmp_path / "image.tif", values, extratags=[(281, "H", 1, maximum, True)])
        assert np.array_equal(read(path), rgb(np.round(values / ((1 << bits) - 1) * 255).astype(np.uint8)))

    def test_values_above_the_largest(self, tmp_path: Path) -> None:
        values = GREY.astype(np.uint16) * 257
        path = write_tiff(tmp_path / "image.tif", values, extratags=[(281, "H", 1, 4095, True)])
        assert f"image.tif has values up to {values.max()}, above its stated 4095" in refused(path)

    @pytest.mark.parametrize("maximum", [1023, 4095])
    @pytest.mark.parametrize("pixels", [GREY, GREY // 64], ids=["light", "dark"])
    def test_the_largest_value_of_a_pgm(self, tmp_path: Path, maximum: int, pixels: np.ndarray) -> None:
        path = tmp_path / "image.pgm"
        values = np.round(pixels / 255 * maximum).astype(">u2")
        path.write_bytes(f"P5\n36 24\n{maximum}\n".encode() + values.tobytes())
        assert needs_own_reading(path)
        assert np.array_equal(read(path), rgb(pixels))


class TestWhiteLevel:
    """What a user says of a file that does not say it."""

    @given(data=st.data(), bits=st.sampled_from([10, 12, 14]))
    @settings(deadline=None, max_examples=60)
    def test_the_picture_is_that_of_8_bits_and_of_16(
        self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, bits: int
    ) -> None:
        shapes = array_shapes(min_dims=2, max_dims=2, max_side=6)
        shape = data.draw(st.one_of(shapes, shapes.map(lambda shape: (*shape, 3))))
        values = data.draw(arrays(np.uint16, shape, elements=st.integers(0, (1 << bits) - 1)))
        expected = rgb(np.round(values / ((1 << bits) - 1) * 255).astype(np.uint8))
        folder = tmp_path_factory.mktemp("white")
        for path in (write_tiff(folder / "a.tif", values), write_png(folder / "a.png", np.atleast_3d(values))):
            pixels = read_photograph(path, upright=True, white_level=(1 << bits) - 1)
            assert np.array_equal(pixels, expected)
        filled = np.round(values / ((1 << bits) - 1) * 65535).astype(np.uint16)
        assert np.array_equal(
            read_photograph(write_tiff(folder / "c.tif", filled), upright=True, white_level=65535), expected
        )

    @of_every_writer
    def test_every_writer(self, tmp_path: Path, writer: str, pixels: np.ndarray) -> None:
        write, suffix = ALL_WRITERS[writer]
        path = write(tmp_path / f"image.{suffix}", np.round(pixels / 255 * 4095).astype(np.uint16))
        assert np.array_equal(read_photograph(path, upright=True, white_level=4095), rgb(pixels))
        reduced = read_reduced(path, enough=Enough(36, 24), white_level=4095)
        assert np.array_equal(reduced.pixels, rgb(pixels))

    @pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint32])
    def test_other_whole_numbers(self, tmp_path: Path, dtype: type) -> None:
        path = write_tiff(tmp_path / "image.tif", np.round(GREY / 255 * 4095).astype(dtype))
        assert np.array_equal(read_photograph(path, upright=True, white_level=4095), rgb(GREY))

    def test_what_the_file_says_wins(self, tmp_path: Path) -> None:
        values = np.round(GREY / 255 * 1023).astype(np.uint16)
        path = write_tiff(tmp_path / "image.tif", values, extratags=[(281, "H", 1, 1023, True)])
        assert np.array_equal(read_photograph(path, upright=True, white_level=4095), rgb(GREY))

    def test_8_bits_have_a_white_of_their_own(self, tmp_path: Path) -> None:
        path = write_with_pillow(tmp_path / "image.png", COLORS)
        assert np.array_equal(read_photograph(path, upright=True, white_level=4095), COLORS)

    @pytest.mark.parametrize(
        ("values", "told"), [([0, 4096], "0 to 4096"), ([-1, 7], "-1 to 7"), ([0, 65280], "65280")]
    )
    def test_values_beyond_it(self, tmp_path: Path, values: list[int], told: str) -> None:
        dtype = np.int16 if min(values) < 0 else np.uint16
        path = write_tiff(tmp_path / "image.tif", np.array([values] * 4, dtype))
        with pytest.raises(ImageError, match="white level of 4095") as error:
            read_photograph(path, upright=True, white_level=4095)
        assert str(error.value).startswith(str(path))
        assert told in str(error.value)

    @pytest.mark.parametrize("white_level", [0, -1, 65536])
    def test_what_is_no_white_level(self, white_level: int) -> None:
        with pytest.raises(ValueError, match="65535"):
            check_white_level(white_level)


class TestUnknownRange:
    @pytest.mark.parametrize("bits", [10, 12, 14])
    @of_every_writer
    def test_bits_of_a_camera(self, tmp_path: Path, writer: str, pixels: np.ndarray, bits: int) -> None:
        write, suffix = ALL_WRITERS[writer]
        values = np.round(pixels / 255 * ((1 << bits) - 1)).astype(np.uint16)
        path = write(tmp_path / f"image.{suffix}", values)
        message = refused(path)
        assert message.startswith(f"{path} has 16 bits, but no value above {values.max()}: ")
        assert "--white-level 4095" in message

    def test_8_bits_in_16(self, tmp_path: Path) -> None:
        """The upper bytes, which Pillow gives, are black."""
        path = write_png(tmp_path / "image.png", COLORS.astype(np.uint16))
        assert "has 16 bits, but no value above 255" in refused(path)

    @pytest.mark.parametrize(
        ("scale", "offset", "values"), [(255, 0, "0 to 255"), (1, -0.5, "-0.5 to 0.5"), (np.inf, 0, "nan to nan")]
    )
    def test_fractions(self, tmp_path: Path, scale: float, offset: float, values: str) -> None:
        with np.errstate(invalid="ignore"):
            fractions = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4) * scale + offset
        path = write_tiff(tmp_path / "image.tif", fractions.astype(np.float32))
        assert needs_own_reading(path)
        assert f"image.tif has floating-point values of {values}, so their range is unknown: " in refused(path)
        assert "The image has floating-point values" in refused(Image.fromarray(fractions.astype(np.float32)))

    @pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint32])
    def test_whole_numbers(self, tmp_path: Path, dtype: type) -> None:
        path = write_tiff(tmp_path / "image.tif", GREY.astype(dtype))
        assert needs_own_reading(path)
        assert f"{path} has whole numbers whose range is unknown" in refused(path)
        assert "The image has whole numbers" in refused(Image.fromarray(GREY.astype(np.int32)))

    def test_signed_values(self, tmp_path: Path) -> None:
        """Pillow takes -1 for white."""
        path = write_tiff(tmp_path / "image.tif", GREY.astype(np.int8))
        assert needs_own_reading(path)
        assert f"{path} has signed values, whose range is unknown: save it with values of 0 to 255." in refused(path)

    @pytest.mark.parametrize("compression", [None, "lzw"])
    def test_separate_planes(self, tmp_path: Path, compression: str | None) -> None:
        """Pillow mixes their bytes up."""
        planes = np.moveaxis(COLORS.astype(np.uint16) * 257, 2, 0)
        path = tmp_path / "image.tif"
        tifffile.imwrite(path, planes, photometric="rgb", planarconfig="separate", compression=compression)
        assert needs_own_reading(path)
        assert f"{path} has more than 8 bits in an unsupported format" in refused(path)


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [
        *itertools.product(("png", "tif", "webp"), ("RGB", "L", "1", "P", "LA", "RGBA")),
        *itertools.product(("bmp", "jpg", "ppm"), ("RGB", "L", "1")),
    ],
)
def test_images_of_8_bits_are_read_as_by_pillow(tmp_path: Path, suffix: str, mode: str) -> None:
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(COLORS).convert(mode).save(path)
    assert not needs_own_reading(path)
    with Image.open(path) as opened:
        assert np.array_equal(read(path), np.array(opened.convert("RGB")))


def test_the_values_can_be_changed(tmp_path: Path) -> None:
    assert read(write_with_pillow(tmp_path / "image.png", COLORS)).flags.writeable


class TestOrientation:
    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
    def test_upright(self, tmp_path: Path, orientation: int, suffix: str) -> None:
        stored, exif = store(COLORS, orientation)
        path = tmp_path / f"image.{suffix}"
        stored.save(path, exif=exif, lossless=True)
        assert np.array_equal(read(path), COLORS)
        assert np.array_equal(read(Image.open(path)), COLORS)

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_16_bits(self, tmp_path: Path, orientation: int) -> None:
        stored, exif = store(rgb(GREY), orientation)
        path = tmp_path / "image.png"
        Image.fromarray(np.array(stored)[..., 0].astype(np.uint16) * 257).save(path, exif=exif)
        assert np.array_equal(read(path), rgb(GREY))

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("compression", [None, "lzw"])
    @pytest.mark.parametrize("depth", [np.uint8, np.uint16])
    @pytest.mark.parametrize("pixels", [GREY, COLORS], ids=["grey", "colors"])
    def test_tiff(
        self, tmp_path: Path, orientation: int, compression: str | None, depth: type, pixels: np.ndarray
    ) -> None:
        """Pillow turns them when it loads them, whoever asks, and mixes up grey ones that it maps into memory."""
        stored = np.array(store(rgb(pixels), orientation)[0])
        values = (stored if pixels.ndim == 3 else stored[..., 0]).astype(depth)
        path = tmp_path / "image.tif"
        tags = [(274, "H", 1, orientation, True)]
        write_tiff(path, values if depth is np.uint8 else values * 257, compression=compression, extratags=tags)
        assert np.array_equal(read(path), rgb(pixels))
        assert np.array_equal(read_photograph(path, upright=False), rgb(pixels))

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_an_image_in_memory(self, orientation: int) -> None:
        stored, _ = store(COLORS, orientation)
        stored.getexif()[0x0112] = orientation
        assert np.array_equal(read(stored), COLORS)
        assert np.array_equal(np.array(stored), np.array(store(COLORS, orientation)[0]))

    def test_as_it_is_stored(self, tmp_path: Path) -> None:
        stored, exif = store(COLORS, 6)
        path = tmp_path / "image.png"
        stored.save(path, exif=exif)
        assert np.array_equal(read_photograph(path, upright=False), np.array(stored))

    def test_damaged_exif_data(self, tmp_path: Path) -> None:
        path = tmp_path / "image.webp"
        Image.fromarray(COLORS).save(path, exif=b"Exif\0\0no header")
        assert f"{path} has damaged EXIF data" in refused(path)
        assert read_photograph(path, upright=False).shape == (24, 36, 3)


class TestWhatCanNotBeRead:
    @pytest.mark.parametrize(
        "content", [b"", b"no image", b"\x89PNG\r\n\x1a\n", b"BM" + bytes(60), b"II*\0" + bytes(9), b"P5\n1 x"]
    )
    def test_what_is_no_image(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "image.png"
        path.write_bytes(content)
        assert f"{path} can't be read as an image: " in refused(path)
        with pytest.raises(ImageError, match=r"image\.png can't be read"):
            needs_own_reading(path)

    @pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "bmp", "webp", "ppm"])
    @pytest.mark.parametrize("share", [0.2, 0.7])
    def test_a_truncated_file(self, tmp_path: Path, suffix: str, share: float) -> None:
        path = tmp_path / f"image.{suffix}"
        Image.fromarray(COLORS).resize((200, 100)).save(path)
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        assert f"{path} can't be read as an image: " in refused(path)

    def test_a_truncated_file_of_16_bits(self, tmp_path: Path) -> None:
        path = write_png(tmp_path / "image.png", COLORS.astype(np.uint16) * 257)
        path.write_bytes(path.read_bytes()[:-600])
        assert f"{path} can't be read as an image: " in refused(path)

    def test_no_file(self, tmp_path: Path) -> None:
        assert "none.png can't be read as an image: there is no such file." in refused(tmp_path / "none.png")
        (tmp_path / "link.png").symlink_to("gone.png")
        assert "link.png can't be read as an image: it is a link to gone.png" in refused(tmp_path / "link.png")
        (tmp_path / "circle.png").symlink_to("circle.png")
        assert "a link to itself" in refused(tmp_path / "circle.png")
        (tmp_path / "folder.png").mkdir()
        assert "folder.png can't be read: " in refused(tmp_path / "folder.png")

    @pytest.mark.parametrize("error", [errno.EACCES, errno.EIO, errno.ESTALE])
    def test_the_system_says_why(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
        """Saving it as PNG would not help."""
        path = write_with_pillow(tmp_path / "image.png", COLORS)

        def fail(*_: object, **__: object) -> None:
            raise OSError(error, os.strerror(error), str(path))

        monkeypatch.setattr(io, "open", fail)
        monkeypatch.setattr(Path, "open", fail)
        message = refused(path)
        assert f"image.png can't be read as an image: {os.strerror(error)}" in message
        assert "PNG or JPEG" not in message

    @pytest.mark.parametrize(
        ("name", "content", "said"),
        [
            ("part.heic", b"", "HEIF is not supported"),
            ("part.jpg", b"\0\0\0\x18ftypheic", "HEIF is not supported"),
            ("clip.mp4", b"", "is a video"),
            ("part.jpg", b"\0\0\0\x18ftypisom", "is a video"),
            ("part.jpg", b"RIFF\0\0\0\0AVI LIST", "is a video"),
            ("part.cr3", b"\0\0\0\x18ftypcrx ", "camera raw is not supported"),
        ],
    )
    def test_kinds_that_are_not_read(self, tmp_path: Path, name: str, content: bytes, said: str) -> None:
        (tmp_path / name).write_bytes(content)
        assert said in refused(tmp_path / name)

    def test_the_preview_in_a_raw_file_is_no_photograph(self, tmp_path: Path) -> None:
        Image.fromarray(COLORS).save(tmp_path / "part.dng", "TIFF")
        assert "camera raw is not supported" in refused(tmp_path / "part.dng")

    def test_more_than_is_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = write_with_pillow(tmp_path / "image.png", COLORS)
        monkeypatch.setattr("anomalib_fbclip.images.photographs.MOST_PIXELS", 24 * 36 - 1)
        message = refused(path)
        assert "image.png has 36 x 24 pixels, and at most" in message
        assert "PNG or JPEG" not in message

    def test_the_most_that_is_read(self, tmp_path: Path) -> None:
        """By a header alone: no pixel is needed to tell."""
        path = tmp_path / "image.ppm"
        path.write_bytes(b"P6\n16384 16384\n255\n")
        assert not needs_own_reading(path)
        path.write_bytes(b"P6\n16384 16385\n255\n")
        with pytest.raises(ImageError, match=r"16384 x 16385.*268 million"):
            needs_own_reading(path)

    def test_more_than_pillow_reads(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whose limit stays as it was."""
        path = write_with_pillow(tmp_path / "image.png", COLORS)
        deep = write_png(tmp_path / "deep.png", COLORS.astype(np.uint16) * 257)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 24 * 36 // 2 - 1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert np.array_equal(read(path), COLORS)
            assert np.array_equal(read(deep), COLORS)
        assert Image.MAX_IMAGE_PIXELS == 24 * 36 // 2 - 1

    @pytest.mark.parametrize(("width", "height"), [(1, 1), (3000, 2), (13, 14), (14, 13)])
    def test_a_small_image(self, tmp_path: Path, width: int, height: int) -> None:
        path = write_with_pillow(tmp_path / "image.png", np.zeros((height, width, 3), np.uint8))
        with pytest.raises(ImageError) as error:
            read_photograph(path, upright=True, minimum_side=14)
        assert str(error.value) == (
            f"{path} has {width} x {height} pixels, and each side needs 14 or more: give a larger image."
        )
        side = min(width, height)
        assert read_photograph(path, upright=True, minimum_side=side).shape == (height, width, 3)

    def test_the_name_is_one_line(self, tmp_path: Path) -> None:
        path = tmp_path / "two\nlines, \udcff.png"
        path.write_bytes(b"")
        assert refused(path).startswith(rf"{tmp_path}/two\nlines, \udcff.png can't be read as an image: ")

    @settings(max_examples=300, deadline=None)
    @given(data=st.data())
    def test_damage_anywhere(self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
        """It is either a picture or an error of ours."""
        content = bytearray(data.draw(st.sampled_from(DAMAGED)))
        places = st.one_of(st.integers(0, min(len(content), 60) - 1), st.integers(0, len(content) - 1))
        for place, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=4)):
            content[place] = value
        content = content[: data.draw(st.one_of(st.just(len(content)), st.integers(1, len(content))))]
        path = tmp_path_factory.getbasetemp() / "damaged.png"
        path.write_bytes(bytes(content))
        assert describe_pages([path]) == []
        try:
            read(path)
        except ImageError as error:
            message = str(error)
        else:
            message = f"{path} can be read"
        assert message.startswith(str(path))
        assert "\n" not in message


def _contents() -> list[bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "a camera"
    images = [("PNG", COLORS), ("JPEG", COLORS), ("TIFF", COLORS), ("WEBP", COLORS), ("BMP", COLORS), ("PPM", COLORS)]
    images += [(name, GREY.astype(np.uint16) * 257) for name in ("PNG", "TIFF", "PPM")]
    contents = []
    for name, pixels in images:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, name, exif=exif)
        contents.append(file.getvalue())
    return contents


DAMAGED = _contents()


class TestPages:
    def test_pages(self, tmp_path: Path) -> None:
        pages = [Image.fromarray(COLORS), Image.fromarray(COLORS[::-1]), Image.fromarray(COLORS[:, ::-1])]
        names = {"1.tif": 1, "2.tif": 2, "3.webp": 3, "4.png": 1, "5.gif": 3}
        for name, count in names.items():
            pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:count])
        (tmp_path / "damaged.tif").write_bytes(b"II*\0")
        assert describe_pages([*(tmp_path / name for name in names), str(tmp_path / "damaged.tif")]) == [
            f"{tmp_path}/2.tif has 2 pages: only the first is inspected.",
            f"{tmp_path}/3.webp has 3 frames: only the first is inspected.",
            f"{tmp_path}/5.gif has 3 frames: only the first is inspected.",
        ]
        assert np.array_equal(read(tmp_path / "2.tif"), COLORS)

    def test_a_damaged_second_page(self, tmp_path: Path) -> None:
        path = tmp_path / "image.tif"
        Image.fromarray(COLORS).save(path)
        content = bytearray(path.read_bytes())
        start = int.from_bytes(content[4:8], "little")  # of the first page's tags, and then comes where the next one is
        end = start + 2 + 12 * int.from_bytes(content[start : start + 2], "little")
        content[end : end + 4] = (len(content) - 6).to_bytes(4, "little")
        path.write_bytes(bytes(content) + bytes(6))
        assert describe_pages([path]) == []
        assert np.array_equal(read(path), COLORS)

    def test_the_preview_in_the_jpeg_of_a_phone_is_no_page(self, tmp_path: Path) -> None:
        path = tmp_path / "phone.jpg"
        image = Image.fromarray(COLORS)
        image.save(path, format="MPO", save_all=True, append_images=[image.resize((4, 4))])
        assert describe_pages([path]) == []
        assert read(path).shape == (24, 36, 3)


class TestThreads:
    def test_filters_of_warnings_stay(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """All threads share them: one that puts back those of another would leave them wrong for ever."""
        Image.fromarray(COLORS).save(tmp_path / "part.png")
        found = []
        open_image = Image.open
        monkeypatch.setattr(Image, "open", lambda *args: found.append([*warnings.filters]) or open_image(*args))
        read(tmp_path / "part.png")
        assert found == [warnings.filters]

    def test_flaws_are_no_warnings(self, tmp_path: Path) -> None:
        Image.fromarray(GREY).convert("P").save(tmp_path / "part.png", transparency=bytes(range(256)))
        command = "import sys; from anomalib_fbclip.exported import read_image; read_image(sys.argv[1])"
        result = subprocess.run(
            [sys.executable, "-c", command, tmp_path / "part.png"], capture_output=True, text=True, check=True
        )
        assert not result.stderr

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
    def test_a_process_that_is_forked_while_a_thread_reads(self) -> None:
        """As a dataloader's worker: the thread is not in it, and can't end what it began."""
        is_reading, has_forked = threading.Event(), threading.Event()

        def hold() -> None:
            with larger_images():
                is_reading.set()
                has_forked.wait(0.5)

        thread = threading.Thread(target=hold)
        thread.start()
        is_reading.wait()
        process = multiprocessing.get_context("fork").Process(target=larger_images().__enter__)
        process.start()
        has_forked.set()
        process.join(60)
        process.kill()
        process.join()
        thread.join()
        assert process.exitcode == 0


@pytest.mark.parametrize(("color", "expected"), [((127, 128, 129), True), ((127, 128, 130), False)])
def test_rounding_is_no_color(color: tuple[int, int, int], expected: bool) -> None:
    assert is_gray(np.full((9, 9, 3), color, dtype=np.uint8)) is expected
