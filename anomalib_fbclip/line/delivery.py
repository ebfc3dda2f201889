# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Delivery of verdicts, in order, to an HTTP address or an MQTT topic. Until then, an outbox keeps them on disk."""

import errno
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from itertools import starmap
from pathlib import Path
from threading import Condition, Event, Lock
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from anomalib_fbclip.concurrency import growing_pauses
from anomalib_fbclip.errors import CommandError
from anomalib_fbclip.images.image_files import printable
from anomalib_fbclip.results.records import HEADER, TABLE_NAME, Tail

if TYPE_CHECKING:
    from httpx import Response
    from paho.mqtt.client import Client

OUTBOX_NAME = "outbox.sqlite"

# The write-ahead log survives the process without waiting for the disk. The lock keeps other processes out.
SETTINGS = ("PRAGMA locking_mode=EXCLUSIVE", "PRAGMA journal_mode=WAL", "PRAGMA synchronous=NORMAL")

TABLES = (
    "CREATE TABLE IF NOT EXISTS inspected (id TEXT PRIMARY KEY) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS unsent (number INTEGER PRIMARY KEY, target TEXT, id TEXT, body TEXT)",
    "CREATE INDEX IF NOT EXISTS unsent_of_target ON unsent (target, number)",
    "CREATE TABLE IF NOT EXISTS tail (line BLOB, row BLOB, line_end INTEGER, row_end INTEGER)",
)

TIMEOUT = 10.0
"""Seconds that a target may take to answer."""

LAST_SECONDS = 5.0
"""Seconds for which remaining messages are sent after the end."""

PORTS = {"mqtt": 1883, "mqtts": 8883}

IDEMPOTENCY_KEY = "Idempotency-Key"
"""Header of a request, by which a receiver recognizes a message that it already has."""


class Message(NamedTuple):
    """A message to a target."""

    id: str  # the photograph's, the same each time that the message is sent
    body: str  # a JSON object
    number: int = 0  # its place in the order, once it is in the outbox


class Outbox:
    """A file of inspected photographs, unsent messages, and the last row of the table.

    Each photograph is one transaction. Several threads of one process may use it, and no other process. Its folder is
    created if missing; a table of another run must not be there.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = Lock()
        path = folder / OUTBOX_NAME
        for table in folder.glob(f"{TABLE_NAME}.*"):
            if not path.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(table))
        path.touch()  # SQLite would not say why it can't
        self._connection = sqlite3.connect(path, timeout=1, check_same_thread=False)
        try:
            for statement in (*SETTINGS, "BEGIN EXCLUSIVE", *TABLES, "COMMIT"):
                self._connection.execute(statement)
        except sqlite3.DatabaseError as error:
            self._connection.close()
            if "locked" in str(error):
                msg = f"{printable(folder)} is in use by another fbclip watch: stop it, or give another --output."
            else:
                msg = f"{printable(path)} can't be used ({error}): give another folder with --output."
            raise CommandError(msg) from error

    def knows(self, identity: str) -> bool:
        """Return whether a photograph was inspected."""
        return bool(self._ask("SELECT 1 FROM inspected WHERE id = ?", identity))

    def add(self, message: Message, targets: Sequence[str], tail: Tail) -> None:
        """Add an inspected photograph, its message to each target, and its row, which is written to the table next."""
        with self._writing() as connection:
            connection.execute("INSERT INTO inspected VALUES (?)", (message.id,))
            connection.executemany(
                "INSERT INTO unsent (target, id, body) VALUES (?, ?, ?)",
                [(target, message.id, message.body) for target in targets],
            )
            connection.execute("DELETE FROM tail")
            connection.execute("INSERT INTO tail VALUES (?, ?, ?, ?)", (*tail.rows, *tail.ends))

    def tail(self) -> Tail:
        """Return the row that was added last."""
        for line, row, line_end, row_end in self._ask("SELECT * FROM tail"):
            return Tail((line, row), (line_end, row_end))
        return HEADER

    def next_of(self, target: str) -> Message | None:
        """Return the next message for a target; ``None`` if there is none."""
        sql = "SELECT id, body, number FROM unsent WHERE target = ? ORDER BY number LIMIT 1"
        return next(starmap(Message, self._ask(sql, target)), None)

    def remove(self, message: Message) -> None:
        """Remove a message that was accepted."""
        with self._writing() as connection:
            connection.execute("DELETE FROM unsent WHERE number = ?", (message.number,))

    def waiting(self) -> dict[str, int]:
        """Count the unsent messages of each target that has any."""
        return dict(self._ask("SELECT target, count(*) FROM unsent GROUP BY target ORDER BY target"))

    def _ask(self, sql: str, *values: str) -> list[tuple]:
        with self._lock:
            return self._connection.execute(sql, values).fetchall()

    @contextmanager
    def _writing(self) -> Generator[sqlite3.Connection]:
        try:
            with self._lock, self._connection:
                yield self._connection
        except sqlite3.OperationalError as error:
            msg = f"{OUTBOX_NAME}: {error}"
            raise OSError(msg) from error

    def __enter__(self) -> "Outbox":
        """Return the outbox, which is closed at the end."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._connection.close()


