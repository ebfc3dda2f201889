# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""What the command shows and writes, and its exit codes."""

import errno
import gc
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import ClassVar

import jsonschema
import numpy as np
import pytest
from PIL import Image

from anomalib_fbclip.__main__ import main
from anomalib_fbclip.cli.arguments import without_thresholds, writing
from anomalib_fbclip.cli.sources import find_inputs
from anomalib_fbclip.errors import ImageError, run_command
from anomalib_fbclip.results.records import Record, RecordWriter
from support.command_line import environment
from support.graphs import write_graph
from support.parts import Run, draw_part
from support.photographs import store, store_in_12_bits
from support.schema import read_schema

COMMAND = [sys.executable, "-m", "anomalib_fbclip"]

GOOD = ["--good", "photographs/good", "--rotations", "1"]
"""Good photographs as they lie: turned copies are no subject here, and take long."""

IMPORTED = """
import sys
from anomalib_fbclip.__main__ import main
assert main(sys.argv[1:]) in {0, 1}
print(*sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""


def test_screen(tmp_path: Path, photographs: Path, fbclip: Run) -> None:
    """Nothing is seen but what a user needs, and what libraries say is in a file."""
    result = fbclip("photographs", "--good", "photographs/good")
    assert (result.returncode, result.stderr) == (1, "")
    first, sight, compared, fine, spot, summary, report, table = result.stdout.splitlines()
    assert first.startswith("fbclip-small: small and quick. The paper's model is larger: --backbone ViT-L-14-336")
    assert sight == "Smallest visible defect: about 2 of 140 pixels."
    assert compared.startswith("Compared with 4 good photographs: about")
    assert compared.endswith("good parts may be called anomalous.")
    assert [fine.split()[0], fine.split()[2]] == ["normal", "photographs/fine.png"]
    assert [spot.split()[0], spot.split()[2]] == ["anomalous", "photographs/spot.png"]
    assert summary == "2 photographs: 1 anomalous, 1 normal"
    assert report == "Report: fbclip-results/v0/report.html"
    assert table == "Table:  fbclip-results/v0/predictions.csv and .jsonl"
    folder = tmp_path / "fbclip-results/latest"
    assert {path.name for path in folder.iterdir()} == {
        "fbclip.log",
        "images",
        "predictions.csv",
        "predictions.jsonl",
        "report.html",
    }
    assert "Loading CLIP" in (folder / "fbclip.log").read_text()
    assert {path.name for path in (folder / "images").iterdir()} == {"fine.png.jpg", "spot.png.jpg"}
    with Image.open(folder / "images/spot.png.jpg") as picture:
        assert picture.size == (140, 100)


@pytest.mark.parametrize(
    ("file", "message"), [("results/v0/a.png", "--output results"), ("masks/a.png", "Give this user access")]
)
def test_which_file_lacks_permission(file: str, message: str, capsys: pytest.CaptureFixture) -> None:
    def fail() -> int:
        with writing(Path("results"), "folder"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), file)

    assert run_command(fail) == 2
    assert message in capsys.readouterr().err


def test_white_level(
    tmp_path: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """A camera's 12 bits are the same photographs, good ones and pictures of the report among them."""
    monkeypatch.chdir(tmp_path)
    command = ["photographs", *GOOD]
    assert main(command) == 1
    store_in_12_bits(photographs)
    capsys.readouterr()
    assert main(command) == 2
    assert "--white-level 4095" in capsys.readouterr().err
    assert main([*command, "--white-level", "4095"]) == 1
    usual, deep = (
        [json.loads(line) for line in (tmp_path / f"fbclip-results/v{run}/predictions.jsonl").read_text().splitlines()]
        for run in (0, 1)
    )
    assert [row["score"] for row in deep] == [row["score"] for row in usual]
    pages = [(tmp_path / f"fbclip-results/v{run}/report.html").read_text() for run in (0, 1)]
    images = [re.findall(r"data:image/jpeg[^\"']*", page) for page in pages]
    assert images[0]
    assert images[0] == images[1]
    assert "--white-level 4095 --threshold" in pages[1]


def test_report(tmp_path: Path, photographs: Path, fbclip: Run) -> None:
    fbclip("photographs", "--good", "photographs/good", "--threshold", "0.4", "--pixel-threshold=0.3")
    page = (tmp_path / "fbclip-results/v0/report.html").read_text()
    assert (
        "fbclip photographs --good photographs/good --threshold {threshold} --pixel-threshold {pixel_threshold}" in page
    )
    assert "the 4 good photographs themselves" in " ".join(page.split())
    assert "the nearest place in " in " ".join(page.split())
    assert (
        "<dd>backbone fbclip-small with weights dinov2_procedural; adapters trained on procedural images</dd>" in page
    )
    assert f"<dd>4 of {tmp_path / 'photographs/good'}</dd>" in page


