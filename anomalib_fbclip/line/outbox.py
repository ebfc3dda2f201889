# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Outbox of a line: the inspected photographs, and the messages that are not sent yet."""

import errno
import os
import sqlite3
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from itertools import starmap
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from anomalib_fbclip.errors import InspectionError
from anomalib_fbclip.images.image_files import printable
from anomalib_fbclip.results.records import HEADER, TABLE_NAME, Tail

OUTBOX_NAME = "outbox.sqlite"

# The write-ahead log survives the process without waiting for the disk. The lock keeps other processes out.
SETTINGS = ("PRAGMA locking_mode=EXCLUSIVE", "PRAGMA journal_mode=WAL", "PRAGMA synchronous=NORMAL")

TABLES = (
    "CREATE TABLE IF NOT EXISTS inspected (id TEXT PRIMARY KEY) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS unsent (number INTEGER PRIMARY KEY, target TEXT, id TEXT, body TEXT)",
    "CREATE INDEX IF NOT EXISTS unsent_of_target ON unsent (target, number)",
    "CREATE TABLE IF NOT EXISTS tail (line BLOB, row BLOB, line_end INTEGER, row_end INTEGER)",
)


class Message(NamedTuple):
    """A message to a target.

    Attributes:
        id (str): The photograph's id, the same each time that the message is sent.
        body (str): A JSON object.
        number (int): Its place in the order; 0 before it is in the outbox.
    """

    id: str
    body: str
    number: int = 0


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
            raise InspectionError(msg) from error

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
