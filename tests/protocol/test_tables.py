# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Tables of results."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from anomalib_fbclip.errors import CommandError
from anomalib_fbclip.protocol import tables
from anomalib_fbclip.protocol.tables import MEAN, METRICS, TYPES, add_results, read_results, tabulate, to_markdown


def row(category: str, *values: float | None, settings: str = '{"model": {}, "b": "x,y"}') -> dict[str, Any]:
    metrics = {name: value for name, value in zip(METRICS, values, strict=True) if value is not None}
    return {"category": category, **metrics, "normal": 3, "anomalous": 2, "settings": settings}


def frame(*rows: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(TYPES)).astype(TYPES)


ROWS = [row("bottle", 0.5, 0.6, 0.7, 0.8), row("cable", 0.7, None, 0.9, 1.0)]


def assert_same(found: pd.DataFrame, rows: list[dict[str, Any]]) -> None:
    pd.testing.assert_frame_equal(found.reset_index(drop=True), frame(*rows))


def test_mean_is_over_the_categories_for_which_a_metric_is_defined(tmp_path: Path) -> None:
    add_results(tmp_path / "parts.csv", ROWS)
    mean = pd.read_csv(tmp_path / "parts.csv").iloc[-1]
    assert mean["category"] == MEAN
    assert mean[[*METRICS]].tolist() == pytest.approx([0.6, 0.6, 0.8, 0.9])
    assert (mean["normal"], mean["anomalous"]) == (6, 4)


def test_csv(tmp_path: Path) -> None:
    path = tmp_path / "new" / "parts.csv"
    assert_same(read_results(path), [])
    add_results(path, ROWS[:1])
    add_results(path, ROWS[1:])
    assert_same(read_results(path), ROWS)
    header, *lines = path.read_text().splitlines()
    assert header == (
        "category,image_AUROC,image_AUPR,pixel_AUROC,pixel_AUPRO,image_Recall,image_FalsePositiveRate,"
        "normal,anomalous,settings"
    )
    assert [line.split(",")[0] for line in lines] == ["bottle", "cable", "mean"]
    assert lines[1].startswith("cable,0.700000,,0.900000,1.000000,,,3,2,")
    assert [file.name for file in path.parent.iterdir()] == ["parts.csv"]


def test_each_settings_have_means_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "parts.csv"
    other = row("bottle", 0.1, 0.1, 0.1, 0.1, settings="other")
    add_results(path, [*ROWS, other])
    add_results(path, [row("cable", 0.9, 0.9, 0.9, 0.9)])
    lines = [line.split(",")[:2] for line in path.read_text().splitlines()[1:]]
    assert lines == [
        ["bottle", "0.500000"],
        ["cable", "0.900000"],
        ["mean", "0.700000"],
        ["bottle", "0.100000"],
        ["mean", "0.100000"],
    ]


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "category,image_AUROC\nbottle,high\n"])
def test_another_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "parts.csv"
    path.write_text(text)
    with pytest.raises(CommandError, match=r"parts\.csv is not a table of results"):
        add_results(path, ROWS)
    assert path.read_text() == text


def test_categories_that_pandas_takes_for_something_else(tmp_path: Path) -> None:
    rows = [row(name, 0.5, 0.5, 0.5, 0.5) for name in ("01", "NA", "1e3")]
    add_results(tmp_path / "parts.csv", rows)
    assert_same(read_results(tmp_path / "parts.csv"), rows)


def test_a_table_that_excel_saved(tmp_path: Path) -> None:
    path = tmp_path / "parts.csv"
    add_results(path, ROWS)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert_same(read_results(path), ROWS)


def test_interrupted_writing_leaves_what_stood_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "parts.csv"
    add_results(path, ROWS)

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="No space left"):
        add_results(path, [row("pill", 0, 0, 0, 0)])
    assert_same(read_results(path), ROWS)
    assert [file.name for file in tmp_path.iterdir()] == ["parts.csv"]


def test_markdown() -> None:
    assert to_markdown(tabulate("parts", frame(*ROWS))).splitlines() == [
        "| category | image AUROC | image AP | pixel AUROC | pixel AUPRO |",
        "|---|---:|---:|---:|---:|",
        "| bottle | 50.0 | 60.0 | 70.0 | 80.0 |",
        "| cable | 70.0 | - | 90.0 | 100.0 |",
        "| mean | 60.0 | 60.0 | 80.0 | 90.0 |",
    ]


def test_published_figures_beside_the_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    published = pd.DataFrame([[0.51, 0.61, 0.71, 0.81], [0.3] * 4], ["bottle", "cable"], [*METRICS])
    monkeypatch.setattr(tables, "_find_published", lambda *_: published)
    cells = tabulate("parts", frame(*ROWS, row("my own", 0.1, 0.2, 0.3, 0.4)))
    assert to_markdown(cells).splitlines() == [
        "| category | " + " | ".join(f"{title} (published)" for title in METRICS.values()) + " |",
        "|---|---:|---:|---:|---:|",
        "| bottle | 50.0 (51.0) | 60.0 (61.0) | 70.0 (71.0) | 80.0 (81.0) |",
        "| cable | 70.0 (30.0) | - (30.0) | 90.0 (30.0) | 100.0 (30.0) |",
        "| my own | 10.0 | 20.0 | 30.0 | 40.0 |",
        "| mean | 43.3 | 40.0 | 63.3 | 73.3 |",
    ]
