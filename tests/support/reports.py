# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Reports of small generated photographs."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from anomalib_fbclip.results.records import Record
from anomalib_fbclip.results.report import Entry, Thresholds, write_report

COMMAND = "fbclip 'my photographs' --threshold {threshold} --pixel-threshold {pixel_threshold}"
THRESHOLDS = Thresholds(0.5, 0.5, "normal images", "default")
ABOUT = {"Model": "backbone of a test"}


def photograph(width: int = 120, height: int = 80, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height))


def entry(path: str | None, score: float, peak: float = 1.0, **fields: object) -> Entry:
    """Make an entry whose anomaly map is ``peak`` in one place of a quarter of the map, and 0 elsewhere."""
    anomaly_map = np.zeros((32, 48), dtype=np.float32)
    anomaly_map[8:24, 12:36] = peak
    known = {"verdict": "anomalous" if score > THRESHOLDS.image else "normal", "width": 120, "height": 80}
    return Entry(Record(path, score=score, **(known | fields)), photograph(), anomaly_map)  # type: ignore[arg-type]


def write_small_report(folder: Path, entries: Iterable[Entry], **settings: object) -> Path:
    path = folder / "report.html"
    known = {"thresholds": THRESHOLDS, "command": COMMAND, "about": ABOUT}
    write_report(path, entries, **(known | settings))  # type: ignore[arg-type]
    return path
