# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Images of the edge inferencer against anomalib's and torchvision's."""

from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data.utils import read_image as read_with_anomalib
from anomalib.deploy import OpenVINOInferencer
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from anomalib_fbclip.exported import ImageError, read_image
from anomalib_fbclip.exported.inferencer import to_batch, to_rgb
from support.photographs import store

STREAM = np.random.default_rng(0)
ANY_SIZE = (None, None)


def image_of(mode: str) -> Image.Image:
    pixels = STREAM.integers(0, 256, (24, 36, 4), dtype=np.uint8)
    return Image.fromarray(pixels[..., :3] if mode == "P" else pixels).convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1"])
def test_images_are_read_as_anomalib_reads_them(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "image.png"
    image_of(mode).save(path)
    expected = OpenVINOInferencer.pre_process(read_with_anomalib(path))
    assert np.array_equal(to_batch(read_image(path), ANY_SIZE), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(tmp_path: Path, orientation: int) -> None:
    upright = np.array(image_of("RGB"))
    stored, exif = store(upright, orientation)
    path = tmp_path / "image.png"
    stored.save(path, exif=exif)
    assert np.array_equal(read_image(path), upright)
    assert np.array_equal(to_rgb(Image.open(path)), upright)
    stored.getexif()[0x0112] = orientation
    assert np.array_equal(to_rgb(stored), upright)


def test_every_value_is_divided_as_by_anomalib() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    assert np.array_equal(to_batch(values, ANY_SIZE), OpenVINOInferencer.pre_process(values / 255))


@pytest.mark.parametrize("size", [(14, 14), (40, 70), (24, 18), (11, 36)])
def test_images_are_resized_as_by_torchvision(size: tuple[int, int]) -> None:
    image = np.array(image_of("RGB"))
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    expected = resize(pixels, list(size), InterpolationMode.BICUBIC, antialias=True)
    assert np.allclose(to_batch(image, size), expected, atol=1e-5)


def test_one_fixed_side() -> None:
    assert to_batch(np.array(image_of("RGB")), (48, None)).shape == (1, 3, 48, 36)


def test_an_array_and_an_image_of_pillow() -> None:
    image = image_of("RGBA")
    rgb = image.convert("RGB")
    assert np.array_equal(to_rgb(image), np.array(rgb))
    assert np.array_equal(to_rgb(np.array(rgb)), np.array(rgb))


def test_images_that_are_too_small_are_refused() -> None:
    for source in (Image.new("RGB", (13, 20)), np.zeros((20, 13, 3), np.uint8)):
        assert to_rgb(source, 13).shape == (20, 13, 3)
        with pytest.raises(ImageError, match="13 x 20 pixels"):
            to_rgb(source, 14)
    with pytest.raises(ImageError, match="has 0 x 20 pixels"):
        to_rgb(np.zeros((20, 0, 3), np.uint8))


@pytest.mark.parametrize("source", [None, np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((1, 3, 4, 4))])
def test_anything_else_is_refused(source: object) -> None:
    with pytest.raises(ValueError, match="uint8"):
        to_rgb(source)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n", b"BM" + bytes(60), b"II*\0" + bytes(9)])
def test_what_is_no_image(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"image\.png can't be read") as error:
        read_image(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "bmp", "webp"])
@pytest.mark.parametrize("share", [0.2, 0.7])
def test_a_truncated_image(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"image.{suffix}"
    image_of("RGB").resize((200, 100)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ImageError, match="can't be read as an image"):
        read_image(path)
