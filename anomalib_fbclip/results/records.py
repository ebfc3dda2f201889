# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The table of predictions, with one schema for all models."""

import csv
import errno
import io
import json
import os
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, NamedTuple

from .regions import Region

TABLE_NAME = "predictions"
"""Name of the table's files, without their suffixes."""

Verdict = Literal["normal", "anomalous", "unknown"]

LARGEST_REGION = ("left", "top", "right", "bottom", "area")


class Record(NamedTuple):
    """A row of the table: the prediction for an image. ``prediction.schema.json`` is its JSON Schema.

    Attributes:
        path (str | None): The image's file; ``None`` for an image without one.
        error (str | None): Why there is no prediction; then all but the path is ``None``.
        score (float | None): Anomaly score, 0..1, after the normalization if there was one.
        verdict (Verdict | None): ``anomalous`` if the score is above the threshold; ``unknown`` if the image is unlike
            all products; ``None`` if no threshold is applied.
        threshold (float | None): The threshold of the score.
        threshold_source (str | None): Its source: ``given``, ``labels``, ``normal images``, ``good photographs``,
            ``checkpoint``, ``exported file`` or ``default``.
        anomaly_map_max (float | None): The largest value of the anomaly map, 0..1.
        pixel_threshold (float | None): The threshold of the anomaly map; ``None`` if images have different ones.
        pixel_threshold_source (str | None): Its source: as above, or ``masks``.
        width (int | None): Width of the image in pixels.
        height (int | None): Height of the image in pixels.
        regions (list[Region] | None): Regions where the anomaly map is above its threshold, the largest first: at least
            one in an anomalous image, and none in a normal one. ``None`` if no threshold is applied.
        seconds (float | None): Time of the computation, if measured.
        picture (str | None): File of the picture, if there is one.
        same_as (str | None): The good photograph that the image is a copy of, if any. Its score then means nothing.
        product (str | None): Name of the product that the image was compared with.
        label (Verdict | None): The true verdict, if known.
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
        """Format the record as a line of JSON."""
        regions = None if self.regions is None else [region._asdict() for region in self.regions]
        return json.dumps(self._asdict() | {"regions": regions}, allow_nan=False) + "\n"

    def to_csv(self) -> str:
        """Format the record as a row of CSV, with the number of regions and the largest one."""
        largest = (*self.regions[0].box, self.regions[0].area) if self.regions else ()
        values: dict[str, Any] = self._asdict() | dict(zip(LARGEST_REGION, largest, strict=False))
        return _to_row(values | {"regions": None if self.regions is None else len(self.regions)})


COLUMNS = tuple(
    column for field in Record._fields for column in ((field, *LARGEST_REGION) if field == "regions" else (field,))
)
"""Columns of the CSV file."""


class Tail(NamedTuple):
    """The last row of a table, as JSON and as CSV, and the number of bytes before it in each of the two files."""

    rows: tuple[bytes, bytes]
    ends: tuple[int, int]


def _to_row(values: dict[str, Any]) -> str:
    text = io.StringIO()
    csv.writer(text).writerow([values.get(column) for column in COLUMNS])
    return text.getvalue()


HEADER = Tail((b"", _to_row(dict(zip(COLUMNS, COLUMNS, strict=True))).encode("utf-8-sig")), (0, 0))
"""Tail of a table without rows. Excel recognizes UTF-8 by the byte order mark."""


class RecordWriter:
    r"""A writer of ``predictions.jsonl`` and ``predictions.csv``, row by row.

    The CSV file is UTF-8 with a byte order mark. Bytes of a name that are not UTF-8 become text such as ``\udcff``; the
    JSON lines have the name itself. Both files always have complete rows: one that does not fit on the disk is removed.

    ``tail`` is the last row of a table to continue. It is written again, because the files may have none or only a part
    of it. ``None`` is a new table, whose files must not exist.
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
            # An empty file is new, or was replaced.
            line, row = (last if _cut(file, end) else header for file, header, last, end in known)
            self.append((line, row))
            stack.pop_all()

    def next_tail(self, record: Record) -> Tail:
        """Return a record's row as the next one of the table."""
        lines, table = (file.seek(0, os.SEEK_END) for file in self._files)
        return Tail((record.to_json().encode(), record.to_csv().encode(errors="backslashreplace")), (lines, table))

    def write(self, record: Record) -> None:
        """Add a row to both files."""
        self.append(self.next_tail(record).rows)

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()

    def append(self, rows: tuple[bytes, bytes]) -> None:
        """Add a row, as JSON and as CSV."""
        ends = [file.seek(0, os.SEEK_END) for file in self._files]
        try:
            for file, row in zip(self._files, rows, strict=True):
                _write_all(file, row)
        except BaseException:  # an interrupt, too
            for file, end in zip(self._files, ends, strict=True):
                file.truncate(end)
            raise

    def __enter__(self) -> "RecordWriter":
        """Return the writer, which is closed at the end."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the files."""
        self.close()


def write_records(records: Iterable[Record], folder: Path) -> None:
    """Write a whole new table to a folder, which is created if missing."""
    with RecordWriter(folder) as writer:
        for record in records:
            writer.write(record)


def _cut(file: io.FileIO, end: int) -> bool:
    """Cut a file at a length, or after its last whole row if it is shorter; return whether it had any content."""
    size = file.seek(0, os.SEEK_END)
    if size < end:
        file.seek(0)
        end = file.readall().rfind(b"\n") + 1
    file.truncate(end)
    return size > 0


def _write_all(file: io.FileIO, content: bytes) -> None:
    while content:
        content = content[file.write(content) or 0 :]
