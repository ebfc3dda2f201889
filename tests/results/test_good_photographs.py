# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Photographs and good ones that do not belong together."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomalib_fbclip.results.good_photographs import (
    describe_colors,
    describe_inspected_references,
    describe_swap,
    find_copies,
)


def write(path: Path, mode: str) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).convert("RGB" if mode == "L" and path.suffix == ".jpg" else mode).save(path)
    return path


@pytest.fixture
def gray(tmp_path: Path) -> list[Path]:
    """Of one channel, and of three that are alike."""
    return [write(tmp_path / "one.png", "L"), write(tmp_path / "three.jpg", "L")]


@pytest.fixture
def colored(tmp_path: Path) -> list[Path]:
    return [write(tmp_path / "colored.png", "RGB"), write(tmp_path / "colored.jpg", "RGB")]


def test_gray_against_color(gray: list[Path], colored: list[Path]) -> None:
    (line,) = describe_colors(Counter({True: 6, False: 1}), colored)
    assert line.startswith("Gray, while the good photographs are in color: 6 of 7.")
    (line,) = describe_colors(Counter({False: 6}), gray)
    assert line.startswith("In color, while the good photographs are gray: 6 of 6.")


def test_no_word_where_the_good_ones_have_both_or_the_same(gray: list[Path], colored: list[Path]) -> None:
    assert not describe_colors(Counter({True: 6, False: 6}), gray + colored)
    assert not describe_colors(Counter({True: 6}), gray)
    assert not describe_colors(Counter({False: 6}), colored)
    assert not describe_colors(Counter({False: 6}), [])


def test_swapped_folders() -> None:
    good = [0.3, 0.4, 0.45, 0.5, 0.55, 0.6]
    inspected = [0.1, 0.15, 0.2, 0.35]
    (line,) = describe_swap(inspected, good, is_all_normal=True)
    assert "swapped" in line
    assert not describe_swap(inspected, good, is_all_normal=False)
    assert not describe_swap(inspected, good[:4], is_all_normal=True)
    assert not describe_swap(inspected[:3], good, is_all_normal=True)
    assert not describe_swap([0.1, 0.35, 0.4, 0.45], good, is_all_normal=True)


def test_the_same_photographs() -> None:
    copies = {Path("a"): Path("good/a")}
    assert "good ones: 1 of 5." in describe_inspected_references(copies, 5)[0]
    assert "good ones: 1." in describe_inspected_references(copies, None)[0]
    assert not describe_inspected_references({}, 1)


def test_copies_are_found_by_content(tmp_path: Path) -> None:
    """Whatever they are called, and of files of one size only those that are equal."""
    for name, content in {"a": "one", "b": "two", "c": "one", "d": "three"}.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "link").symlink_to(tmp_path / "b")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    a, b, c, d, link, gone = (tmp_path / name for name in ("a", "b", "c", "d", "link", "gone"))
    assert find_copies([a, c, d, link, gone, b], [c, b, gone]) == {a: c, c: c, link: b, b: b}