class UndeliveredError(Exception):
    """A message was not accepted, or got no answer. The text says why."""


class Webhook:
    """An address to which messages are posted. An answer with code 200 to 299 accepts one.

    Its name has no password. A ``ValueError`` says why an address is not valid.
    """

    def __init__(self, address: str) -> None:
        parts = _split(address, ("http", "https"), "https://host/path")
        import httpx

        try:
            self._address = httpx.URL(address)
        except httpx.InvalidURL as error:
            msg = f"{_without_password(parts)} is not a valid address: {error}"
            raise ValueError(msg) from error
        self.name = _without_password(parts)
        logging.getLogger(httpx.__name__).setLevel(logging.WARNING)  # it logs each request
        self._errors = httpx.HTTPError
        no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
        self._client = httpx.Client(timeout=TIMEOUT, cookies=no_cookies)

    def send(self, message: Message) -> None:
        """Post a message. An ``UndeliveredError`` says that it is refused, or that there is no answer."""
        headers = {"Content-Type": "application/json", IDEMPOTENCY_KEY: message.id}
        try:
            with self._client.stream("POST", self._address, content=message.body, headers=headers) as response:
                self._skip_content(response)
        except self._errors as error:
            raise UndeliveredError(str(error) or type(error).__name__) from error
        if not response.is_success:
            msg = f"it answers {response.status_code} {response.reason_phrase}"
            raise UndeliveredError(msg)

    def _skip_content(self, response: "Response") -> None:
        """Read the content of an answer, so that the connection can be used again, unless that takes too long."""
        end = time.monotonic() + TIMEOUT
        with suppress(self._errors):  # the status has come
            for _ in response.iter_raw():
                if time.monotonic() > end:
                    return

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


class Mqtt:
    """A topic of an MQTT broker. Messages have quality of service 1: the broker acknowledges each.

    The address is ``mqtt://host/topic``, or ``mqtts://`` for TLS, possibly with port, user and password.
    """

    def __init__(self, address: str) -> None:
        parts = _split(address, tuple(PORTS), "mqtt://host/topic")
        self._topic = unquote(parts.path.removeprefix("/"))
        if not self._topic or "+" in self._topic or "#" in address or parts.query:
            msg = f"{_without_password(parts)} needs a topic, without +, # and ?: mqtt://host/topic"
            raise ValueError(msg)
        import paho.mqtt.client
        import paho.mqtt.enums

        self.name = _without_password(parts)
        self._new_client = partial(paho.mqtt.client.Client, paho.mqtt.enums.CallbackAPIVersion.VERSION2)
        self._parts = parts
        self._client: Client | None = None

    def send(self, message: Message) -> None:
        """Publish a message. See :meth:`Webhook.send`."""
        try:
            is_taken = self._publish(message)
        except (OSError, RuntimeError, ValueError) as error:
            self.close()
            raise UndeliveredError(str(error)) from error
        if not is_taken:
            self.close()  # otherwise the library would also send it again
            msg = "the broker does not answer"
            raise UndeliveredError(msg)

    def _publish(self, message: Message) -> bool:
        if self._client is None or not self._client.is_connected():
            self.close()
            self._client = self._connect()
        published = self._client.publish(self._topic, message.body, qos=1)
        published.wait_for_publish(TIMEOUT)
        return published.is_published()

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.disconnect()
            self._client.loop_stop()
            self._client = None

    def _connect(self) -> "Client":
        """Connect, and wait for the broker's answer. An ``OSError`` says why there is no connection."""
        client = self._new_client()
        answers: list[str] = []
        answered = Event()

        def note(*arguments: object) -> None:
            reason = arguments[3]
            if getattr(reason, "is_failure", False):
                answers.append(str(reason))
            answered.set()

        client.on_connect = note
        if self._parts.username:
            client.username_pw_set(unquote(self._parts.username), unquote(self._parts.password or ""))
        if self._parts.scheme == "mqtts":
            client.tls_set()
        client.connect(self._parts.hostname or "", self._parts.port or PORTS[self._parts.scheme])
        client.loop_start()
        if answered.wait(TIMEOUT) and not answers:
            return client
        client.disconnect()
        client.loop_stop()
        msg = f"the broker refuses: {answers[0]}" if answers else "the broker does not answer"
        raise ConnectionError(msg)


