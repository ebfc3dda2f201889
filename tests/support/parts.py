# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Parts that are inspected, and the command as a user types it."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anomalib_fbclip.__main__ import main

Run = Callable[..., subprocess.CompletedProcess[str]]


def draw_part(seed: int, *, defective: bool = False) -> Image.Image:
    """Draw a gray part with a little noise, and a bright spot if it is defective."""
    stream = np.random.default_rng(seed)
    pixels = np.full((100, 140, 3), 90) + stream.integers(0, 12, (100, 140, 3))
    if defective:
        pixels[30:60, 50:90] = (250, 230, 40)
    return Image.fromarray(pixels.astype(np.uint8))


def read_rows() -> list[dict[str, Any]]:
    """Read the table of the last run in this folder."""
    lines = Path("fbclip-results/latest/predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def fails(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    """Run the command, which refuses its arguments in a line."""
    capsys.readouterr()
    try:
        code = main(arguments)
    except SystemExit as stop:
        code = stop.code
    (line,) = capsys.readouterr().err.splitlines()
    assert code == 2
    assert line.startswith("error: ")
    return line
