# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""What comes with the package: photographs to try the command on, and the files of ``configs``.

``test_readme.py`` inspects and tests the photographs.
"""

import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomalib_fbclip.cli.packaged import PHOTOGRAPHS, describe_missing
from support.command_line import CONFIGS, fbclip_to_full_disk
from support.parts import Run

STAINED = sorted(PHOTOGRAPHS.glob("photographs/stained/*.jpg"))

NAMES = [path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("*.yaml")]


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_photographs_are_written(tmp_path: Path, fbclip: Run) -> None:
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


def test_photographs_are_small() -> None:
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


def test_configs_are_listed(fbclip: Run) -> None:
    result = fbclip("configs")
    assert (result.returncode, result.stderr) == (0, "")
    *lines, blank, how = result.stdout.splitlines()
    assert sorted(line.split()[0] for line in lines) == sorted(NAMES)
    assert "/" not in lines[0].split()[0]
    assert "quickstart                       Find stains on hazelnuts" in result.stdout
    assert (blank, how) == ("", "Save one: fbclip configs quickstart > mine.yaml")


@pytest.mark.parametrize("name", ["quickstart", "data/visa"])
def test_a_config_is_printed(name: str, fbclip: Run) -> None:
    result = fbclip("configs", name)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["quick", "../pyproject", "data"])
def test_no_such_config(name: str, fbclip: Run) -> None:
    result = fbclip("configs", name)
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: there is no config file '{name}': choose one of export, few_shot, ")
    assert all(known in line for known in NAMES)


@pytest.mark.parametrize("option", [["--data", "configs/data/visa.yaml"], ["--data=data/visa.yaml"]])
def test_a_config_that_is_not_here(option: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    line = describe_missing(option)
    assert line is not None
    assert "fbclip configs data/visa > visa.yaml" in line
    assert describe_missing(["--data", "configs/mine.yaml", "--data", str(CONFIGS / "data/visa.yaml")]) is None


def test_two_configs(fbclip: Run) -> None:
    result = fbclip("configs", "export", "predict")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: unrecognized arguments: predict. See fbclip configs --help.\n"


def test_a_folder_called_configs(tmp_path: Path, photographs: Path, fbclip: Run) -> None:
    """It is inspected if it is written as a path."""
    photographs.rename(tmp_path / "configs")
    assert "2 photographs" not in fbclip("configs").stdout
    assert "6 photographs" in fbclip("./configs").stdout


def test_full_output(tmp_path: Path) -> None:
    result = fbclip_to_full_disk(tmp_path, "configs")
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
