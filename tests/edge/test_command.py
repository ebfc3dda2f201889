# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The command, and what it writes."""

import csv
import errno
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

import jsonschema
import numpy as np
import pytest
from PIL import Image

from anomalib_fbclip.contract.records import Record, RecordWriter, read_schema
from anomalib_fbclip.edge import EdgeInferencer, draw_overlay
from anomalib_fbclip.edge.__main__ import main
from support.graphs import only_of_width, write_graph
from support.photographs import store

Run = Callable[..., int]

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
TABLE = {"predictions.csv", "predictions.jsonl"}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_graph(tmp_path / "model.xml", metadata={"backbone": "fbclip-small"})


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "output" / "of today"


@pytest.fixture
def run(model: Path, photographs: Path, output: Path) -> Run:
    """Runs the command on the photographs."""

    def run_command(*options: str, model: Path = model, images: Path = photographs, output: Path = output) -> int:
        return main([str(model), str(images), "--output", str(output), *options])

    return run_command


def command(model: Path, images: Path, output: Path, *options: str) -> list[str]:
    """The command as a user types it."""
    arguments = [str(model), str(images), "--output", str(output), "--device", "CPU", *options]
    return [sys.executable, "-m", "anomalib_fbclip.edge", *arguments]


def read_lines(output: Path) -> list[dict[str, Any]]:
    """Read the table, every line of which is complete and follows the schema."""
    text = (output / "predictions.jsonl").read_text()
    assert not text or text.endswith("\n")
    lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        jsonschema.validate(line, read_schema())
    with (output / "predictions.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        assert [row["path"] for row in csv.DictReader(file)] == [line["path"] for line in lines]
    return lines


def verdicts(output: Path) -> list[str]:
    return [line["verdict"] for line in read_lines(output)]


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_folder(run: Run, model: Path, photographs: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--device", "CPU") == 0
    pictures = {"1.jpg.png", "2.png.png", "more/1.jpg.png", "more/3.PNG.png"}
    assert files(output) == TABLE | pictures
    assert {path.name for path in output.iterdir()} == {*TABLE, "1.jpg.png", "2.png.png", "more"}

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
        assert line["verdict"] == ("anomalous" if prediction.is_anomalous else "normal")
        assert line["threshold"] is line["pixel_threshold"] is None
        assert line["threshold_source"] is line["pixel_threshold_source"] is None
        assert line["anomaly_map_max"] == pytest.approx(prediction.anomaly_map.max())
        assert line["regions"] == [region._asdict() | {"box": list(region.box)} for region in prediction.regions]
        assert (line["height"], line["width"]) == prediction.image.shape[:2]
        assert line["seconds"] > 0
        assert line["error"] is None
        assert np.array_equal(np.array(Image.open(line["picture"])), np.array(draw_overlay(prediction)))
    assert verdicts(output) == ["normal", "anomalous", "normal", "anomalous"]
    assert lines[1]["regions"] == [{"box": [20, 10, 40, 25], "area": 300}]

    screen = capsys.readouterr()
    first, *results, last = screen.out.splitlines()
    assert "backbone fbclip-small" in first
    assert "on CPU" in first
    assert results == [f"{line['path']}  {line['score']:.3f}  {line['verdict']}" for line in lines]
    assert last == f"4 images, 2 anomalous, 2 normal: {output / 'predictions.jsonl'}"
    assert not screen.err


@pytest.mark.parametrize("source", ["default", "labels"])
def test_a_guess(tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str], source: str) -> None:
    metadata = {"score_threshold": "0.5", "image_threshold_source": source}
    run(model=write_graph(tmp_path / "guess.xml", metadata=metadata))
    assert ("a guess" in capsys.readouterr().err) == (source == "default")


def test_one_image(run: Run, photographs: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(images=photographs / "more" / "3.PNG") == 0
    assert files(output) == {*TABLE, "3.PNG.png"}
    assert "\n1 image, 1 anomalous, 0 normal: " in capsys.readouterr().out


@pytest.mark.usefixtures("without_openvino")
def test_onnx_runtime(run: Run, tmp_path: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(model=write_graph(tmp_path / "model.onnx")) == 0
    assert verdicts(output) == ["normal", "anomalous", "normal", "anomalous"]
    assert "ONNX Runtime" in capsys.readouterr().out.splitlines()[0]


def test_thresholds(run: Run, output: Path) -> None:
    assert run("--threshold", "0.125", "--pixel_threshold", "0.875") == 0
    for line in read_lines(output):
        assert line["verdict"] == "anomalous"
        assert (line["threshold"], line["pixel_threshold"]) == (0.125, 0.875)
        assert (line["threshold_source"], line["pixel_threshold_source"]) == ("given", "given")
        assert line["anomaly_map_max"] < 0.875
        assert len(line["regions"]) == 1


def test_thresholds_that_the_file_names(run: Run, tmp_path: Path, output: Path) -> None:
    metadata = {"score_threshold": "0.5", "map_threshold": "0.25"}
    assert run("--threshold", "0.125", model=write_graph(tmp_path / "named.xml", metadata=metadata)) == 0
    lines = read_lines(output)
    assert {(line["threshold"], line["pixel_threshold"]) for line in lines} == {(0.125, 0.25)}
    sources = {(line["threshold_source"], line["pixel_threshold_source"]) for line in lines}
    assert sources == {("given", "exported file")}


def test_the_table_in_a_spreadsheet(run: Run, photographs: Path, output: Path) -> None:
    (photographs / "2.png").rename(photographs / "a, b\nc.png")
    assert run() == 0
    with (output / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    lines = read_lines(output)
    for row, line in zip(rows, lines, strict=True):
        assert row["path"] == line["path"]
        assert row["verdict"] == line["verdict"]
        assert row["regions"] == str(len(line["regions"]))
    assert [row["left"] for row in rows] == ["", "20", "", "20"]
    assert Path(lines[1]["path"]).name == "a, b\nc.png"
    assert Path(lines[1]["picture"]) == output / "a, b\nc.png.png"
    assert Path(lines[1]["picture"]).is_file()


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
    assert [(line["error"] is not None, Path(line["path"]).name) for line in lines] == [
        (False, "1.jpg"),
        (True, "2.png"),
        (False, "1.jpg"),
        (False, "3.PNG"),
    ]
    assert files(output) == {*TABLE, "1.jpg.png", "more/1.jpg.png", "more/3.PNG.png"}
    screen = capsys.readouterr()
    assert screen.err.startswith(f"error: {photographs / '2.png'} can't be read as an image: ")
    assert screen.err.count("\n") == 1
    assert "4 images, 1 anomalous, 2 normal, 1 failed: " in screen.out


class TestNothingIsOverwritten:
    @pytest.mark.parametrize("name", ["predictions.jsonl", "predictions.csv", "1.jpg.png", "more/3.PNG.png"])
    def test_files_in_the_output(self, run: Run, output: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
        (output / name).parent.mkdir(parents=True)
        (output / name).write_text("mine")
        assert run() == 2
        screen = capsys.readouterr()
        assert screen.err.startswith("error: ")
        assert screen.err.endswith(": give another folder as --output.\n")
        assert str(output) in screen.err
        assert screen.err.count("\n") == 1
        assert (output / name).read_text() == "mine"
        assert files(output) <= {name, "predictions.jsonl"}

    def test_an_earlier_run(self, run: Run, photographs: Path, output: Path) -> None:
        assert run() == 0
        before = {name: (output / name).read_bytes() for name in files(output)}
        assert run("--threshold", "0.1") == 2
        assert run(images=photographs / "more") == 2
        assert {name: (output / name).read_bytes() for name in files(output)} == before

    def test_two_commands_at_once(self, model: Path, photographs: Path, output: Path) -> None:
        for index in range(20):
            Image.new("RGB", (300, 200), (index, index, index)).save(photographs / f"{index:02}.png")
        started = [
            subprocess.Popen(
                command(model, photographs, output, "--threshold", threshold),
                env=ENVIRONMENT,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for threshold in ("0.25", "0.75")
        ]
        screens = [process.communicate() for process in started]
        assert sorted(process.returncode for process in started) == [0, 2]
        ((summary, _),) = [screen for screen in screens if "error: " not in screen[1]]
        ((_, refusal),) = [screen for screen in screens if "error: " in screen[1]]
        assert refusal.endswith(": give another folder as --output.\n")
        assert "24 images" in summary
        assert len({line["threshold"] for line in read_lines(output)}) == 1
        assert len(read_lines(output)) == 24
        assert {path.name for path in output.iterdir() if path.name.startswith(".")} == set()


def test_an_output_folder_among_the_images_is_passed_over(run: Run, photographs: Path) -> None:
    for name in ("output", "output/again"):
        assert run(output=photographs / "output" if name == "output" else photographs / name) == 0
        assert len(read_lines(photographs / name)) == (4 if name == "output" else 8)


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
        [
            ["--threshold", "nan"],
            ["--threshold", "1.5"],
            ["--threshold", "high"],
            ["--pixel_threshold", "inf"],
            ["--pixel_threshold", "-0.25"],
            ["--confidence", "1"],
        ],
    )
    def test_wrong_use(self, run: Run, options: list[str]) -> None:
        with pytest.raises(SystemExit) as error:
            run(*options)
        assert error.value.code == 2
        assert options[1] in self.capsys.readouterr().err.splitlines()[-1]


class TestItHasToStop:
    def test_the_model_fails(self, run: Run, tmp_path: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(model=write_graph(tmp_path / "wide.xml", only_of_width(7))) == 2
        assert capsys.readouterr().err.startswith("error: The model failed on an image of 60 x ")
        assert files(output) == TABLE
        assert read_lines(output) == []

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
        assert {path.name for path in output.iterdir()} == {*TABLE, "1.jpg.png"}
        assert [Path(line["path"]).name for line in read_lines(output)] == ["1.jpg"]
        assert capsys.readouterr().err == "interrupted\n"

    def test_no_space(self, model: Path, photographs: Path, output: Path) -> None:
        """A limit on the size of files takes the place of a full disk: the first picture fits, the second does not."""

        def limit() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

        noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
        Image.fromarray(noise).save(photographs / "2.png")
        result = subprocess.run(
            command(model, photographs, output),
            env=ENVIRONMENT,
            preexec_fn=limit,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 2
        assert result.stderr.startswith("error: stopped, because the results can't be written: ")
        assert "File too large" in result.stderr
        assert result.stderr.count("\n") == 1
        assert {path.name for path in output.iterdir()} == {*TABLE, "1.jpg.png"}
        assert [Path(line["path"]).name for line in read_lines(output)] == ["1.jpg"]

    def test_no_space_for_the_table(
        self, run: Run, output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write = RecordWriter.write

        def write_one(self: RecordWriter, record: Record) -> None:
            if read_lines(output):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            write(self, record)

        monkeypatch.setattr(RecordWriter, "write", write_one)
        assert run() == 2
        assert files(output) == {*TABLE, "1.jpg.png"}
        assert len(read_lines(output)) == 1
        error = "error: stopped, because the results can't be written: [Errno 28] No space left on device\n"
        assert capsys.readouterr().err == error

    def test_interrupted_by_the_user(self, model: Path, photographs: Path, output: Path) -> None:
        """Ctrl-C when the first row is there: the large photographs that come then take long."""
        noise = np.random.default_rng(0).integers(0, 256, (2000, 2000, 3), dtype=np.uint8)
        Image.fromarray(noise).save(photographs / "3.bmp")
        for index in range(4, 40):
            (photographs / f"{index}.bmp").symlink_to(photographs / "3.bmp")
        process = subprocess.Popen(
            command(model, photographs, output),
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout
        process.stdout.readline()  # the model
        process.stdout.readline()  # the first image
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
        assert process.returncode == 130
        assert errors.splitlines()[-1] == "interrupted"
        lines = read_lines(output)
        assert 1 <= len(lines) < 40
        assert files(output) == TABLE | {Path(line["picture"]).relative_to(output).as_posix() for line in lines}
        for line in lines:
            Image.open(line["picture"]).load()


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


def test_names_that_the_screen_can_not_show(model: Path, photographs: Path, output: Path) -> None:
    name = os.fsencode(photographs) + b"/\xff\xfe.png"
    Path(os.fsdecode(name)).write_bytes((photographs / "2.png").read_bytes())
    (photographs / "two\nlines.png").write_bytes((photographs / "2.png").read_bytes())
    (photographs / "tab\t, ü.png").write_bytes(b"no image")
    result = subprocess.run(
        command(model, photographs, output),
        env=ENVIRONMENT | {"PYTHONIOENCODING": "ascii:strict"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1, result.stderr
    paths = [line["path"] for line in read_lines(output)]
    assert {os.fsdecode(name), f"{photographs}/two\nlines.png", f"{photographs}/tab\t, ü.png"} <= set(paths)
    assert len(result.stdout.splitlines()) == len(paths) - 1 + 2  # but for the one that failed; the model, the summary
    assert rf"{photographs}/two\nlines.png  0.784  anomalous" in result.stdout.splitlines()
    assert rf"{photographs}/\udcff\udcfe.png  0.784  anomalous" in result.stdout.splitlines()
    (error,) = result.stderr.splitlines()
    assert rf"{photographs}/tab\t, \xfc.png can't be read as an image" in error
    assert files(output) == TABLE | {f"{path[len(str(photographs)) + 1 :]}.png" for path in paths if "tab" not in path}


def test_what_is_skipped(run: Run, photographs: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (30, 20)).save(photographs / "4.gif")
    (photographs / "more" / "5.heic").write_bytes(b"")
    (photographs / "notes.txt").write_text("no image")
    page = Image.open(photographs / "2.png")
    page.save(photographs / "6.tif", save_all=True, append_images=[Image.new("RGB", page.size, "white")])
    assert run() == 0
    assert capsys.readouterr().err.splitlines() == [
        f"{photographs}/4.gif was skipped: GIF files are not read. Save it as PNG or JPEG.",
        f"{photographs}/more/5.heic was skipped: HEIF files are not read. Save it as PNG or JPEG.",
        f"{photographs}/6.tif has 2 pages: only the first is looked at.",
    ]
    lines = read_lines(output)
    assert len(lines) == 5
    assert [line["verdict"] for line in lines if line["path"].endswith("6.tif")] == ["anomalous"]
    assert max(line["score"] for line in lines) == pytest.approx(200 / 255)  # the second page is white


def test_photographs_that_can_not_be_judged(tmp_path: Path, photographs: Path, output: Path) -> None:
    """One line for each, in the table and on the screen, and all others are predicted."""
    model = write_graph(tmp_path / "model.xml", metadata={"patch_size": "14"})
    Image.new("RGB", (1, 1)).save(photographs / "small.png")
    Image.new("RGB", (3000, 2)).save(photographs / "thin.png")
    Image.fromarray(np.full((40, 60), 3000, dtype=np.uint16)).save(photographs / "12 bits.png")
    Image.fromarray(np.full((40, 60), 200, dtype=np.float32)).save(photographs / "fractions.tif")
    (photographs / "empty.png").write_bytes(b"")
    result = subprocess.run(
        command(model, photographs, output), env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    lines = read_lines(output)
    errors = [line["error"] for line in lines if line["error"]]
    assert len(lines) == 9
    assert len(errors) == 5
    assert result.stderr.splitlines() == [f"error: {error}" for error in errors]
    for name, message in {
        "small.png": "has 1 x 1 pixels, and each side needs 14 or more",
        "thin.png": "has 3000 x 2 pixels, and each side needs 14 or more",
        "12 bits.png": "has 16 bits, but no value above 3000",
        "fractions.tif": "has floating-point values of 200 to 200",
        "empty.png": "can't be read as an image",
    }.items():
        assert any(error.startswith(f"{photographs / name} {message}") for error in errors)


def test_photographs_of_a_phone_and_of_16_bits(run: Run, tmp_path: Path, output: Path) -> None:
    upright = np.full((20, 30, 3), 60, dtype=np.uint8)
    upright[3:6, 4:14] = 200
    folder = tmp_path / "others"
    folder.mkdir()
    for orientation in range(1, 9):
        stored, exif = store(upright, orientation)
        stored.save(folder / f"{orientation}.png", exif=exif)
    Image.fromarray(upright[..., 0].astype(np.uint16) * 257).save(folder / "9.tif")
    assert run(images=folder) == 0
    lines = read_lines(output)
    assert len(lines) == 9
    for line in lines:
        assert line["score"] == pytest.approx(200 / 255)
        assert (line["width"], line["height"]) == (30, 20)
        assert line["regions"] == [{"box": [4, 3, 14, 6], "area": 30}]
        assert Image.open(line["picture"]).size == (30, 20)