def test_verbose(photographs: Path, fbclip: Run) -> None:
    assert "Loading CLIP" in fbclip(photographs, "-v").stderr


def test_json(photographs: Path, fbclip: Run) -> None:
    result = fbclip("photographs", *GOOD, "--json")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    for row in rows:
        jsonschema.validate(row, read_schema())
    assert [row["verdict"] for row in rows] == ["normal", "anomalous"]
    assert {row["threshold_source"] for row in rows} == {"good photographs"}
    assert "2 photographs: 1 anomalous, 1 normal" in result.stderr


def test_all_normal(photographs: Path, fbclip: Run) -> None:
    result = fbclip("photographs/fine.png", *GOOD)
    assert result.returncode == 0


GUESS = "The verdicts are unreliable: the threshold 0.5 is not calibrated to your parts. Use --good."


@pytest.mark.parametrize("options", [["--threshold", "0"], ["--threshold", "1"], GOOD])
def test_no_advice_where_there_is_a_threshold(options: list[str], photographs: Path, fbclip: Run) -> None:
    assert "unreliable" not in fbclip("photographs", *options).stdout


def test_advice(photographs: Path, fbclip: Run) -> None:
    """Whatever the verdicts are."""
    lines = fbclip("photographs/fine.png").stdout.splitlines()
    assert lines[4] == GUESS


def test_no_advice_where_there_is_no_verdict(tmp_path: Path, fbclip: Run) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    assert "unreliable" not in fbclip("broken.png").stdout


def test_photographs_that_are_good_ones(tmp_path: Path, photographs: Path, fbclip: Run) -> None:
    """By content, too: they are said to be so once, and each in its row."""
    shutil.copy(photographs / "good/2.png", photographs / "fine.png")
    result = fbclip("photographs", *GOOD)
    lines = result.stdout.splitlines()
    assert lines[3].startswith("Photographs that are also among the good ones: 1 of 2.")
    assert ["good/2.png" in line for line in lines[4:6]] == [True, False]
    table = (tmp_path / "fbclip-results/v0/predictions.jsonl").read_text().splitlines()
    assert [json.loads(row)["same_as"] for row in table] == ["photographs/good/2.png", None]
    assert "the good photograph photographs/good/2.png" in (tmp_path / "fbclip-results/v0/report.html").read_text()


def test_one_folder_twice(photographs: Path, fbclip: Run) -> None:
    result = fbclip("photographs/good", *GOOD)
    assert result.stdout.splitlines()[3].startswith("Photographs that are also among the good ones: 4 of 4.")


def test_gray_photographs_and_good_ones_in_color(tmp_path: Path, photographs: Path, fbclip: Run) -> None:
    with Image.open(photographs / "fine.png") as image:
        image.convert("L").save(tmp_path / "gray.png")
    told = "Gray, while the good photographs are in color"
    assert f"{told}: 1 of 1." in fbclip("gray.png", *GOOD).stdout
    assert told not in fbclip("photographs", *GOOD).stdout


@pytest.mark.parametrize("shots", [1, 3])
def test_few_good_photographs(shots: int, photographs: Path, fbclip: Run) -> None:
    result = fbclip("photographs", *GOOD, "--shots", str(shots))
    compared = result.stdout.splitlines()[2]
    assert compared.startswith(f"Compared with {shots} good photograph")
    assert compared.endswith("good parts may be called anomalous. Give at least 4; 8 are better.")


def test_help(fbclip: Run) -> None:
    """What follows an option is called what it is."""
    text = " ".join(fbclip("--help").stdout.split())
    assert "--good FOLDER photographs of good parts" in text
    assert "Example: fbclip photographs --good good" in text
    assert "fbclip configs NAME" in text
    assert "GOOD" not in text


def test_each_run_has_a_folder(tmp_path: Path, photographs: Path, fbclip: Run) -> None:
    for _ in range(2):
        fbclip(photographs / "fine.png", "--output", "mine")
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {"v0", "v1", "latest"}
    assert (tmp_path / "mine/latest").resolve().name == "v1"


def test_several_inputs(tmp_path: Path, photographs: Path, fbclip: Run) -> None:
    """Each photograph once, and no picture in another's place."""
    (tmp_path / "more").mkdir()
    draw_part(3).save(tmp_path / "more/fine.png")
    result = fbclip("photographs", "more", "photographs/fine.png", *GOOD, "--json")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["path"] for row in rows] == ["photographs/fine.png", "photographs/spot.png", "more/fine.png"]
    assert len({row["picture"] for row in rows}) == 3
    assert all((tmp_path / row["picture"]).is_file() for row in rows)