Target = Webhook | Mqtt


class Delivery:
    """Sends the messages of an outbox in order, with one thread per target.

    A message that is not accepted is sent again after growing pauses, and the next ones wait. If only the answer was
    lost, a target gets a message twice, with the same id. ``tell`` shows when a target stops accepting messages, and
    when it accepts them again.
    """

    def __init__(self, outbox: Outbox, targets: Sequence[Target], tell: Callable[[str], None]) -> None:
        self._outbox = outbox
        self._targets = targets
        self._tell = tell
        self._stopped = Event()
        self._end = float("inf")
        self._changed = Condition()
        self._threads = ThreadPoolExecutor(max(len(targets), 1))
        self._running: list[Future[None]] = []

    @property
    def names(self) -> list[str]:
        """Names of the targets."""
        return [target.name for target in self._targets]

    def wake(self) -> None:
        """Have the threads send a new message. An error that has ended one of them is raised."""
        for future in self._running:
            if future.done():
                future.result()
        with self._changed:
            self._changed.notify_all()

    def _wait_for_message(self, target: Target) -> Message | None:
        """Return the next message for a target; ``None`` if there is none at the end."""
        with self._changed:
            while (message := self._outbox.next_of(target.name)) is None and not self._stopped.is_set():
                self._changed.wait()
            return message

    def _deliver(self, target: Target) -> None:
        """Send messages until the end, and the remaining ones for some seconds after it."""
        pauses: Iterator[float] | None = None
        while not (self._stopped.is_set() and (pauses or time.monotonic() > self._end)):
            message = self._wait_for_message(target)
            if message is None:
                break
            try:
                target.send(message)
            except UndeliveredError as error:
                if pauses is None:
                    self._tell(
                        f"{target.name} accepts no messages ({error}). Verdicts are kept, and sent once it is back."
                    )
                    pauses = growing_pauses()
                self._stopped.wait(next(pauses))
                continue
            self._outbox.remove(message)
            if pauses is not None:
                self._tell(f"{target.name} is back.")
                pauses = None
        target.close()

    def __enter__(self) -> "Delivery":
        """Start sending."""
        self._running = [self._threads.submit(self._deliver, target) for target in self._targets]
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Send the remaining messages, if the targets accept them, and end."""
        self._end = time.monotonic() + LAST_SECONDS
        with self._changed:
            self._stopped.set()
            self._changed.notify_all()
        self._threads.shutdown()
        if kind is None:
            self.wake()


def _split(address: str, schemes: Sequence[str], example: str) -> SplitResult:
    """Split an address. A ``ValueError`` says that it is not like the example."""
    wrong = f"{address.rpartition('@')[2]!r} is not a valid address: give {example}"
    try:
        parts = urlsplit(address)
        is_right = parts.scheme in schemes and parts.hostname and parts.port != 0 and address.isprintable()
    except ValueError as error:
        raise ValueError(wrong) from error
    if not is_right or " " in address:
        raise ValueError(wrong)
    return parts


def _without_password(parts: SplitResult) -> str:
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
