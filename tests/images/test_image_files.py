# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Tests of which files are images, and of what is said of the others."""

import io
import os
from pathlib import Path

import pytest
from PIL import Image

from anomalib_fbclip.errors import ImageError
from anomalib_fbclip.images.image_files import find_images
from anomalib_fbclip.images.photographs import read_photograph


def write(path: Path, content: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def encode(kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(file, kind)
    return file.getvalue()


def names(folder: Path, *excluded: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in find_images(folder, *excluded)]


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of folders that can't be read, whoever runs the tests."""

    def refuse(function):
        def call(path, *arguments):
            if Path(path).name == "locked":
                raise PermissionError(13, "Permission denied", str(path))
            return function(path, *arguments)

        return call

    for name in ("scandir", "listdir"):
        monkeypatch.setattr(os, name, refuse(getattr(os, name)))
    return "locked"


def test_images_by_name(tmp_path: Path) -> None:
    """Those that can't be read, too, so that whoever reads them is told."""
    there = ["1.jpg", "2.PNG", "4.gif", "6.cr2", "7.jp2", "8.jfif", "more/3.tiff", "more/5.HEIC", "more/clip.MP4"]
    for name in [*there, "notes.txt", "table.csv", "empty"]:
        write(tmp_path / name)
    (tmp_path / "folder.png").mkdir()
    assert names(tmp_path) == there


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP"])
def test_images_by_content(tmp_path: Path, kind: str) -> None:
    for name in ("IMG_0001", "part.jpg.bak", "part.mp4"):
        write(tmp_path / name, encode(kind))
    assert names(tmp_path) == ["IMG_0001", "part.jpg.bak", "part.mp4"]
    for path in find_images(tmp_path):
        assert read_photograph(path, upright=True).shape == (16, 16, 3)


def test_what_programs_keep_beside_photographs(tmp_path: Path) -> None:
    for name in ("._1.jpg", ".ipynb_checkpoints/1-checkpoint.jpg", "__MACOSX/1.jpg", "1.jpg", ".hidden.jpg"):
        write(tmp_path / name)
    assert names(tmp_path) == [".hidden.jpg", "1.jpg"]


def test_folders_that_are_passed_over(tmp_path: Path) -> None:
    for name in ("1.png", "good/1.png", "out/1.png.png"):
        write(tmp_path / name)
    assert names(tmp_path, tmp_path / "out", tmp_path / "good") == ["1.png"]
    assert names(tmp_path / "out", tmp_path) == ["1.png.png"]


def test_one_image_whatever_its_name(tmp_path: Path) -> None:
    path = write(tmp_path / "image")
    assert find_images(path) == [path]


class TestWhatCanNotBeReached:
    def test_a_folder_in_the_folder(self, tmp_path: Path, locked: str) -> None:
        write(tmp_path / "1.png")
        write(tmp_path / locked / "2.png")
        assert names(tmp_path) == ["1.png", "locked"]
        with pytest.raises(ImageError, match="locked can't be read: ") as error:
            read_photograph(tmp_path / locked, upright=True)
        assert "PNG or JPEG" not in str(error.value)

    def test_the_folder_itself(self, tmp_path: Path, locked: str) -> None:
        (tmp_path / locked).mkdir()
        with pytest.raises(ImageError, match=r"locked.*Permission denied"):
            find_images(tmp_path / locked)

    def test_links_to_nothing(self, tmp_path: Path) -> None:
        for name in ("1.jpg", "folder", "notes.txt"):
            (tmp_path / name).symlink_to("nowhere")
        (tmp_path / "loop.png").symlink_to("loop.png")
        assert names(tmp_path) == ["1.jpg", "folder", "loop.png"]

    def test_a_file_whose_content_can_not_be_looked_at(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("IMG_0001", "notes.bak"):
            write(tmp_path / name)

        def refuse(path: Path, *_: object) -> None:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(Path, "open", refuse)
        assert names(tmp_path) == ["IMG_0001", "notes.bak"]

    def test_a_pipe_is_not_waited_for(self, tmp_path: Path) -> None:
        for name in ("pipe", "pipe.jpg"):
            os.mkfifo(tmp_path / name)
        assert names(tmp_path) == []


def test_linked_folders_once(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere/1.png")
    folder = tmp_path / "photographs"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / name).symlink_to(tmp_path / "elsewhere")
    (folder / "c").symlink_to(folder)
    write(folder / "2.png")
    assert names(folder) == ["2.png", "a/1.png"]
