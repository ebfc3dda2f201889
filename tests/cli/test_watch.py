# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""``fbclip watch``: what is inspected, written and sent, until it is told to end, and after it was killed."""

import csv
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from anomalib_fbclip.__main__ import main
from anomalib_fbclip.errors import ImageError
from anomalib_fbclip.images.photographs import Photograph, read_reduced
from anomalib_fbclip.results.records import HEADER, RecordWriter
from support.command_line import environment
from support.graphs import write_graph
from support.line import add, read_rows, run_until, wait_until
from support.schema import read_schema

MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")


@pytest.fixture(autouse=True)
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the command is run has a model, and a folder that is watched."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("anomalib_fbclip.line.arrivals.SETTLED", 0.05)
    Path("incoming").mkdir()
    return write_graph(Path("model.xml"))


def watch(*options: str, rows: int, meanwhile: Callable[[], None] = lambda: None, source: str = "incoming") -> int:
    """Run the command until there are so many rows."""
    options = ("--model", "model.xml", "--device", "CPU", "--output", "results", *options)
    return run_until(lambda: len(read_rows()) >= rows, source, *options, meanwhile=meanwhile)


def test_what_is_there_and_what_comes(capsys: pytest.CaptureFixture[str]) -> None:
    add("1.png")
    assert watch("--json", rows=2, meanwhile=lambda: add("2.png", defective=True)) == 1
    screen = capsys.readouterr()
    lines = [json.loads(line) for line in screen.out.splitlines()]
    assert lines == read_rows()
    assert [(row["path"], row["verdict"]) for row in lines] == [
        ("incoming/1.png", "normal"),
        ("incoming/2.png", "anomalous"),
    ]
    for row in lines:
        jsonschema.validate(row, read_schema())
        assert row["picture"] is None
    with Path("results/predictions.csv").open(encoding="utf-8-sig", newline="") as file:
        assert [row["path"] for row in csv.DictReader(file)] == ["incoming/1.png", "incoming/2.png"]
    assert "2 photographs: 1 anomalous, 1 normal" in screen.err
    assert not Path("results/images").exists()


