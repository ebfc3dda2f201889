# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The table: what stands in it, and what is left of it when something goes wrong."""

import csv
import errno
import json
from pathlib import Path

import jsonschema
import pandas as pd
import pytest

from anomalib_fbclip.images.image_files import printable
from anomalib_fbclip.results.records import COLUMNS, HEADER, Record, RecordWriter, Tail, write_records
from anomalib_fbclip.results.regions import Region
from anomalib_fbclip.results.thresholds import check_threshold
from support.schema import read_schema

RECORDS = [
    Record(
        "a, b.png",
        score=0.75,
        verdict="anomalous",
        threshold=0.5,
        threshold_source="labels",
        anomaly_map_max=0.9,
        pixel_threshold=0.4,
        pixel_threshold_source="masks",
        width=30,
        height=40,
        regions=[Region((0, 1, 20, 31), 444), Region((5, 5, 6, 6), 1)],
        seconds=0.25,
        picture="out/a, b.png",
    ),
    Record('two\nlines "quoted"\udcff.png', score=0.25, verdict="normal", regions=[]),
    Record(None, score=0.5),
    Record("broken.png", error="broken.png can't be read as an image: image file is truncated"),
]


def read_csv(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def read_lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def test_json_lines_follow_the_schema(tmp_path: Path) -> None:
    write_records(RECORDS, tmp_path / "new" / "folder")
    rows = read_lines(tmp_path / "new" / "folder")
    validator = jsonschema.Draft202012Validator(read_schema())
    for row, record in zip(rows, RECORDS, strict=True):
        validator.validate(row)
        assert list(row) == list(Record._fields)
        assert row["path"] == record.path
    assert rows[0]["regions"] == [{"box": [0, 1, 20, 31], "area": 444}, {"box": [5, 5, 6, 6], "area": 1}]


@pytest.mark.parametrize(
    "change",
    [
        {"score": None},
        {"score": 1.5},
        {"verdict": "unsure"},
        {"regions": []},  # of an anomalous image
        {"verdict": "normal"},  # with regions
        {"error": "broken", "regions": None},  # with a score
        {"threshold_source": "somewhere"},
        {"regions": [{"box": [0, 0, 1], "area": 1}]},
        {"new": 1},
    ],
)
def test_the_schema_refuses_what_contradicts_itself(change: dict) -> None:
    row = json.loads(RECORDS[0].to_json()) | change
    assert not jsonschema.Draft202012Validator(read_schema()).is_valid(row)


def test_a_spreadsheet_has_a_row_an_image(tmp_path: Path) -> None:
    write_records(RECORDS, tmp_path)
    rows = read_csv(tmp_path)
    assert [row["path"] for row in rows] == ["a, b.png", 'two\nlines "quoted"\\udcff.png', "", "broken.png"]
    assert tuple(rows[0]) == COLUMNS
    assert [rows[0][name] for name in ("regions", "left", "top", "right", "bottom", "area")] == [
        "2",
        "0",
        "1",
        "20",
        "31",
        "444",
    ]
    assert [(row["regions"], row["left"], row["area"]) for row in rows[1:]] == [
        ("0", "", ""),
        ("", "", ""),
        ("", "", ""),
    ]
    assert rows[3]["error"] == RECORDS[3].error


def test_a_spreadsheet_opens_in_excel_and_in_pandas(tmp_path: Path) -> None:
    """Excel takes a table for UTF-8 if it begins with a mark."""
    write_records([Record("Stück.png", score=0.5), *RECORDS], tmp_path)
    assert (tmp_path / "predictions.csv").read_bytes().startswith("\ufeffpath,".encode())
    table = pd.read_csv(tmp_path / "predictions.csv")
    assert list(table.columns) == list(COLUMNS)
    assert table["path"][0] == "Stück.png"
    assert len(pd.read_json(tmp_path / "predictions.jsonl", lines=True)) == len(table) == 1 + len(RECORDS)


def test_rows_are_there_as_soon_as_they_are_written(tmp_path: Path) -> None:
    with RecordWriter(tmp_path) as writer:
        assert (read_lines(tmp_path), read_csv(tmp_path)) == ([], [])
        for count, record in enumerate(RECORDS, 1):
            writer.write(record)
            assert len(read_lines(tmp_path)) == len(read_csv(tmp_path)) == count


class FullDisk:
    """A file that takes only a part of what is written."""

    def __init__(self, file, room: int, error: BaseException) -> None:
        self.file, self.room, self.error = file, room, error

    def __getattr__(self, name: str):
        return getattr(self.file, name)

    def write(self, content: bytes) -> int:
        if not self.room:
            raise self.error
        written = self.file.write(content[: self.room])
        self.room -= written
        return written


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_row_that_does_not_fit_is_taken_back(tmp_path: Path, place: int, error: BaseException) -> None:
    writer = RecordWriter(tmp_path)
    writer.write(RECORDS[0])
    writer._files[place] = FullDisk(writer._files[place], room=5, error=error)
    with pytest.raises(type(error)):
        writer.write(RECORDS[1])
    writer.close()
    assert len(read_lines(tmp_path)) == len(read_csv(tmp_path)) == 1


def test_an_earlier_table_stays(tmp_path: Path) -> None:
    write_records(RECORDS, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(FileExistsError):
        RecordWriter(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", ["predictions.csv", "predictions.jsonl"])
def test_half_a_table_stays_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(FileExistsError, match=name):
        RecordWriter(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_path_on_the_screen_is_one_line() -> None:
    assert printable("two\nlines\r\x1b[31m, é\udcff.png") == "two\\nlines\\r\\x1b[31m, é\\udcff.png"


@pytest.mark.parametrize("threshold", [-0.1, 1.5, float("nan"), float("inf")])
def test_a_threshold_off_the_scale_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match=rf"pixel_threshold.*{threshold}"):
        check_threshold("pixel_threshold", threshold)


@pytest.mark.parametrize("threshold", [None, 0, 0.5, 1])
def test_a_threshold_on_the_scale_passes(threshold: float | None) -> None:
    check_threshold("image_threshold", threshold)


def write_all_but_the_last(folder: Path) -> Tail:
    """Write a table without its last row, and give that."""
    with RecordWriter(folder) as writer:
        for record in RECORDS[:-1]:
            writer.write(record)
        return writer.next_tail(RECORDS[-1])


@pytest.mark.parametrize("written", [(0, 0), (7, 0), (10_000, 0), (10_000, 7), (10_000, 10_000)])
def test_a_table_goes_on(tmp_path: Path, written: tuple[int, int]) -> None:
    """Whatever there is of the last row: nothing, a part, all of it in one file or in both."""
    write_records(RECORDS, tmp_path / "whole")
    tail = write_all_but_the_last(tmp_path / "cut")
    for suffix, row, length in zip(("jsonl", "csv"), tail.rows, written, strict=True):
        with (tmp_path / f"cut/predictions.{suffix}").open("ab") as file:
            file.write(row[:length])
    with RecordWriter(tmp_path / "cut", tail=tail):
        pass
    for name in ("predictions.jsonl", "predictions.csv"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_table_that_lost_rows_goes_on_after_the_last_whole_one(tmp_path: Path) -> None:
    """A power cut takes what the system had not written yet."""
    tail = write_all_but_the_last(tmp_path)
    lines = (tmp_path / "predictions.jsonl").read_bytes()
    (tmp_path / "predictions.jsonl").write_bytes(lines[: lines.index(b"\n") + 20])
    with RecordWriter(tmp_path, tail=tail) as writer:
        writer.write(RECORDS[1])
    assert [row["path"] for row in read_lines(tmp_path)] == [RECORDS[index].path for index in (0, 3, 1)]


def test_a_table_that_was_taken_away_begins_anew(tmp_path: Path) -> None:
    tail = write_all_but_the_last(tmp_path)
    for path in tmp_path.iterdir():
        path.unlink()
    with RecordWriter(tmp_path, tail=tail) as writer:
        writer.write(RECORDS[0])
    assert len(read_lines(tmp_path)) == len(read_csv(tmp_path)) == 1


def test_a_table_whose_header_was_cut(tmp_path: Path) -> None:
    with RecordWriter(tmp_path):
        pass
    whole = (tmp_path / "predictions.csv").read_bytes()
    (tmp_path / "predictions.csv").write_bytes(whole[:5])
    with RecordWriter(tmp_path, tail=HEADER):
        pass
    assert (tmp_path / "predictions.csv").read_bytes() == whole
