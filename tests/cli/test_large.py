# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Photographs that are much larger than the model's input, and what becomes of folders of many."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomalib_fbclip.cli.inspection import choose_enough
from anomalib_fbclip.results.pictures import MAX_SIDE
from support.parts import Run, draw_part


def read_rows(output: str) -> list[dict]:
    return [json.loads(line) for line in output.splitlines()]


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_the_answer_is_that_of_the_whole_photograph(suffix: str, tmp_path: Path, fbclip: Run) -> None:
    """Within 0.01, with regions in its own pixels; its picture is as large as any."""
    part = draw_part(11, defective=True).resize((4200, 3000), Image.Resampling.BICUBIC)
    noise = np.random.default_rng(0).normal(0, 8, (3000, 4200, 1))
    part = Image.fromarray((np.asarray(part) + noise).clip(0, 255).astype(np.uint8))
    part.save(tmp_path / f"large.{suffix}")
    options = [f"large.{suffix}", "--threshold", "0", "--pixel-threshold", "0.1", "--json"]
    (reduced,), (whole,) = (read_rows(fbclip(*options, *more).stdout) for more in ([], ["--full-size"]))
    assert reduced["score"] == pytest.approx(whole["score"], abs=1e-2)
    assert reduced["anomaly_map_max"] == pytest.approx(whole["anomaly_map_max"], abs=1e-2)
    assert [(row["width"], row["height"]) for row in (reduced, whole)] == [(4200, 3000)] * 2
    boxes = [np.array(row["regions"][0]["box"]) for row in (reduced, whole)]
    assert np.abs(boxes[0] - boxes[1]).max() <= 4200 / 224 * 2
    for row in (reduced, whole):
        with Image.open(tmp_path / row["picture"]) as picture:
            assert max(picture.size) == MAX_SIDE


@pytest.mark.parametrize("input_side", [224, 518, 1400])
def test_what_is_enough(input_side: int) -> None:
    longer, shorter = choose_enough((input_side, 14))
    assert longer >= MAX_SIDE
    assert longer >= shorter >= 2 * input_side


def test_the_whole_size_for_a_model_of_unknown_input() -> None:
    assert choose_enough(None) is None


def test_the_table_keeps_the_order(tmp_path: Path, fbclip: Run) -> None:
    """Also around photographs that can't be read."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    for index in range(9):
        if index in {0, 3, 4, 8}:
            (folder / f"{index}.png").write_bytes(b"nothing of the kind")
        else:
            draw_part(index).save(folder / f"{index}.png")
    rows = read_rows(fbclip("photographs", "--json").stdout)
    assert [Path(row["path"]).stem for row in rows] == [str(index) for index in range(9)]
    assert [index for index, row in enumerate(rows) if row["error"]] == [0, 3, 4, 8]
    pictures = {path.name for path in (tmp_path / "fbclip-results/v0/images").iterdir()}
    assert pictures == {f"{index}.png.jpg" for index in (1, 2, 5, 6, 7)}