def test_a_start_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is inspected twice, and a file of the same name is another photograph, with a picture of its own."""
    add("1.png", defective=True)
    assert watch("--pictures", rows=1) == 1
    add("1.png")
    assert watch("--pictures", rows=2) == 0, "the exit code is of this start"
    assert "1 photograph: 0 anomalous, 1 normal" in capsys.readouterr().out
    assert [row["verdict"] for row in read_rows()] == ["anomalous", "normal"]
    pictures = {row["picture"] for row in read_rows()}
    assert {path.as_posix() for path in Path("results/images").iterdir()} == pictures
    assert len(pictures) == 2


def test_a_damaged_file_is_a_row_and_the_others_go_on() -> None:
    add("1.png")
    Path("incoming/2.png").write_bytes(Path("incoming/1.png").read_bytes()[:900])
    assert watch(rows=3, meanwhile=lambda: add("3.png")) == 2
    assert {row["path"]: row["error"] is None for row in read_rows()} == {
        "incoming/1.png": True,
        "incoming/2.png": False,
        "incoming/3.png": True,
    }


def test_tiles_are_chosen_by_a_photograph_that_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    add("1.png")
    assert run_until(read_rows, "incoming", "--tiles", "auto", "--output", "results") in {0, 1}
    assert "Smallest visible defect" in capsys.readouterr().out


def test_a_folder_that_cannot_be_read_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Path] = []

    def refuse(path: Path, *_: Path) -> list[Path]:
        tried.append(path)
        msg = f"{path} can't be read."
        raise ImageError(msg)

    monkeypatch.setattr("anomalib_fbclip.line.arrivals.find_images", refuse)
    assert run_until(lambda: tried, "incoming", "--model", "model.xml", "--device", "CPU", "--output", "results") == 2


def test_a_file_that_was_read_too_early_has_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was incomplete, and is complete by now."""
    reads: list[Path] = []

    def read_early(path: Path, **options: object) -> Photograph:
        reads.append(path)
        if len(reads) == 1:
            add("1.png", defective=True)
            msg = "it is truncated"
            raise ImageError(msg)
        return read_reduced(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("anomalib_fbclip.cli.sources.read_reduced", read_early)
    Path("incoming/1.png").write_bytes(b"half")
    assert watch(rows=1) == 1
    assert [row["verdict"] for row in read_rows()] == ["anomalous"]


def test_results_in_the_folder_are_not_inspected() -> None:
    """Pictures of photographs are images, too."""
    Path("results").symlink_to("incoming")
    add("1.png")
    assert watch("--pictures", rows=1) == 0
    assert watch("--pictures", rows=2, meanwhile=lambda: add("2.png")) == 0
    assert [row["path"] for row in read_rows()] == ["incoming/1.png", "incoming/2.png"]


def test_a_row_that_was_not_written_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next start writes it, and inspects nothing again: all but the table knew of the photograph."""
    add("1.png")
    append = RecordWriter.append

    def append_half(self: RecordWriter, rows: tuple[bytes, bytes]) -> None:
        if rows == HEADER.rows:
            append(self, rows)
            return
        append(self, (rows[0][:50], b""))
        sys.exit(9)

    with monkeypatch.context() as context:
        context.setattr(RecordWriter, "append", append_half)
        with pytest.raises(SystemExit):
            main(["watch", "incoming", "--model", "model.xml", "--output", "results"])
    with pytest.raises(json.JSONDecodeError):
        read_rows()
    assert watch(rows=2, meanwhile=lambda: add("2.png")) == 0
    assert [row["path"] for row in read_rows()] == ["incoming/1.png", "incoming/2.png"]
    with Path("results/predictions.csv").open(encoding="utf-8-sig", newline="") as file:
        assert [row["path"] for row in csv.DictReader(file)] == ["incoming/1.png", "incoming/2.png"]


class Camera:
    """In place of OpenCV's reader: a camera that is unplugged after two frames."""

    def __init__(self, source: object) -> None:
        del source
        self._left = 2

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's
        return self._left == 2

    def read(self) -> tuple[bool, np.ndarray]:
        time.sleep(0.2)
        self._left -= 1
        return self._left >= 0, np.full((48, 64, 3), 100 * max(self._left, 0), dtype=np.uint8)

    def release(self) -> None:
        pass


def test_a_camera(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Each frame has a name and a picture of its own, and an address no password."""
    monkeypatch.setattr("cv2.VideoCapture", Camera)
    monkeypatch.setattr("anomalib_fbclip.concurrency.FIRST_PAUSE", 0.1)
    address = "rtsp://me:secret@cell-3/stream"
    options = ["--pictures", "--trigger", "change", "--every", "1"]
    assert watch(*options, rows=3, source=address) == 0
    rows = read_rows()
    names = {row["path"] for row in rows}
    assert len(names) == len({row["picture"] for row in rows}) == len(rows)
    assert all(name.startswith("rtsp://cell-3/stream#") for name in names)
    assert all(Path(row["picture"]).is_file() for row in rows)
    said = capsys.readouterr().out
    assert "rtsp://cell-3/stream gives no more frames" in said
    assert "rtsp://cell-3/stream is back." in said
    assert "secret" not in said


MISTAKES = {
    "no folder": (["nowhere"], "nowhere is not a folder"),
    "a file": (["model.xml"], "model.xml is not a folder"),
    "no camera": (["97"], "Camera 97 can't be opened"),
    "no webhook": (["incoming", "--webhook", "host/path"], "give https://host/path"),
    "no topic": (["incoming", "--mqtt", "mqtt://host"], "needs a topic"),
    "every of a folder": (["incoming", "--every", "10"], "--every is for cameras and streams"),
    "an unknown trigger": (["0", "--trigger", "motion"], "choose from"),
    "no model": (["incoming"], "none.xml does not exist"),
    "good with a model": (["incoming", "--good", "incoming"], "--good does not go with --model"),
    "a file as output": (["incoming", "--output", "model.xml"], "give another folder"),
    "results of another run": (["incoming", "--output", "other"], "give another folder"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_one_line(mistake: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What can be told without the model is told before it is loaded: here there is none."""
    Path("other").mkdir()
    Path("other/predictions.csv").write_text("rows", encoding="utf-8")
    arguments, message = MISTAKES[mistake]
    try:
        code = main(["watch", "--model", "none.xml", *arguments])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    screen = capsys.readouterr()
    (line,) = screen.err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not screen.out
    assert not Path("fbclip-watch").exists()
    assert [path.name for path in Path("other").iterdir()] == ["predictions.csv"]


@pytest.mark.parametrize(("module", "options"), [("watchfiles", []), ("httpx", ["--webhook", "http://host/"])])
def test_a_library_that_is_missing(
    module: str, options: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr("anomalib_fbclip.errors.find_spec", lambda name: None if name == module else find_spec(name))
    assert main(["watch", "incoming", "--model", "model.xml", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install 'anomalib-fbclip[line]'" in line


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Receivers:
    """A web server and an MQTT broker of this machine, which are stopped and started, and what they were told."""

    def __init__(self) -> None:
        self.posted: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.published: list[dict[str, Any]] = []
        self.ports = free_port(), free_port()
        self._server: ThreadingHTTPServer | None = None
        self._broker: subprocess.Popen[bytes] | None = None
        self._subscriber = self._subscribe() if MOSQUITTO else None
        Path("mosquitto.conf").write_text(
            f"listener {self.ports[1]} 127.0.0.1\nallow_anonymous true\npersistence true\n"
            f"persistence_location {Path.cwd()}/\nautosave_on_changes true\nautosave_interval 1\n"
            "user root\n",  # started by root, it would otherwise change to a user who can't save here who subscribed
            encoding="utf-8",
        )

    def start(self) -> None:
        receivers = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receivers.keys.append(self.headers["Idempotency-Key"])
                receivers.posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.ports[0]), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        if MOSQUITTO:
            self._broker = subprocess.Popen([MOSQUITTO, "-c", "mosquitto.conf"], stderr=subprocess.DEVNULL)
            wait_until(self.is_connected)

    def kill(self) -> None:
        if self._server:
            self._server.shutdown()
            self._server.server_close()
        if self._broker:
            self._broker.kill()
            self._broker.wait()

    def close(self) -> None:
        self.kill()
        if self._subscriber:
            self._subscriber.loop_stop()

    def is_connected(self) -> bool:
        return bool(self._subscriber and self._subscriber.is_connected())

    def options(self) -> list[str]:
        topic = ["--mqtt", f"mqtt://127.0.0.1:{self.ports[1]}/line/1"] if MOSQUITTO else []
        return ["--webhook", f"http://127.0.0.1:{self.ports[0]}/verdicts", *topic]

    def has(self, number: int) -> bool:
        return len(self.posted) >= number and (len(self.published) >= number or not MOSQUITTO)

    def _subscribe(self) -> Any:
        paho = pytest.importorskip("paho.mqtt.client")
        client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="test", clean_session=False)
        client.on_connect = lambda *_: client.subscribe("line/1", qos=1)
        client.on_message = lambda _, __, message: self.published.append(json.loads(message.payload))
        client.reconnect_delay_set(1, 1)
        client.connect_async("127.0.0.1", self.ports[1])
        client.loop_start()
        return client


@contextmanager
def receiving() -> Generator[Receivers]:
    receivers = Receivers()
    try:
        receivers.start()
        yield receivers
    finally:
        receivers.close()


@contextmanager
def watching(*options: str) -> Generator["subprocess.Popen[bytes]"]:
    command = [sys.executable, "-m", "anomalib_fbclip", "watch", "incoming", "--model", "model.xml"]
    variables = environment() | {"NO_PROXY": "127.0.0.1"}
    process = subprocess.Popen([*command, "--output", "results", *options], env=variables)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_no_verdict_is_lost_and_none_comes_twice() -> None:
    """Whoever is told goes away and comes back, and the command is killed in between."""
    with receiving() as receivers:
        with watching(*receivers.options()):
            for number in (1, 2):
                add(f"{number}.png", defective=number == 1)
            wait_until(lambda: receivers.has(2))
            receivers.kill()
            wait_until(lambda: not receivers.is_connected())
            for number in (3, 4, 5):
                add(f"{number}.png")
            wait_until(lambda: len(read_rows()) == 5)
        add("6.png")
        with watching(*receivers.options()) as process:
            wait_until(lambda: len(read_rows()) == 6)
            receivers.start()
            add("7.png")
            wait_until(lambda: receivers.has(7))
            process.terminate()
            assert process.wait() == 0, "those that were inspected since the start are normal"
    rows = read_rows()
    assert sorted(row["path"] for row in rows) == [f"incoming/{number}.png" for number in range(1, 8)]
    assert receivers.keys == [message["id"] for message in receivers.posted]
    for messages in [receivers.posted, *([receivers.published] if MOSQUITTO else [])]:
        assert len({message.pop("id") for message in messages}) == 7
        assert all(message.pop("time") for message in messages)
        assert messages == rows
    if not MOSQUITTO:
        pytest.skip("no broker: apt-get install mosquitto. The walk was made with a webhook alone")
