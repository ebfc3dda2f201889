# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Figures of the paper's model beside what is measured."""

import json
from pathlib import Path

import pandas as pd
import pytest
from anomalib.data.datasets.image.mvtecad import CATEGORIES as MVTEC
from anomalib.data.datasets.image.visa import CATEGORIES as VISA

from anomalib_fbclip.protocol import command, tables
from anomalib_fbclip.protocol.__main__ import main
from anomalib_fbclip.protocol.command import create_parser
from anomalib_fbclip.protocol.tables import MEAN, METRICS, add_results
from layouts import write_category

MEANS = {"MVTecAD": (92.4, 96.6, 91.9, 85.5), "visa": (89.5, 90.7, 96.3, 90.4)}
"""The paper's, but for AUPRO, by which the source of the file and the paper differ."""


def results(*categories: str, **model: object) -> pd.DataFrame:
    """Results of categories, as far as it matters which figures they are beside."""
    return pd.DataFrame({"category": categories, "settings": json.dumps({"model": model})})


@pytest.mark.parametrize(("dataset", "categories"), [("MVTecAD", MVTEC), ("visa", VISA)])
def test_all_categories_have_figures(dataset: str, categories: tuple[str, ...]) -> None:
    found = tables._find_published(dataset, results(*categories))
    assert [*found.index] == [*categories, MEAN]
    assert ((found > 0) & (found <= 1)).all(axis=None)
    assert (100 * found.loc[MEAN, [*METRICS]]).tolist() == pytest.approx(MEANS[dataset], abs=0.06)


def test_figures_are_as_in_the_file() -> None:
    found = tables._find_published("mvtec", results("bottle", "my own"))
    assert [*found.index] == ["bottle"]
    assert found.loc["bottle", [*METRICS]].tolist() == pytest.approx([0.9627, 0.9879, 0.9338, 0.8671])


@pytest.mark.parametrize(("dataset", "zero_shot", "other"), [("MVTecAD", "visa", "mvtec"), ("Visa", "mvtec", "visa")])
def test_the_authors_adapters_by_name(dataset: str, zero_shot: str, other: str) -> None:
    category = "bottle" if dataset == "MVTecAD" else "candle"
    assert len(tables._find_published(dataset, results(category, weights=zero_shot))) == 2
    assert tables._find_published(dataset, results(category, weights=other)).empty


@pytest.mark.parametrize(
    "model",
    [
        {"backbone": "fbclip-small"},
        {"backbone": "ViT-B-16"},
        {"weights": "adapters.safetensors"},
        {"weights": None},
        {"k_shot": 4},
        {"views": ["identity"]},
    ],
)
def test_other_models_have_none(model: dict[str, object]) -> None:
    assert tables._find_published("MVTecAD", results("bottle", **model)).empty


def test_other_datasets_have_none() -> None:
    assert tables._find_published("mpdd", results("bottle")).empty


def test_in_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """What the file holds is not tested again, so that it shows without the paper's model how the table comes out."""
    root = tmp_path / "MVTecAD"
    write_category(root / "bottle", "broken", "_mask")
    monkeypatch.chdir(tmp_path)
    arguments = ["--data", "MVTecAD", "--data.root", str(root), "--output", "results"]
    options = create_parser().parse_args(arguments)
    data = {"class_path": options.data.class_path, "init_args": options.data.init_args.as_dict()}
    described = command._describe_settings(options.model.as_dict(), data, [])
    row = {"category": "bottle", **dict.fromkeys(METRICS, 0.5), "normal": 3, "anomalous": 2, "settings": described}
    add_results(Path("results/MVTecAD.csv"), [row])
    before = Path("results/MVTecAD.csv").read_bytes()
    assert main(arguments) == 0
    lines = Path("results/MVTecAD.md").read_text(encoding="utf-8").splitlines()
    assert lines[-2:] == [
        "| bottle | 50.0 (96.3) | 50.0 (98.8) | 50.0 (93.4) | 50.0 (86.7) |",
        "| mean | 50.0 (96.3) | 50.0 (98.8) | 50.0 (93.4) | 50.0 (86.7) |",
    ]
    assert "(96.3)" in capsys.readouterr().out
    assert Path("results/MVTecAD.csv").read_bytes() == before
