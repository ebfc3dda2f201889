# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The table of predictions: one schema, whoever writes it."""

import csv
import errno
import io
import json
import os
from collections.abc import Iterable
from contextlib import ExitStack
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple

from .regions import Region

TABLE_NAME = "predictions"
"""Name of the table's files, without their suffixes."""

BYTE_ORDER_MARK = "\ufeff"
"""What Excel tells UTF-8 by."""

Verdict = Literal["normal", "anomalous", "unknown"]

LARGEST_REGION = ("left", "top", "right", "bottom", "area")


class Record(NamedTuple):
    """What is said of an image: a row of the table. The schema in this folder describes it, too.

    Attributes:
        path (str | None): The image's file; ``None`` for an image that comes from none.
        error (str | None): Why the image could not be predicted; nothing else but its path is then known.
        score (float | None): How anomalous it is, 0..1, after the normalization if there was one.
        verdict (Verdict | None): Whether the score is above the threshold; ``unknown`` for what is like none of several
            products; ``None`` where no threshold is applied.
        threshold (float | None): The threshold of the score.
        threshold_source (str | None): Where it comes from: ``given``, ``labels``, ``normal images``, ``good
            photographs``, ``checkpoint``, ``exported file`` or ``default``.
        anomaly_map_max (float | None): The largest value of the anomaly map, 0..1.
        pixel_threshold (float | None): The threshold of the anomaly map; ``None`` where there is none for all images.
        pixel_threshold_source (str | None): Where it comes from: as above, or ``masks``.
        width (int | None): Width of the image in pixels.
        height (int | None): Height of the image in pixels.
        regions (list[Region] | None): Where the anomaly map is above its threshold, the largest region first: at least
            one in an anomalous image, and none in a normal one. ``None`` where no threshold is applied.
        seconds (float | None): How long the computation took, where it was measured.
        picture (str | None): File of the picture that shows the prediction, if there is one.
        same_as (str | None): The good photograph that the image is a copy of, if it is one: its score means nothing.
        product (str | None): Name of the product that the image was compared with.
        label (Verdict | None): The truth, where it is known: ``anomalous`` for a defective part.
    """

    path: str | None
    error: str | None = None
    score: float | None = None
    verdict: Verdict | None = None
    threshold: float | None = None
    threshold_source: str | None = None
    anomaly_map_max: float | None = None
    pixel_threshold: float | None = None
    pixel_threshold_source: str | None = None
    width: int | None = None
    height: int | None = None
    regions: list[Region] | None = None
    seconds: float | None = None
    picture: str | None = None
    same_as: str | None = None
    product: str | None = None
    label: Verdict | None = None

    def to_json(self) -> str:
        """Write the record as a line of JSON."""
        regions = None if self.regions is None else [region._asdict() for region in self.regions]
        return json.dumps(self._asdict() | {"regions": regions}, allow_nan=False) + "\n"

    def to_csv(self) -> str:
        """Write the record as a row of a spreadsheet: the number of regions, and the largest in columns of its own."""
        largest = (*self.regions[0].box, self.regions[0].area) if self.regions else ()
        values: dict[str, Any] = self._asdict() | dict(zip(LARGEST_REGION, largest, strict=False))
        return _to_row(values | {"regions": None if self.regions is None else len(self.regions)})


COLUMNS = tuple(
    column for field in Record._fields for column in ((field, *LARGEST_REGION) if field == "regions" else (field,))
)
"""Columns of the CSV file."""


class Tail(NamedTuple):
    """A row at the end of both files of a table.

    Attributes:
        rows (tuple[bytes, bytes]): The row, as JSON and as CSV.
        ends (tuple[int, int]): Where it begins in each file, in bytes.
    """

    rows: tuple[bytes, bytes]
    ends: tuple[int, int]


def _to_row(values: dict[str, Any]) -> str:
    text = io.StringIO()
    csv.writer(text).writerow([values.get(column) for column in COLUMNS])
    return text.getvalue()


