# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The commands of ``docs/line.md`` run as they stand there, with a small exported model for the product."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from anomalib_fbclip.cli.watch import create_parser
from anomalib_fbclip.errors import OF_THE_LINE
from anomalib_fbclip.line.arrivals import TEMPORARY_SUFFIXES
from anomalib_fbclip.results.records import Record
from support.graphs import write_graph
from support.line import add, read_rows, run_until

PAGE = (Path(__file__).parents[2] / "docs" / "line.md").read_text(encoding="utf-8")

COMMANDS = re.findall(r"^fbclip (watch .+)$", PAGE, re.MULTILINE)


class Camera:
    """In place of OpenCV's reader."""

    def __init__(self, source: object) -> None:
        del source
        self._shade = 0

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's
        return True

    def read(self) -> tuple[bool, np.ndarray]:
        self._shade += 1
        return self._shade < 200, np.full((48, 64, 3), self._shade % 100, dtype=np.uint8)

    def release(self) -> None:
        pass


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cv2.VideoCapture", Camera)
    write_graph(Path("model.xml"))
    Path("incoming").mkdir()
    add("17.png")
    _, *arguments = shlex.split(
        command.replace("--product bolt.fbclip", "--model model.xml").replace("host/", "127.0.0.1:9/")
    )
    folder = create_parser().parse_args(arguments).output
    assert run_until(lambda: read_rows(folder), *arguments) == 0


def test_what_is_installed() -> None:
    (packages,) = re.findall(r"^pip install (numpy .+) && pip install --no-deps \.$", PAGE, re.MULTILINE)
    assert set(OF_THE_LINE.values()) <= set(packages.split())


def test_temporary_names() -> None:
    assert set(re.findall(r"`(\.[a-z]+)`", PAGE)) == TEMPORARY_SUFFIXES


def test_a_message() -> None:
    (message,) = re.findall(r"^```json\n(.+?)\n```$", PAGE, re.DOTALL | re.MULTILINE)
    assert json.loads(message).keys() <= {"id", "time", *Record._fields}