def test_own_results_are_not_inspected(photographs: Path, fbclip: Run) -> None:
    first, second = (fbclip(".", "--json").stdout.splitlines() for _ in range(2))
    assert len(first) == len(second)


def test_turned_upright(tmp_path: Path, fbclip: Run) -> None:
    upright = np.asarray(draw_part(0, defective=True))
    turned, exif = store(upright, 6)
    turned.save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(upright).save(tmp_path / "upright.png")
    rows = [json.loads(line) for line in fbclip("turned.png", "upright.png", "--json").stdout.splitlines()]
    assert rows[0]["score"] == rows[1]["score"]
    assert (rows[0]["width"], rows[0]["height"]) == (140, 100)


def test_any_name(tmp_path: Path, fbclip: Run) -> None:
    """A name that is no UTF-8, with a line break and a tag, is one line, and harms no page."""
    draw_part(0).save(tmp_path / os.fsdecode(b"odd\xff\n<script>alert(1).png"))
    result = fbclip(".")
    assert result.returncode in {0, 1}
    assert len(result.stdout.splitlines()) == 7
    assert "<script>alert(1)" not in (tmp_path / "fbclip-results/v0/report.html").read_text()


def test_what_is_not_looked_at_is_told(tmp_path: Path, photographs: Path, fbclip: Run) -> None:
    draw_part(0).save(photographs / "pages.tiff", save_all=True, append_images=[draw_part(1)])
    draw_part(0).save(photographs / "moving.gif", save_all=True, append_images=[draw_part(1)])
    draw_part(0).save(photographs / "good" / "checkpoint.jfif", "JPEG")
    for name in ("phone.heic", "clip.mp4", "._fine.png"):
        (photographs / name).touch()
    (photographs / "gone.jpg").symlink_to("nowhere.jpg")
    result = fbclip("photographs", *GOOD, "--json")
    assert result.returncode == 2
    rows = {Path(row["path"]).name: row["error"] for row in map(json.loads, result.stdout.splitlines())}
    for name, said in {
        "phone.heic": "HEIF is not supported",
        "clip.mp4": "is a video",
        "gone.jpg": "a link to nowhere.jpg",
    }.items():
        assert said in rows.pop(name)
    assert rows == dict.fromkeys(["fine.png", "moving.gif", "pages.tiff", "spot.png"])
    told = result.stderr.splitlines()
    assert "photographs/pages.tiff has 2 pages: only the first is inspected." in told
    assert "photographs/moving.gif has 2 frames: only the first is inspected." in told
    assert any("with 5 good photographs" in line for line in told)