HEADER = Tail((b"", (BYTE_ORDER_MARK + _to_row(dict(zip(COLUMNS, COLUMNS, strict=True)))).encode()), (0, 0))
"""What a table without rows ends with."""


class RecordWriter:
    r"""Writes ``predictions.jsonl`` and ``predictions.csv``, row by row as they come.

    The CSV file is UTF-8 with a byte order mark. Of a name that is no UTF-8, it has the bytes as ``\udcff``; the JSON
    lines have the name itself. Both hold complete rows at any time: a row that can't be written, because the disk is
    full, is taken back.

    Args:
        folder (Path): The folder, which is made if it does not exist.
        name (str, optional): Name of the files without their suffixes. Defaults to ``"predictions"``.
        tail (Tail | None, optional): The last row of a table that goes on. It is written anew, because the files may
            have a part of it only, or nothing. ``None``: a new table. Defaults to ``None``.

    Raises:
        FileExistsError: If one of the files of a new table is there already.
        OSError: If they can't be made.

    Example:
        >>> with RecordWriter(Path("results")) as writer:  # doctest: +SKIP
        ...     writer.write(Record("photograph.jpg", score=0.9, verdict="anomalous"))
    """

    def __init__(self, folder: Path, name: str = TABLE_NAME, tail: Tail | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.paths = [folder / f"{name}.jsonl", folder / f"{name}.csv"]
        for path in self.paths:
            if tail is None and path.exists():  # before the other file is made
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        with ExitStack() as stack:
            mode = "x" if tail is None else "a+"
            self._files = [stack.enter_context(io.FileIO(path, mode)) for path in self.paths]
            known = zip(self._files, HEADER.rows, *(tail or HEADER), strict=True)
            # A file that is empty is new, or its rows were taken elsewhere.
            line, row = (last if _cut(file, end) else header for file, header, last, end in known)
            self.append((line, row))
            stack.pop_all()

    def next_tail(self, record: Record) -> Tail:
        """Give the row that a record makes, and where it begins if it is written next."""
        lines, table = (file.seek(0, os.SEEK_END) for file in self._files)
        return Tail((record.to_json().encode(), record.to_csv().encode(errors="backslashreplace")), (lines, table))

    def write(self, record: Record) -> None:
        """Add a row to both files.

        Args:
            record (Record): The row.

        Raises:
            OSError: If it can't be written.
        """
        self.append(self.next_tail(record).rows)

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()

    def append(self, rows: tuple[bytes, bytes]) -> None:
        """Add a row, as JSON and as CSV.

        Args:
            rows (tuple[bytes, bytes]): The row.

        Raises:
            OSError: If it can't be written.
        """
        ends = [file.seek(0, os.SEEK_END) for file in self._files]
        try:
            for file, row in zip(self._files, rows, strict=True):
                _write_all(file, row)
        except BaseException:  # an interrupt, too
            for file, end in zip(self._files, ends, strict=True):
                file.truncate(end)
            raise

    def __enter__(self) -> "RecordWriter":
        """Give the writer, to be closed in the end."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the files."""
        self.close()


def write_records(records: Iterable[Record], folder: Path) -> None:
    """Write a whole table.

    Args:
        records (Iterable[Record]): The rows.
        folder (Path): The folder, which is made if it does not exist.

    Raises:
        FileExistsError: If there is a table already.
        OSError: If it can't be written.
    """
    with RecordWriter(folder) as writer:
        for record in records:
            writer.write(record)


def read_schema() -> dict[str, Any]:
    """Read the JSON Schema of a record."""
    schema: dict[str, Any] = json.loads((files(__package__) / "prediction.schema.json").read_text(encoding="utf-8"))
    return schema


def _cut(file: io.FileIO, end: int) -> bool:
    """Cut a file where its last row begins, or where the last whole row ends if it is shorter; tell if it had any."""
    size = file.seek(0, os.SEEK_END)
    if size < end:
        file.seek(0)
        end = file.readall().rfind(b"\n") + 1
    file.truncate(end)
    return size > 0


def _write_all(file: io.FileIO, content: bytes) -> None:
    while content:
        content = content[file.write(content) or 0 :]
