# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The command without good photographs."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from anomalib_fbclip.cli.packaged import PHOTOGRAPHS
from support.parts import Run, draw_part


def write_parts(folder: Path, good: int, defective: int) -> None:
    for seed in range(good):
        draw_part(seed).save(folder / f"good {seed:02}.png")
    for seed in range(defective):
        draw_part(50 + seed, defective=True).save(folder / f"spot {seed:02}.png")


def write_hazelnuts(folder: Path) -> None:
    for path in sorted((PHOTOGRAPHS / "good").iterdir()):
        shutil.copy(path, folder)


def write_two_products(folder: Path) -> None:
    write_parts(folder, good=8, defective=0)
    write_hazelnuts(folder)


def write_defective_hazelnuts(folder: Path) -> None:
    for number, path in enumerate(sorted((PHOTOGRAPHS / "good").iterdir())):
        with Image.open(path) as image:
            left, top = 80 + 5 * number, 110 - 4 * number
            ImageDraw.Draw(image).ellipse((left, top, left + 25, top + 20), "black")
            image.save(folder / path.name)


def write_one_part(folder: Path) -> None:
    write_parts(folder, good=3, defective=0)
    for number in range(8):
        shutil.copy(folder / "good 00.png", folder / f"copy {number}.png")


def write_damage(folder: Path) -> None:
    for number in range(9):
        (folder / f"{number}.png").write_bytes(b"no image")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "parts"
    folder.mkdir()
    return folder


def test_the_odd_one_stands_out(tmp_path: Path, folder: Path, fbclip: Run) -> None:
    write_parts(folder, good=11, defective=1)
    result = fbclip("parts")
    assert (result.returncode, result.stderr) == (1, "")
    assert "12 photographs are compared with each other" in result.stdout
    assert "unreliable" not in result.stdout
    table = tmp_path / "fbclip-results" / "v0" / "predictions.jsonl"
    rows = {Path(row["path"]).name: row for row in map(json.loads, table.read_text(encoding="utf-8").splitlines())}
    assert max(rows, key=lambda name: rows[name]["score"]) == "spot 00.png"
    assert rows["spot 00.png"]["verdict"] == "anomalous"
    assert sum(row["verdict"] == "normal" for row in rows.values()) >= 9
    assert {row["threshold_source"] for row in rows.values()} == {"12 unlabeled photographs"}
    page = (tmp_path / "fbclip-results" / "v0" / "report.html").read_text(encoding="utf-8")
    assert "from: 12 unlabeled photographs" in page
    assert "good photographs" not in page.lower()


def test_weights_with_good_photographs_of_their_own(tmp_path: Path, folder: Path, fbclip: Run) -> None:
    write_parts(folder, good=8, defective=0)
    assert fbclip("teach", "parts", "--output", "part.fbclip").returncode == 0
    shutil.copy(tmp_path / "part.fbclip", tmp_path / "part.safetensors")
    result = fbclip("parts", "--weights", "part.safetensors", "--threshold", "0.99")
    assert (result.returncode, result.stderr) == (0, "")
    assert "compared with each other" not in result.stdout
    assert "stands out" not in result.stdout
    assert "unlabeled" not in (tmp_path / "fbclip-results" / "v0" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("options", [["--alone"], ["--threshold", "0.3", "--alone"]], ids=["alone", "threshold"])
def test_alone(folder: Path, fbclip: Run, options: list[str]) -> None:
    write_parts(folder, good=8, defective=0)
    result = fbclip("parts", *options)
    assert "each other" not in result.stdout
    assert ("unreliable" in result.stdout) == (options == ["--alone"])


@pytest.mark.parametrize(
    ("write", "said", "is_compared"),
    [
        (lambda folder: write_parts(folder, good=5, defective=0), "unreliable", False),
        (write_hazelnuts, "No photograph stands out", True),
        (write_defective_hazelnuts, "No photograph stands out", True),
        (write_two_products, "different things", False),
        (write_one_part, "not copies", False),
        (write_damage, "0 of the 9 photographs can be read", False),
    ],
    ids=["five", "good ones", "defective ones", "two products", "one part", "damage"],
)
def test_what_is_said(folder: Path, fbclip: Run, write: Callable[[Path], None], said: str, is_compared: bool) -> None:
    write(folder)
    result = fbclip("parts")
    assert said in result.stdout
    assert ("are compared with each other" in result.stdout) == is_compared


def test_not_beside_good_ones(folder: Path, fbclip: Run) -> None:
    write_parts(folder, good=8, defective=0)
    result = fbclip("parts", "--alone", "--good", "parts")
    assert result.returncode == 2
    assert "--alone" in result.stderr
