# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""``fbclip configs``: the files of ``configs``, for those who have no checkout."""

import subprocess
import sys
from pathlib import Path

import pytest

from anomalib_fbclip.cli.configs import describe_missing
from support.command_line import CONFIGS, environment
from support.parts import Run

NAMES = [path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("*.yaml")]


def test_list(fbclip: Run) -> None:
    result = fbclip("configs")
    assert (result.returncode, result.stderr) == (0, "")
    *lines, blank, how = result.stdout.splitlines()
    assert sorted(line.split()[0] for line in lines) == sorted(NAMES)
    assert "/" not in lines[0].split()[0]
    assert "quickstart                       Find stains on hazelnuts" in result.stdout
    assert (blank, how) == ("", "Save one: fbclip configs quickstart > mine.yaml")


@pytest.mark.parametrize("name", ["quickstart", "data/visa"])
def test_write_one(name: str, fbclip: Run) -> None:
    result = fbclip("configs", name)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["quick", "../pyproject", "data"])
def test_unknown_name(name: str, fbclip: Run) -> None:
    result = fbclip("configs", name)
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: there is no config file '{name}': choose one of export, few_shot, ")
    assert all(known in line for known in NAMES)


@pytest.mark.parametrize("option", [["--data", "configs/data/visa.yaml"], ["--data=data/visa.yaml"]])
def test_one_that_is_not_here(option: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    line = describe_missing(option)
    assert line is not None
    assert "fbclip configs data/visa > visa.yaml" in line
    assert describe_missing(["--data", "configs/mine.yaml", "--data", str(CONFIGS / "data/visa.yaml")]) is None


def test_two_names(fbclip: Run) -> None:
    result = fbclip("configs", "export", "predict")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: unrecognized arguments: predict. See fbclip configs --help.\n"


def test_a_folder_of_that_name(tmp_path: Path, photographs: Path, fbclip: Run) -> None:
    """It is inspected if it is written as a path."""
    photographs.rename(tmp_path / "configs")
    assert "2 photographs" not in fbclip("configs").stdout
    assert "6 photographs" in fbclip("./configs").stdout


def test_full_output(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        result = subprocess.run(
            [sys.executable, "-m", "anomalib_fbclip", "configs"],
            cwd=tmp_path,
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
