# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Verdicts with near copies among the good photographs are those without."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, ImageEnhance

from anomalib_fbclip.__main__ import main

DECIDE = Path(__file__).parents[3] / "shared" / "data" / "decide" / "toy_alien"

COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "saved once more": lambda image: image,
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.8),
    "turned": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
}


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
def inspect(tmp_path_factory: pytest.TempPathFactory, good: Path) -> Callable[[Path], dict[str, float]]:
    photographs = tmp_path_factory.mktemp("photographs")
    for kind in ("good", "anomaly"):
        for path in sorted((DECIDE / "test" / kind).iterdir())[:3]:
            Image.open(path).convert("RGB").save(photographs / f"{kind}-{path.stem}.png")

    def run(folder: Path) -> dict[str, float]:
        output = tmp_path_factory.mktemp("output")
        assert main([str(photographs), "--good", str(folder), "--output", str(output)]) in {0, 1}
        lines = (output / "v0" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
        return {row["path"]: row["score"] for row in map(json.loads, lines)}

    return run


@pytest.fixture(scope="module")
def scores(inspect: Callable[[Path], dict[str, float]], good: Path) -> dict[str, float]:
    return inspect(good)


@pytest.mark.slow
@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
def test_verdicts_stay(
    make: Callable[[Image.Image], Image.Image],
    good: Path,
    inspect: Callable[[Path], dict[str, float]],
    scores: dict[str, float],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for path in good.iterdir():
        with Image.open(path) as image:
            image.save(tmp_path / path.name)
            make(image).save(tmp_path / f"{path.stem}-copy.jpg", quality=92)
    assert inspect(tmp_path) == pytest.approx(scores, abs=0.02)
    assert "4 of your 8 good photographs are near copies" in capsys.readouterr().out
