# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""``fbclip --model``: what an exported model says, in the table and on the screen."""

import csv
import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from PIL import Image

from anomalib_fbclip.__main__ import main
from anomalib_fbclip.exported import EdgeInferencer
from anomalib_fbclip.results.records import Record, RecordWriter
from support.command_line import environment
from support.graphs import only_of_width, write_graph
from support.parts import draw_part
from support.photographs import store, store_in_12_bits
from support.schema import read_schema

Inspect = Callable[..., int]

PARTS = {"fine.png": False, "more/fine.jpg": False, "more/spot.PNG": True, "spot.png": True}
"""Photographs by their names, in the order of the table, and whether they are defective."""


@pytest.fixture(autouse=True)
def photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the command is run has a folder with photographs, and one in that."""
    monkeypatch.chdir(tmp_path)
    folder = Path("photographs")
    (folder / "more").mkdir(parents=True)
    for name, defective in PARTS.items():
        draw_part(0, defective=defective).save(folder / name)
    return folder


@pytest.fixture
def model() -> Path:
    return write_graph(Path("model.xml"), metadata={"backbone": "fbclip-small"})


@pytest.fixture
def inspect(model: Path) -> Inspect:
    """Runs the command on the photographs."""

    def run(*options: str, model: Path = model, photographs: str = "photographs") -> int:
        return main([photographs, "--model", str(model), "--device", "CPU", *options])

    return run


def read_rows(folder: Path = Path("fbclip-results/latest")) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    for row in rows:
        jsonschema.validate(row, read_schema())
    return rows


@pytest.mark.parametrize("knows", [True, False], ids=["from the file", "from the option"])
def test_white_level(inspect: Inspect, tmp_path: Path, photographs: Path, knows: bool) -> None:
    (photographs / "more" / "fine.jpg").unlink()
    (photographs / "more" / "spot.PNG").unlink()
    assert inspect() == 1
    usual = read_rows()
    store_in_12_bits(photographs)
    assert inspect() == 2
    knowing = write_graph(tmp_path / "knowing.xml", metadata={"white_level": "4095"})
    assert (inspect(model=knowing) if knows else inspect("--white-level", "4095")) == 1
    assert [row["score"] for row in read_rows()] == [row["score"] for row in usual]
    assert inspect("--white-level", "65535", model=knowing) == 0  # the option overrides the file
    assert [row["score"] for row in read_rows()] != [row["score"] for row in usual]


def test_the_rows_are_what_the_model_says(inspect: Inspect, model: Path) -> None:
    assert inspect() == 1
    inferencer = EdgeInferencer(model)
    rows = read_rows()
    assert [row["path"] for row in rows] == [f"photographs/{name}" for name in PARTS]
    for row, defective in zip(rows, PARTS.values(), strict=True):
        prediction = inferencer.predict(row["path"])
        assert row["score"] == pytest.approx(prediction.score)
        assert row["verdict"] == ("anomalous" if defective else "normal")
        assert row["threshold"] is row["pixel_threshold"] is None
        assert row["threshold_source"] is row["pixel_threshold_source"] is None
        assert row["anomaly_map_max"] == pytest.approx(prediction.anomaly_map.max())
        assert row["regions"] == [region._asdict() | {"box": list(region.box)} for region in prediction.regions]
        assert (row["height"], row["width"]) == prediction.image.shape[:2]
        assert row["seconds"] > 0
        assert Image.open(row["picture"]).size == (140, 100)
    assert rows[3]["regions"] == [{"box": [50, 30, 90, 60], "area": 1200}]


def test_screen(inspect: Inspect, capsys: pytest.CaptureFixture[str]) -> None:
    """What runs the model is told: another device, another library or version may give other scores."""
    assert inspect() == 1
    screen = capsys.readouterr()
    first, *results, summary, _, _ = screen.out.splitlines()
    assert first.startswith("model.xml: fbclip-small, exported; computed by OpenVINO")
    assert first.endswith(" on CPU.")
    assert [line.split()[0] for line in results] == [row["verdict"] for row in read_rows()]
    assert summary == "4 photographs: 2 anomalous, 2 normal"
    assert not screen.err


@pytest.mark.parametrize("source", ["default", "labels"])
def test_a_guess(inspect: Inspect, capsys: pytest.CaptureFixture[str], source: str) -> None:
    metadata = {"score_threshold": "0.5", "image_threshold_source": source}
    inspect(model=write_graph(Path("guess.xml"), metadata=metadata))
    assert ("unreliable" in capsys.readouterr().out) == (source == "default")


def test_onnx_runtime(inspect: Inspect, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    without = lambda name: None if name == "openvino" else find_spec(name)  # noqa: E731
    monkeypatch.setattr("anomalib_fbclip.exported.runtimes.find_spec", without)
    assert inspect(model=write_graph(Path("model.onnx"))) == 1
    assert [row["verdict"] == "anomalous" for row in read_rows()] == list(PARTS.values())
    assert "ONNX Runtime" in capsys.readouterr().out.splitlines()[0]


def test_thresholds(inspect: Inspect) -> None:
    assert inspect("--threshold", "0.125", "--pixel-threshold", "0.875") == 1
    for row in read_rows():
        assert row["verdict"] == "anomalous"
        assert (row["threshold"], row["pixel_threshold"]) == (0.125, 0.875)
        assert (row["threshold_source"], row["pixel_threshold_source"]) == ("given", "given")
        assert row["anomaly_map_max"] < 0.875
        assert len(row["regions"]) == 1


def test_thresholds_that_the_file_names(inspect: Inspect) -> None:
    metadata = {"score_threshold": "0.5", "map_threshold": "0.25"}
    assert inspect("--threshold", "0.9", model=write_graph(Path("named.xml"), metadata=metadata)) == 0
    rows = read_rows()
    assert {(row["threshold"], row["pixel_threshold"]) for row in rows} == {(0.9, 0.25)}
    sources = {(row["threshold_source"], row["pixel_threshold_source"]) for row in rows}
    assert sources == {("given", "exported file")}


def test_the_table_in_a_spreadsheet(inspect: Inspect, photographs: Path) -> None:
    (photographs / "spot.png").rename(photographs / "a, b\nc.png")
    assert inspect() == 1
    with Path("fbclip-results/v0/predictions.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    for row, line in zip(rows, read_rows(), strict=True):
        assert row["path"] == line["path"]
        assert row["verdict"] == line["verdict"]
        assert row["regions"] == str(len(line["regions"]))
    assert [row["left"] for row in rows] == ["50", "", "", "50"]
    assert Path(rows[0]["picture"]).is_file()


def test_photographs_of_one_name_have_a_picture_each(inspect: Inspect, photographs: Path) -> None:
    Image.new("RGB", (30, 20)).save(photographs / "spot.jpg")
    assert inspect() == 1
    assert len({row["picture"] for row in read_rows()}) == 5


def test_two_commands_at_once(model: Path) -> None:
    """Each has a folder of its own."""
    command = [sys.executable, "-m", "anomalib_fbclip", "photographs", "--model", model, "--threshold"]
    started = [subprocess.Popen([*command, threshold], env=environment()) for threshold in ("0.25", "0.5")]
    assert [process.wait() for process in started] == [1, 1]
    thresholds = [{row["threshold"] for row in read_rows(Path("fbclip-results") / name)} for name in ("v0", "v1")]
    assert sorted(map(sorted, thresholds)) == [[0.25], [0.5]]


def test_a_device_that_is_not_there(inspect: Inspect, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect("--device", "TOASTER") == 2
    assert "TOASTER is not available: give one of AUTO, CPU" in capsys.readouterr().err


def test_a_model_that_fails(inspect: Inspect, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect(model=write_graph(Path("wide.xml"), only_of_width(7))) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: The model failed on an image of 140 x 100 pixels: ")
    assert read_rows() == []
    assert not list(Path("fbclip-results").rglob("*.jpg"))


def test_no_space_for_the_table(
    inspect: Inspect, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was written before is whole, and no picture is without its row."""
    write = RecordWriter.write

    def write_one(self: RecordWriter, record: Record) -> None:
        if read_rows(self.paths[0].parent):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, record)

    monkeypatch.setattr(RecordWriter, "write", write_one)
    assert inspect() == 2
    (row,) = read_rows()
    assert [path.as_posix() for path in Path("fbclip-results/v0").rglob("*.jpg")] == [row["picture"]]
    assert "can't be written ([Errno 28] No space left on device)" in capsys.readouterr().err


