# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The command, and what it writes."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anomalib_fbclip.edge import EdgeInferencer, draw_overlay
from anomalib_fbclip.edge.__main__ import main
from support.graphs import only_of_width, write_graph

Run = Callable[..., int]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_graph(tmp_path / "model.xml", metadata={"backbone": "fbclip-nano"})


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "output" / "of today"


@pytest.fixture
def run(model: Path, photographs: Path, output: Path) -> Run:
    """Runs the command on the photographs."""

    def run_command(*options: str, model: Path = model, images: Path = photographs, output: Path = output) -> int:
        return main([str(model), str(images), "--output", str(output), *options])

    return run_command


def read_lines(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_folder(run: Run, model: Path, photographs: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--device", "CPU") == 0
    overlays = {"1.jpg.png", "2.png.png", "more/1.jpg.png", "more/3.PNG.png"}
    assert files(output) == {"predictions.jsonl", *overlays}
    assert {path.name for path in output.iterdir()} == {"predictions.jsonl", "1.jpg.png", "2.png.png", "more"}

    inferencer = EdgeInferencer(model)
    lines = read_lines(output)
    assert [Path(line["path"]).relative_to(photographs).as_posix() for line in lines] == [
        "1.jpg",
        "2.png",
        "more/1.jpg",
        "more/3.PNG",
    ]
    for line in lines:
        prediction = inferencer.predict(line["path"])
        assert line["score"] == pytest.approx(prediction.score)
        assert line["is_anomalous"] is prediction.is_anomalous
        assert line["threshold"] is line["pixel_threshold"] is None
        assert line["anomaly_map_max"] == pytest.approx(prediction.anomaly_map.max())
        assert line["anomalous_area"] == pytest.approx(prediction.mask.mean())
        assert line["seconds"] > 0
        assert np.array_equal(np.array(Image.open(line["overlay"])), np.array(draw_overlay(prediction)))
    assert [line["is_anomalous"] for line in lines] == [False, True, False, True]

    screen = capsys.readouterr()
    first, *results, last = screen.out.splitlines()
    assert "backbone fbclip-nano" in first
    assert "on CPU" in first
    assert results == [
        f"{line['path']}  {line['score']:.3f}  {'anomalous' if line['is_anomalous'] else 'normal'}" for line in lines
    ]
    assert last == f"4 images, 2 anomalous, 2 normal: {output / 'predictions.jsonl'}"
    assert not screen.err


def test_one_image(run: Run, photographs: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(images=photographs / "more" / "3.PNG") == 0
    assert files(output) == {"predictions.jsonl", "3.PNG.png"}
    assert "\n1 image, 1 anomalous, 0 normal: " in capsys.readouterr().out


@pytest.mark.usefixtures("without_openvino")
def test_onnx_runtime(run: Run, tmp_path: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(model=write_graph(tmp_path / "model.onnx")) == 0
    assert [line["is_anomalous"] for line in read_lines(output)] == [False, True, False, True]
    assert "ONNX Runtime" in capsys.readouterr().out.splitlines()[0]


def test_thresholds(run: Run, output: Path) -> None:
    assert run("--threshold", "0.125", "--pixel_threshold", "0.875") == 0
    for line in read_lines(output):
        assert line["is_anomalous"] is True
        assert (line["threshold"], line["pixel_threshold"]) == (0.125, 0.875)
        assert line["anomalous_area"] == 0


def test_thresholds_that_the_file_names(run: Run, tmp_path: Path, output: Path) -> None:
    metadata = {"score_threshold": "0.5", "map_threshold": "0.25"}
    assert run("--threshold", "0.125", model=write_graph(tmp_path / "named.xml", metadata=metadata)) == 0
    assert {(line["threshold"], line["pixel_threshold"]) for line in read_lines(output)} == {(0.125, 0.25)}


def test_images_of_one_name_do_not_overwrite_each_other(run: Run, photographs: Path, output: Path) -> None:
    Image.new("RGB", (30, 20)).save(photographs / "1.png")
    assert run() == 0
    assert Image.open(output / "1.png.png").size == (30, 20)
    assert Image.open(output / "1.jpg.png").size == (60, 40)


def test_an_image_that_can_not_be_read(
    run: Run, photographs: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = (photographs / "2.png").read_bytes()
    (photographs / "2.png").write_bytes(content[: len(content) // 2])
    assert run() == 1
    lines = read_lines(output)
    assert [("error" in line, Path(line["path"]).name) for line in lines] == [
        (False, "1.jpg"),
        (True, "2.png"),
        (False, "1.jpg"),
        (False, "3.PNG"),
    ]
    assert files(output) == {"predictions.jsonl", "1.jpg.png", "more/1.jpg.png", "more/3.PNG.png"}
    screen = capsys.readouterr()
    assert screen.err.startswith(f"error: {photographs / '2.png'} can't be read as an image: ")
    assert screen.err.count("\n") == 1
    assert "4 images, 1 anomalous, 2 normal, 1 failed: " in screen.out


def test_results_of_an_earlier_run_are_replaced(run: Run, photographs: Path, output: Path) -> None:
    assert run() == 0
    assert run(images=photographs / "more") == 0
    assert len(read_lines(output)) == 2


def test_an_output_folder_among_the_images_is_passed_over(run: Run, photographs: Path) -> None:
    for _ in range(2):
        assert run(output=photographs / "output") == 0
        assert len(read_lines(photographs / "output")) == 4


class TestItCanNotBegin:
    @pytest.fixture(autouse=True)
    def _nothing_is_written(self, output: Path, capsys: pytest.CaptureFixture[str]) -> Any:
        self.capsys = capsys
        yield
        assert not output.exists()

    def check(self, exit_code: int, message: str) -> None:
        screen = self.capsys.readouterr()
        assert exit_code == 2
        assert message in screen.err
        assert screen.err.startswith("error: ")
        assert screen.err.count("\n") == 1
        assert not screen.out

    def test_no_model(self, run: Run, tmp_path: Path) -> None:
        self.check(run(model=tmp_path / "missing.xml"), "missing.xml does not exist")

    def test_a_truncated_model(self, run: Run, model: Path) -> None:
        model.write_bytes(model.read_bytes()[:1000])
        self.check(run(), "model.xml can't be read as a model")

    def test_no_such_device(self, run: Run) -> None:
        self.check(run("--device", "TOASTER"), "Device TOASTER can't be used on this machine: give one of AUTO, CPU")

    def test_no_images(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        self.check(run(images=tmp_path / "empty"), "empty has no images")
        self.check(run(images=tmp_path / "missing"), "missing does not exist")

    def test_the_output_is_the_folder_of_the_images(self, run: Run, photographs: Path) -> None:
        before = files(photographs)
        self.check(run(output=photographs), "give another folder as --output")
        assert files(photographs) == before

    def test_the_output_is_no_folder(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("content")
        self.check(run(output=tmp_path / "file"), "file can't be written to: File exists.")
        self.check(run(output=tmp_path / "file" / "folder"), "can't be written to: Not a directory.")

    @pytest.mark.parametrize(
        "options",
        [["--threshold", "nan"], ["--threshold", "high"], ["--pixel_threshold", "inf"], ["--confidence", "1"]],
    )
    def test_wrong_use(self, run: Run, options: list[str]) -> None:
        with pytest.raises(SystemExit) as error:
            run(*options)
        assert error.value.code == 2


class TestItHasToStop:
    def test_the_model_fails(self, run: Run, tmp_path: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(model=write_graph(tmp_path / "wide.xml", only_of_width(7))) == 2
        assert capsys.readouterr().err.startswith("error: The model failed on an image of 60 x ")
        assert files(output) == set()

    def test_interrupted(
        self, run: Run, output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        drawn = []

        def draw_one(prediction: object) -> Image.Image:
            if drawn:
                raise KeyboardInterrupt
            drawn.append(prediction)
            return Image.new("RGB", (4, 4))

        monkeypatch.setattr("anomalib_fbclip.edge.__main__.draw_overlay", draw_one)
        assert run() == 130
        assert {path.name for path in output.iterdir()} == {"1.jpg.png"}
        assert capsys.readouterr().err == "interrupted\n"

    def test_no_space(self, model: Path, photographs: Path, output: Path) -> None:
        """A limit on the size of files takes the place of a full disk: the first picture fits, the second does not."""

        def limit() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

        noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
        Image.fromarray(noise).save(photographs / "2.png")
        result = subprocess.run(
            [sys.executable, "-m", "anomalib_fbclip.edge", model, photographs, "--output", output, "--device", "CPU"],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            preexec_fn=limit,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 2
        assert result.stderr.startswith("error: stopped, because the results can't be written: ")
        assert "File too large" in result.stderr
        assert result.stderr.count("\n") == 1
        assert {path.name for path in output.iterdir()} == {"1.jpg.png"}


class TestProgress:
    @pytest.fixture(autouse=True)
    def _clock(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let every image take three seconds."""
        seconds = iter(range(0, 1000, 3))
        monkeypatch.setattr(time, "monotonic", lambda: next(seconds))

    def test_in_a_log(self, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
        assert run() == 0
        assert capsys.readouterr().err.splitlines() == [f"{done} of 4 images, 0.3 a second" for done in (1, 2, 3)]

    def test_on_a_screen(self, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        assert run() == 0
        status = "1 of 4 images, 0.3 a second"
        blank = f"\r{' ' * len(status)}\r"
        expected = "".join(f"{done} of 4 images, 0.3 a second{blank}" for done in (1, 2, 3))
        assert capsys.readouterr().err == expected


def test_names_that_the_screen_can_not_show(run: Run, photographs: Path, output: Path) -> None:
    name = os.fsencode(photographs) + b"/\xff\xfe.png"
    Path(os.fsdecode(name)).write_bytes((photographs / "2.png").read_bytes())
    environment = {**os.environ, "PYTHONIOENCODING": "ascii:strict", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "anomalib_fbclip.edge", str(photographs.parent / "model.xml"), str(photographs)]
    result = subprocess.run(
        [*command, "--output", str(output)], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert os.fsdecode(name) in {line["path"] for line in read_lines(output)}