@pytest.mark.parametrize("name", ["phone.heic", "locked"])
def test_good_photographs_that_cannot_be_read(
    name: str, photographs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from anomalib_fbclip.__main__ import main

    monkeypatch.chdir(photographs.parent)
    (photographs / "good" / name).symlink_to("nowhere")
    assert main(["photographs", "--good", "photographs/good"]) == 2
    assert f"good/{name} can't be read as an image: it is a link to nowhere" in capsys.readouterr().err


def test_pictures_are_called_as_the_photographs(photographs: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    files = ["photographs/fine.png", "photographs/spot.png", "more/fine.png", "more/FINE.png", "more/2-fine.png"]
    for name in files[2:]:
        draw_part(3).save(tmp_path / name)
    inputs = find_inputs([str(tmp_path / name) for name in [*files, "photographs/good"]], excluded=[])
    assert [item.picture.as_posix() for item in chain(*inputs.parts)] == [
        "fine.png.jpg",
        "spot.png.jpg",
        "2-fine.png.jpg",
        "3-FINE.png.jpg",
        "2-2-fine.png.jpg",
        *(f"good/{index}.png.jpg" for index in range(4)),
    ]
    assert len(inputs.parts) == 1


def test_long_names(tmp_path: Path) -> None:
    """A picture's name is longer than its photograph's, and file systems take 255 bytes."""
    for name in ("ä" * 125, "ä" * 124 + "bb", "n" * 250, "n" * 249 + "o"):
        draw_part(0).save(tmp_path / f"{name}.png")
    for arguments in ([tmp_path], sorted(tmp_path.iterdir())):
        pictures = [item.picture for item in chain(*find_inputs([*map(str, arguments)], excluded=[]).parts)]
        assert len(set(pictures)) == 4
        for picture in pictures:
            (tmp_path / "images" / picture).parent.mkdir(exist_ok=True)
            (tmp_path / "images" / picture).write_bytes(b"")
        shutil.rmtree(tmp_path / "images")


class TestVideos:
    FRAMES = 6

    @pytest.fixture
    def clip(self, tmp_path: Path) -> Path:
        """A Motion JPEG of six frames."""
        cv2 = pytest.importorskip("cv2")
        path = tmp_path / "clip.avi"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (140, 100))
        for seed in range(self.FRAMES):
            writer.write(np.asarray(draw_part(seed))[..., ::-1])
        writer.release()
        return path

    def frame(self, content: bytes, number: int) -> tuple[int, int]:
        """Find where a frame's bytes begin and end."""
        end = content.index(b"movi") + 4
        for _ in range(number):
            start = end + 8
            length = int.from_bytes(content[end + 4 : start], "little")
            end = start + length + length % 2
        return start, end

    def read(self, *arguments: str) -> list[tuple[str, bool]]:
        items = list(chain(*find_inputs(arguments, excluded=[]).parts))
        return [(item.name.rpartition("/")[2], isinstance(item.source, ImageError)) for item in items]

    def test_frames(self, tmp_path: Path, clip: Path, fbclip: Run) -> None:
        rows = [json.loads(line) for line in fbclip("clip.avi", "--json").stdout.splitlines()]
        assert [row["path"] for row in rows] == [f"clip.avi#{number + 1}" for number in range(self.FRAMES)]
        assert not any(row["error"] for row in rows)
        assert (tmp_path / rows[2]["picture"]).is_file()

    def test_a_damaged_frame(self, clip: Path, fbclip: Run) -> None:
        content = bytearray(clip.read_bytes())
        start, end = self.frame(content, 3)
        content[start:end] = bytes(end - start)
        clip.write_bytes(content)
        result = fbclip("clip.avi", "--json")
        rows = [json.loads(line) for line in result.stdout.splitlines()]
        assert result.returncode == 2
        assert sum(row["error"] is None for row in rows) == 5
        (error,) = (row["error"] for row in rows if row["error"])
        assert "damaged" in error

    def test_a_full_disk_at_a_damaged_frame(
        self, clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """It has no picture that could be removed."""
        monkeypatch.chdir(clip.parent)
        content = bytearray(clip.read_bytes())
        start, end = self.frame(content, 3)
        content[start:end] = bytes(end - start)
        clip.write_bytes(content)
        write = RecordWriter.write

        def fill_disk(table: RecordWriter, record: Record) -> None:
            if record.error is not None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            write(table, record)

        monkeypatch.setattr(RecordWriter, "write", fill_disk)
        assert main([str(clip)]) == 2
        assert "No space left" in capsys.readouterr().err

    def test_a_video_that_was_cut(self, clip: Path) -> None:
        content = clip.read_bytes()
        clip.write_bytes(content[: self.frame(content, 4)[0] + 100])
        assert self.read(str(clip)) == [(f"clip.avi#{number}", False) for number in (1, 2, 3)] + [("clip.avi", True)]

    def test_a_video_by_its_content(self, clip: Path) -> None:
        """Among others, and with a folder of its own for its pictures."""
        path = clip.rename(clip.with_name("clip.jpg"))
        assert len(self.read(str(path))) == self.FRAMES
        inputs = find_inputs([str(path), str(path)], excluded=[])
        assert inputs.total is None
        assert len({item.picture for item in chain(*inputs.parts)}) == 2 * self.FRAMES


class Camera:
    """In place of OpenCV's reader of a camera or a stream."""

    opened: ClassVar[list[object]] = []

    def __init__(self, source: object) -> None:
        self.opened.append(source)
        self.left = 2

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's
        return True

    def get(self, _: int) -> float:
        return -1.0

    def read(self) -> tuple[bool, np.ndarray | None]:
        self.left -= 1
        return (True, np.zeros((20, 30, 3), np.uint8)) if self.left >= 0 else (False, None)


@pytest.mark.parametrize(
    ("argument", "source", "name"),
    [("0", 0, "camera 0"), ("rtsp://me:secret@cell-3/stream?a=1", None, "rtsp://cell-3/stream?a=1")],
)
def test_cameras_and_streams(argument: str, source: object, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose end is an error."""
    cv2 = pytest.importorskip("cv2")
    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    items = list(chain(*find_inputs([argument], excluded=[]).parts))
    assert Camera.opened[-1] == (argument if source is None else source)
    assert [item.name for item in items] == [f"{name}#1", f"{name}#2", name]
    assert "gave no more frames after 2" in str(items[2].source)


def test_the_report_has_no_password() -> None:
    for password in ("secret", "s@cret"):
        assert without_thresholds([f"rtsp://me:{password}@cell-3/1", "--threshold", "0.4"]) == ["rtsp://cell-3/1"]


def test_video_without_opencv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    from anomalib_fbclip.__main__ import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("anomalib_fbclip.cli.sources.find_spec", lambda _: None)
    (tmp_path / "clip.mp4").touch()
    assert main(["clip.mp4"]) == 2
    assert "clip.mp4 needs OpenCV: pip install opencv-python-headless\n" in capsys.readouterr().err


def test_exported_model(tmp_path: Path, photographs: Path, fbclip: Run) -> None:
    write_graph(tmp_path / "model.xml", metadata={"backbone": "fbclip-small"})
    result = fbclip("photographs", "--model", "model.xml", "--threshold", "0.2")
    assert result.returncode in {0, 1}
    assert result.stdout.splitlines()[0].startswith("model.xml: fbclip-small, exported")
    assert (tmp_path / "fbclip-results/v0/report.html").is_file()
    page = (tmp_path / "fbclip-results/v0/report.html").read_text()
    assert "<dd>model.xml; " in page
    assert "<dd>none</dd>" in page


@pytest.mark.parametrize(
    ("options", "unwanted"),
    [
        ([], {"anomalib", "lightning", "torchmetrics", "matplotlib", "pandas", "skimage"}),
        (["--model", "model.xml"], {"torch", "open_clip", "anomalib", "lightning"}),
    ],
    ids=["torch", "exported"],
)
def test_imports(options: list[str], unwanted: set[str], tmp_path: Path, photographs: Path) -> None:
    write_graph(tmp_path / "model.xml")
    result = subprocess.run(
        [sys.executable, "-c", IMPORTED, "photographs", *options],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert unwanted.isdisjoint(result.stderr.split())


def test_garbage_is_collected_after_the_imports() -> None:
    """And what they made is passed over."""
    from anomalib_fbclip.cli.models import quick_imports

    try:
        with quick_imports():
            assert not gc.isenabled()
        assert gc.isenabled()
        assert gc.get_freeze_count()
    finally:
        gc.unfreeze()


def test_an_interrupt_that_a_library_turns_into_an_error(capsys: pytest.CaptureFixture) -> None:
    def fail() -> int:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            msg = "the file is damaged"
            raise ValueError(msg) from None
        return 0

    assert run_command(fail) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_an_interrupt_among_damaged_photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has its row when its turn comes, and none is read after the interrupt but those that were read ahead."""
    monkeypatch.chdir(tmp_path)
    for number in range(50):
        (tmp_path / f"{number:02}.png").write_bytes(b"no image")
    write = RecordWriter.write

    def interrupt(table: RecordWriter, record: Record) -> None:
        write(table, record)
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as context:
        context.setattr(RecordWriter, "write", interrupt)
        assert main([".", "--model", str(write_graph(Path("model.xml"))), "--device", "CPU", "--output", "here"]) == 130
    rows = Path("here/v0/predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(row)["path"] for row in rows] == ["00.png"]


def test_interrupt(tmp_path: Path, photographs: Path) -> None:
    """What there is when a user stops it is kept, and the report is written."""
    for seed in range(200):
        draw_part(seed).save(photographs / f"{seed:03}.png")
    process = subprocess.Popen(
        [*COMMAND, "photographs", "--json"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "interrupted"
    folder = tmp_path / "fbclip-results/v0"
    rows = (folder / "predictions.jsonl").read_text().splitlines()
    assert 0 < len(rows) < 200
    assert (folder / "report.html").is_file()


def test_terminal(tmp_path: Path, photographs: Path) -> None:
    """In color, and with a progress bar that is gone in the end."""
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "photographs", "--good", "photographs/good"],
        cwd=tmp_path,
        env=environment() | {"TERM": "xterm-256color"},
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    output = b""
    while chunk := _read(controller):
        output += chunk
    assert process.wait() == 1
    text = output.decode()
    assert "\x1b[1;31manomalous" in text
    assert "\x1b[32mnormal" in text
    assert "Good photographs" in text
    assert "/4" in text
    assert "/8" not in text, "of 4 good photographs"
    assert "Photographs" in text


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # the terminal is closed
        return b""


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
)
def test_threads_wait_briefly(
    given: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A setting of the user stays."""
    monkeypatch.setattr(os, "environ", given)
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert capsys.readouterr().err
    assert given.get("GOMP_SPINCOUNT") == expected
