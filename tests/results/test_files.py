# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Tests of files that are complete or not there."""

import shutil
from pathlib import Path

import pytest

from anomalib_fbclip.results.files import find_missing, incomplete_folder, removing_on_error, replacing


def test_file_is_replaced_when_it_is_complete(tmp_path: Path) -> None:
    """Until then the old one stands; its folder is made, and nothing else is left."""
    path = tmp_path / "new" / "table.md"
    for content in ("first", "second"):
        with replacing(path) as temporary:
            assert temporary.name == path.name
            temporary.write_text(content)
            assert not path.exists() or path.read_text() == "first"
        assert path.read_text() == content
        assert list(path.parent.iterdir()) == [path]


def test_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    """A folder moves with all that is in it."""
    path = tmp_path / "category"
    with replacing(path) as temporary:
        temporary.mkdir()
        (temporary / "image.png").touch()
        assert not path.exists()
    assert [file.name for file in path.iterdir()] == ["image.png"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_nothing_changes_on_failure(tmp_path: Path, error: type[BaseException]) -> None:
    """An old file stays, and the half of a new one goes, after an interrupt too."""
    path = tmp_path / "table.md"
    path.write_text("old")

    def fail_halfway() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        fail_halfway()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_long_name(tmp_path: Path) -> None:
    """The longest name that a file can have is no obstacle."""
    path = tmp_path / ("n" * 255)
    with replacing(path) as temporary:
        temporary.touch()
    assert list(tmp_path.iterdir()) == [path]


def test_incomplete_folder(tmp_path: Path) -> None:
    """It is hidden, beside what will be complete, and gone at the end."""
    with incomplete_folder(tmp_path / "new") as folder:
        assert folder.parent == tmp_path / "new"
        assert folder.name.startswith(".")
        (folder / "left").touch()
    assert not list((tmp_path / "new").iterdir())


def test_interrupted_clearing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hidden folder is gone all the same."""
    remove, calls = shutil.rmtree, []

    def interrupted_once(folder: Path, **options: bool) -> None:
        calls.append(folder)
        if len(calls) == 1:
            raise KeyboardInterrupt
        remove(folder, **options)

    def write() -> None:
        with incomplete_folder(tmp_path) as folder:
            (folder / "picture.png").touch()

    monkeypatch.setattr(shutil, "rmtree", interrupted_once)
    with pytest.raises(KeyboardInterrupt):
        write()
    assert not list(tmp_path.iterdir())


def test_what_was_made_is_removed_after_an_error_but_not_what_has_something_in_it(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    folder = tmp_path / "there/a/b"
    missing = find_missing(folder)

    def fail() -> None:
        with removing_on_error(missing):
            (folder / "file").touch()
            raise KeyboardInterrupt

    folder.mkdir(parents=True)
    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.rglob("*")) == [tmp_path / "there"]
    folder.mkdir(parents=True)
    (tmp_path / "there/a/file").touch()
    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (tmp_path / "there/a/file").exists()
    assert not folder.exists()
