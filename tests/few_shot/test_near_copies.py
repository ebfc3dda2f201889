# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter

import anomalib_fbclip
from anomalib_fbclip.data.near_copies import describe_near_copies, leave_out_copies
from anomalib_fbclip.errors import ImageError
from anomalib_fbclip.images.photographs import KeptPhotograph, digest_file

SIZE = (240, 180)


def draw_part(seed: int) -> Image.Image:
    """Draw a part of one shape on plain ground, as a fixture holds it. Only its surface is its own."""
    stream = np.random.default_rng(seed)
    surface = Image.fromarray(stream.integers(60, 170, (45, 60, 3), dtype=np.uint8)).resize(
        SIZE, Image.Resampling.BICUBIC
    )
    mask = Image.new("L", SIZE)
    ImageDraw.Draw(mask).polygon([(40, 30), (200, 40), (180, 150), (90, 140), (50, 90)], fill=255)
    part = Image.new("RGB", SIZE, (200, 200, 205))
    part.paste(surface, mask=mask.filter(ImageFilter.GaussianBlur(1)))
    return part


def save_as_jpeg(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=70)
    return Image.open(file).convert("RGB")


def take_again(image: Image.Image, frame: int = 1) -> Image.Image:
    """Give a frame of a burst: moved, a little brighter, with noise of its own."""
    moved = ImageChops.offset(image, frame % 3, -(frame % 2))
    noise = np.random.default_rng(frame).normal(0, 1, (*image.size[::-1], 3))
    return Image.fromarray(((1 + 0.01 * frame) * np.asarray(moved) + noise).clip(0, 255).astype(np.uint8))


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "saved with losses": save_as_jpeg,
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.4),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.6),
    "more contrast": lambda image: ImageEnhance.Contrast(image).enhance(1.4),
    "gray": lambda image: image.convert("L").convert("RGB"),
    "turned by a quarter": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "turned by a half": lambda image: image.transpose(Image.Transpose.ROTATE_180),
    "turned": lambda image: image.rotate(37, fillcolor=(200, 200, 205)),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "cut": lambda image: image.crop((12, 9, 228, 171)),
    "taken again": take_again,
}


def count_distinct(images: list[Image.Image]) -> int:
    return len(leave_out_copies(images))


@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
def test_copies_count_as_one(make: Callable[[Image.Image], Image.Image]) -> None:
    parts = [draw_part(seed) for seed in range(4)]
    assert count_distinct([*parts, *map(make, parts)]) == 4


def test_hazelnuts_turned_with_black_corners() -> None:
    """The corners are in no other photograph, so that they must not count."""
    folder = Path(anomalib_fbclip.__file__).parent / "data" / "example" / "good"
    parts = [Image.open(path).convert("RGB") for path in sorted(folder.iterdir())[:3]]
    assert count_distinct([*parts, *(part.rotate(30, Image.Resampling.BICUBIC) for part in parts)]) == 3


def test_different_parts_in_one_fixture_are_no_copies() -> None:
    assert count_distinct([draw_part(seed) for seed in range(12)]) == 12


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**16), st.floats(-180, 180), st.booleans(), st.floats(0.6, 1.2))
def test_whatever_made_it(seed: int, angle: float, is_mirrored: bool, light: float) -> None:
    parts = [draw_part(seed + index) for index in range(3)]
    copy = ImageEnhance.Brightness(parts[1]).enhance(light)
    copy = copy.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if is_mirrored else copy
    turned = copy.rotate(angle, Image.Resampling.BILINEAR, fillcolor=copy.getpixel((0, 0)))
    assert leave_out_copies([*parts, turned]) == parts


def test_a_burst_shows_one_part() -> None:
    assert count_distinct([take_again(draw_part(0), frame) for frame in range(8)]) == 1
    assert "one part" in describe_near_copies(8, 1)[0]


def test_plain_images_are_not_taken_for_each_other() -> None:
    assert count_distinct([Image.new("RGB", SIZE, (level, level, level)) for level in (60, 90, 120)]) == 3


def test_how_many_count() -> None:
    assert describe_near_copies(8, 8) == []
    assert "8 of your 16" in describe_near_copies(16, 8)[0]


def test_equal_files_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_part(0).save(tmp_path / "0.png")
    draw_part(1).save(tmp_path / "1.png")
    (tmp_path / "0-checkpoint.png").write_bytes((tmp_path / "0.png").read_bytes())
    from anomalib_fbclip.data import near_copies

    read = []
    read_reduced = near_copies.read_reduced
    monkeypatch.setattr(near_copies, "read_reduced", lambda path, **how: read.append(path) or read_reduced(path, **how))
    kept = leave_out_copies(sorted(tmp_path.iterdir()))
    assert kept == [tmp_path / "0.png", tmp_path / "1.png"]
    assert sorted(read) == kept


def test_a_file_is_the_same_as_the_one_that_a_product_keeps(tmp_path: Path) -> None:
    """Even if it is plain, so that nothing can be aligned."""
    path, other = tmp_path / "plain.png", tmp_path / "other.png"
    Image.new("RGB", SIZE, (90, 90, 90)).save(path)
    Image.new("RGB", SIZE, (120, 120, 120)).save(other)
    kept = KeptPhotograph("plain.png", path.read_bytes(), path.stat().st_size, digest_file(path))
    assert leave_out_copies([kept, path, other]) == [kept, other]


def test_the_original_has_the_shortest_name(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        part = draw_part(ord(name))
        part.save(tmp_path / f"{name}.png")
        part.rotate(90, expand=True).save(tmp_path / f"{name}-turned.png")
        ImageEnhance.Brightness(part).enhance(1.2).save(tmp_path / f"1-brighter-{name}.png")
    assert [path.name for path in leave_out_copies(sorted(tmp_path.iterdir()))] == ["a.png", "b.png", "c.png"]


def test_one_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "part.png").write_bytes(b"nothing")
    with pytest.raises(ImageError, match=r"part\.png"):
        leave_out_copies([tmp_path / "part.png"])
