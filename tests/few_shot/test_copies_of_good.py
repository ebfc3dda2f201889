# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Verdicts with near copies among the good photographs are those without."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, ImageEnhance

from anomalib_fbclip.__main__ import main

DECIDE = Path(__file__).parents[3] / "shared" / "data" / "decide" / "toy_alien"

COPIES: list[Callable[[Image.Image], Image.Image]] = [
    lambda image: image,  # saved once more
    lambda image: ImageEnhance.Brightness(image).enhance(0.8),
    lambda image: image.transpose(Image.Transpose.ROTATE_90),
    lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not DECIDE.is_dir():
        pytest.skip("the photographs of toys are not here")
    folder = tmp_path_factory.mktemp("toys") / "good"
    folder.mkdir()
    for path in sorted((DECIDE / "train" / "good").iterdir())[:4]:
        Image.open(path).convert("RGB").save(folder / f"{path.stem}.png")
    return folder


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    for kind in ("good", "anomaly"):
        for path in sorted((DECIDE / "test" / kind).iterdir())[:3]:
            Image.open(path).convert("RGB").save(folder / f"{kind}-{path.stem}.png")
    return folder


def inspect(photographs: Path, good: Path, output: Path) -> dict[str, float]:
    assert main([str(photographs), "--good", str(good), "--output", str(output)]) in {0, 1}
    lines = (output / "v0" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["path"]: row["score"] for row in map(json.loads, lines)}


@pytest.mark.slow
def test_verdicts_stay(good: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a copy of each, every one made in another way."""
    copies = shutil.copytree(good, tmp_path / "copies")
    for path, make in zip(sorted(good.iterdir()), COPIES, strict=True):
        with Image.open(path) as image:
            make(image).save(copies / f"{path.stem}-copy.jpg", quality=92)
    scores = inspect(photographs, good, tmp_path / "without")
    assert inspect(photographs, copies, tmp_path / "with") == pytest.approx(scores, abs=0.02)
    assert "4 of your 8 good photographs are near copies" in capsys.readouterr().out
