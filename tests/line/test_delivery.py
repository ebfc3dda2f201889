# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""What is kept on disk, and how it reaches who is told."""

import sqlite3
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from anomalib_fbclip.errors import CommandError
from anomalib_fbclip.line.delivery import OUTBOX_NAME, Delivery, Message, Mqtt, Outbox, UndeliveredError, Webhook
from anomalib_fbclip.results.records import HEADER, Tail

TAIL = Tail((b"line\n", b"row, \\udcff\r\n"), (10, 20))


class Receiver:
    """Takes messages, or doesn't."""

    name = "http://here/"

    def __init__(self, *, refuses: int = 0) -> None:
        self.taken: list[str] = []
        self.refused = threading.Event()
        self._refuses = refuses

    def send(self, message: Message) -> None:
        if self._refuses:
            self._refuses -= 1
            self.refused.set()
            msg = "not now"
            raise UndeliveredError(msg)
        self.taken.append(message.body)

    def close(self) -> None:
        self.name = "closed"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anomalib_fbclip.concurrency.FIRST_PAUSE", 0.01)


def add(outbox: Outbox, *ids: str, targets: tuple[str, ...] = ("http://here/",)) -> None:
    for name in ids:
        outbox.add(Message(name, f"body of {name}"), targets, TAIL)


def test_it_is_kept(tmp_path: Path) -> None:
    with Outbox(tmp_path / "new") as outbox:
        assert outbox.tail() == HEADER
        add(outbox, "a", "b", targets=("x", "y"))
        outbox.remove(outbox.next_of("x"))
    with Outbox(tmp_path / "new") as outbox:
        assert [outbox.knows(name) for name in "abc"] == [True, True, False]
        assert outbox.waiting() == {"x": 1, "y": 2}
        assert outbox.next_of("x") == Message("b", "body of b", number=3)
        assert outbox.tail() == TAIL


def test_all_of_a_photograph_or_nothing(tmp_path: Path) -> None:
    with Outbox(tmp_path) as outbox:
        add(outbox, "a")
        with pytest.raises(sqlite3.IntegrityError):
            outbox.add(Message("a", "once more"), ["x"], HEADER)
        assert outbox.waiting() == {"http://here/": 1}
        assert outbox.tail() == TAIL


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with Outbox(tmp_path), pytest.raises(CommandError, match="in use by another fbclip watch"):
        Outbox(tmp_path)
    with Outbox(tmp_path):
        pass


def test_what_is_no_outbox(tmp_path: Path) -> None:
    (tmp_path / OUTBOX_NAME).write_bytes(b"nothing of the kind" * 100)
    with pytest.raises(CommandError, match=r"can't be used \(file is not a database\)"):
        Outbox(tmp_path)


def test_the_table_of_another_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "predictions.jsonl").write_text("rows", encoding="utf-8")
    with pytest.raises(FileExistsError):
        Outbox(tmp_path)
    assert not (tmp_path / OUTBOX_NAME).exists()


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises((OSError, CommandError)), Outbox(tmp_path) as outbox:
        add(outbox, *map(str, range(1000)))


def test_each_target_gets_all_in_order(tmp_path: Path) -> None:
    first, second, told = Receiver(), Receiver(refuses=3), []
    second.name = "mqtt://there/"
    with Outbox(tmp_path) as outbox, Delivery(outbox, [first, second], told.append) as delivery:
        for name in "abc":
            add(outbox, name, targets=tuple(delivery.names))
            delivery.wake()
        second.refused.wait()
        while outbox.waiting():
            pass
    assert first.taken == second.taken == ["body of a", "body of b", "body of c"]
    assert told[0] == "mqtt://there/ accepts no messages (not now). Verdicts are kept, and sent once it is back."
    assert told[1:] == ["mqtt://there/ is back."]


def test_what_was_not_taken_is_sent_after_the_next_start(tmp_path: Path) -> None:
    away = Receiver(refuses=1000)
    with Outbox(tmp_path) as outbox, Delivery(outbox, [away], [].append) as delivery:
        add(outbox, "a", "b")
        delivery.wake()
        away.refused.wait()
    assert not away.taken
    back = Receiver()
    with Outbox(tmp_path) as outbox, Delivery(outbox, [back], [].append):
        pass
    assert back.taken == ["body of a", "body of b"]


def test_an_error_in_a_thread_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is sent any more, so nothing may go on as if it were."""

    def fail(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(Outbox, "remove", fail)
    with pytest.raises(OSError), Outbox(tmp_path) as outbox, Delivery(outbox, [Receiver()], [].append):  # noqa: PT011
        add(outbox, "a")


@pytest.mark.parametrize(
    ("kind", "address", "words"),
    [
        (Webhook, "host/path", "give https://host/path"),
        (Webhook, "ftp://host/path", "give https://host/path"),
        (Webhook, "http:///path", "give https://host/path"),
        (Webhook, "http://host:port/", "give https://host/path"),
        (Webhook, "http://two words/", "give https://host/path"),
        (Mqtt, "mqtt://host", "needs a topic"),
        (Mqtt, "mqtt://host/parts/#", "needs a topic"),
        (Mqtt, "http://host/topic", "give mqtt://host/topic"),
        (Mqtt, "mqtt://me:secret@/topic", "give mqtt://host/topic"),
    ],
)
def test_what_is_no_address(kind: type, address: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        kind(address)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "address"), [(Webhook, "https://me:secret@host:8000/a"), (Mqtt, "mqtts://me:secret@host:8000/a/b")]
)
def test_passwords_are_in_no_name(kind: type, address: str) -> None:
    assert kind(address).name == address.replace("me:secret@", "")


class Answers(BaseHTTPRequestHandler):
    """Accepts what is posted, with a cookie that can't be sent back and an answer that does not end."""

    answered: ClassVar[list[str | None]] = []
    left: ClassVar[threading.Event] = threading.Event()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answered.append(self.headers["Cookie"])
        self.send_response(200)
        self.send_header("Set-Cookie", "a=\xff;;;=")
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        try:
            while True:
                self.wfile.write(b".")
                time.sleep(0.02)
        except OSError:
            self.left.set()

    def log_message(self, *_: object) -> None:
        pass


def test_what_a_target_answers_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the status does: cookies are not kept, and content is not waited for."""
    monkeypatch.setattr("anomalib_fbclip.line.delivery.TIMEOUT", 0.2)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        target = Webhook(f"http://127.0.0.1:{server.server_port}/verdicts")
        for name in "ab":
            target.send(Message(name, "{}"))
            assert Answers.left.wait(60)
            Answers.left.clear()
        target.close()
        server.shutdown()
    assert Answers.answered == [None, None]


@pytest.mark.parametrize("kind", [Webhook, Mqtt])
def test_nobody_is_there(kind: type) -> None:
    target = kind(f"{'http' if kind is Webhook else 'mqtt'}://127.0.0.1:9/a")
    with pytest.raises(UndeliveredError):
        target.send(Message("a", "{}"))
    target.close()
