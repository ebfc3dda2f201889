# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Tests of which files are images, and of what is said of the others."""

from pathlib import Path

from anomalib_fbclip.contract.image_files import describe_skipped, find_images


def test_images_and_what_is_skipped(tmp_path: Path) -> None:
    names = ("1.jpg", "2.PNG", "more/3.tiff", "notes.txt", "table.csv", "4.gif", "more/5.HEIC", "6.cr2", "7.jp2")
    (tmp_path / "more").mkdir()
    for name in names:
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    images = [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)]
    assert images == ["1.jpg", "2.PNG", "more/3.tiff"]
    assert describe_skipped(tmp_path) == [
        f"{tmp_path}/4.gif was skipped: GIF files are not read. Save it as PNG or JPEG.",
        f"{tmp_path}/6.cr2 was skipped: camera raw files are not read. Save it as PNG or JPEG.",
        f"{tmp_path}/7.jp2 was skipped: JPEG 2000 files are not read. Save it as PNG or JPEG.",
        f"{tmp_path}/more/5.HEIC was skipped: HEIF files are not read. Save it as PNG or JPEG.",
    ]


def test_a_folder_that_is_passed_over(tmp_path: Path) -> None:
    for name in ("1.png", "out/1.png.png", "out/2.gif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert find_images(tmp_path, exclude=tmp_path / "out") == [tmp_path / "1.png"]
    assert describe_skipped(tmp_path, exclude=tmp_path / "out") == []


def test_one_image_whatever_its_suffix(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"")
    assert find_images(path) == [path]
    assert describe_skipped(path) == []


def test_a_name_of_two_lines(tmp_path: Path) -> None:
    (tmp_path / "two\nlines.gif").write_bytes(b"")
    (line,) = describe_skipped(tmp_path)
    assert r"two\nlines.gif was skipped" in line
    assert "\n" not in line
