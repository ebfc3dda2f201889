# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Photographs, and the command as a user types it."""

import subprocess
import sys
from pathlib import Path

import pytest

from support.command_line import run
from support.parts import Run, draw_part


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A folder with a good and a defective part, and a folder of good parts in it."""
    folder = tmp_path / "photographs"
    (folder / "good").mkdir(parents=True)
    for seed in range(4):
        draw_part(seed).save(folder / "good" / f"{seed}.png")
    draw_part(10).save(folder / "fine.png")
    draw_part(11, defective=True).save(folder / "spot.png")
    return folder


@pytest.fixture
def fbclip(tmp_path: Path) -> Run:
    """Runs the command in a folder of its own."""

    def run_command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return run(tmp_path, sys.executable, "-m", "anomalib_fbclip", *arguments)

    return run_command