def test_names_that_the_screen_can_not_show(model: Path, photographs: Path) -> None:
    name = os.fsdecode(b"\xff\xfe.png")
    draw_part(0, defective=True).save(photographs / name)
    (photographs / "tab\t, ü.png").write_bytes(b"no image")
    result = subprocess.run(
        [sys.executable, "-m", "anomalib_fbclip", "photographs", "--model", model],
        env=environment() | {"PYTHONIOENCODING": "ascii:strict"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (2, "")
    rows = read_rows()
    assert {f"photographs/{name}", "photographs/tab\t, ü.png"} <= {row["path"] for row in rows}
    lines = result.stdout.splitlines()
    assert len(lines) == 1 + len(rows) + 3
    assert any(line.endswith(r"photographs/\udcff\udcfe.png") for line in lines)
    assert any(r"photographs/tab\t, \xfc.png can't be read as an image" in line for line in lines)


def test_photographs_of_a_phone_and_of_16_bits(inspect: Inspect) -> None:
    upright = np.full((20, 30, 3), 60, dtype=np.uint8)
    upright[3:6, 4:14] = 200
    folder = Path("others")
    folder.mkdir()
    for orientation in range(1, 9):
        stored, exif = store(upright, orientation)
        stored.save(folder / f"{orientation}.png", exif=exif)
    Image.fromarray(upright[..., 0].astype(np.uint16) * 257).save(folder / "9.tif")
    assert inspect(photographs="others") == 1
    rows = read_rows()
    assert len(rows) == 9
    for row in rows:
        assert row["score"] == pytest.approx(200 / 255)
        assert (row["width"], row["height"]) == (30, 20)
        assert row["regions"] == [{"box": [4, 3, 14, 6], "area": 30}]
        assert Image.open(row["picture"]).size == (30, 20)


def test_a_share_of_false_alarms(photographs: Path, capsys: pytest.CaptureFixture) -> None:
    """The file keeps the scores of its good photographs. Without, there is nothing to go by."""
    del photographs
    scores = [0.1 + index / 1000 for index in range(60)]
    model = write_graph(Path("kept.xml"), metadata={"backbone": "fbclip-small", "good_scores": json.dumps(scores)})
    assert main(["photographs", "--model", str(model), "--device", "CPU", "--max-false-alarms", "5%"]) in {0, 1}
    assert "Threshold 0.159: at most 5 % of good parts" in capsys.readouterr().out
    bare = write_graph(Path("bare.xml"), metadata={"backbone": "fbclip-small"})
    assert main(["photographs", "--model", str(bare), "--device", "CPU", "--max-false-alarms", "5%"]) == 2
    assert "contains no good photographs" in capsys.readouterr().err


def test_a_photograph_without_a_verdict_is_no_success(
    inspect: Inspect, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(EdgeInferencer, "results", lambda _, images: (image for image in [*images][:0]))
    assert inspect() == 2
    assert "no verdict on photographs/fine.png" in capsys.readouterr().err
