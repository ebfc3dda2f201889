# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""``fbclip example``: photographs to try the command on. ``test_readme.py`` inspects and tests them."""

import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomalib_fbclip.cli.example import PHOTOGRAPHS
from support.parts import Run

STAINED = sorted(PHOTOGRAPHS.glob("photographs/stained/*.jpg"))


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_are_written(tmp_path: Path, fbclip: Run) -> None:
    result = fbclip("example")
    assert (result.returncode, result.stderr) == (0, "")
    program, photographs, option, good = shlex.split(result.stdout.splitlines()[-1])
    assert (program, option) == ("fbclip", "--good")
    assert len(list((tmp_path / good).glob("*.jpg"))) == 8
    assert {path.name: len(list(path.glob("*.jpg"))) for path in (tmp_path / photographs).iterdir()} == {
        "good": 6,
        "stained": 6,
    }
    assert names(tmp_path) == sorted(["fbclip-example", *(f"fbclip-example/{name}" for name in names(PHOTOGRAPHS))])


def test_another_folder(tmp_path: Path, fbclip: Run) -> None:
    result = fbclip("example", "here/my hazelnuts")
    assert (tmp_path / shlex.split(result.stdout.splitlines()[-1])[-1]).is_dir()


def test_nothing_is_overwritten(tmp_path: Path, fbclip: Run) -> None:
    (tmp_path / "fbclip-example").mkdir()
    (tmp_path / "fbclip-example" / "mine.txt").touch()
    result = fbclip("example")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: fbclip-example exists already")
    assert names(tmp_path) == ["fbclip-example", "fbclip-example/mine.txt"]


def test_where_nothing_can_be_written(tmp_path: Path, fbclip: Run) -> None:
    (tmp_path / "file").touch()
    result = fbclip("example", "file/here")
    (line,) = result.stderr.splitlines()
    assert (result.returncode, result.stdout) == (2, "")
    assert line.startswith("error: the photographs can't be written to file/here")


def test_are_small() -> None:
    assert sum(path.stat().st_size for path in PHOTOGRAPHS.rglob("*") if path.is_file()) <= 1_500_000


@pytest.mark.parametrize("path", STAINED, ids=lambda path: path.stem)
def test_masks_cover_stains(path: Path) -> None:
    """Ink is darker than nuts and background, and no mask covers as much of it as the photograph's own."""
    green = np.asarray(Image.open(path), dtype=float)[..., 1]
    contrasts = {}
    for mask_path in (PHOTOGRAPHS / "masks").iterdir():
        mask = np.asarray(Image.open(mask_path))
        assert set(np.unique(mask)) == {0, 255}
        contrasts[mask_path.stem] = green[mask == 0].mean() - green[mask == 255].mean()
    assert max(contrasts, key=contrasts.__getitem__) == path.stem
