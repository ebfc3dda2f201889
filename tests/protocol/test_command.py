# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The protocol as a command."""

import csv
import json
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from anomalib.data import MVTecAD
from anomalib.engine import Engine

from anomalib_fbclip import FBClip
from anomalib_fbclip.protocol import command as protocol
from anomalib_fbclip.protocol.__main__ import main
from anomalib_fbclip.protocol.command import Plan, run_missing
from anomalib_fbclip.protocol.tables import MEASURED, METRICS, read_results
from datasets import WRITERS
from layouts import write_category
from support.command_line import CONFIGS, run


@pytest.fixture(scope="session")
def mvtec(tmp_path_factory: pytest.TempPathFactory, mvtec: Path) -> Path:
    """Two categories in MVTec AD's layout, in a folder of the usual name."""
    return shutil.copytree(mvtec, tmp_path_factory.mktemp("datasets") / "MVTecAD")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def small(small_backbone: str, small_adapters: Path) -> tuple[str, ...]:
    """Arguments for the small model."""
    return ("--model.backbone", small_backbone, "--model.weights", str(small_adapters), "--accelerator", "cpu")


def of_mvtec(root: Path) -> tuple[str, ...]:
    return ("--data", "MVTecAD", "--data.root", str(root), "--data.num_workers", "0", "--output", "results")


@pytest.fixture
def tested(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Categories that are really tested, as they are."""
    names: list[str] = []
    evaluate = protocol._evaluate

    def note(plan: Plan, category: str) -> object:
        names.append(category)
        return evaluate(plan, category)

    monkeypatch.setattr(protocol, "_evaluate", note)
    return names


def test_table_of_all_categories(mvtec: Path, small: tuple[str, ...], capsys: pytest.CaptureFixture) -> None:
    assert main([*small, *of_mvtec(mvtec)]) == 0
    screen = capsys.readouterr()
    assert "[1/2] bottle: image AUROC" in screen.err
    assert "FB-CLIP on MVTecAD, 2 of 2 categories, in percent" in screen.out
    with Path("results/MVTecAD.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["category"] for row in rows] == ["bottle", "cable", "mean"]
    for name in METRICS:
        values = [float(row[name]) for row in rows]
        assert values[2] == pytest.approx(sum(values[:2]) / 2, abs=1e-6)
    markdown = Path("results/MVTecAD.md").read_text(encoding="utf-8").splitlines()
    assert markdown[-1].startswith(f"| mean | {100 * float(rows[2]['image_AUROC']):.1f} |")
    assert sorted(path.name for path in Path("results").iterdir()) == ["MVTecAD.csv", "MVTecAD.md"]


def test_same_as_anomalib_test(mvtec: Path, small: tuple[str, ...], small_backbone: str, small_adapters: Path) -> None:
    assert main([*small, *of_mvtec(mvtec), "--categories", "[cable]"]) == 0
    (_, row), *_ = read_results(Path("results/MVTecAD.csv")).iterrows()
    model = FBClip(small_backbone, weights=small_adapters, visualizer=False)
    datamodule = MVTecAD(root=mvtec, category="cable", num_workers=0)
    (expected,) = Engine(accelerator="cpu", devices=1).test(model, datamodule=datamodule)
    assert row[[*METRICS]].to_dict() == pytest.approx(expected, abs=1e-5)


def test_each_category_as_if_it_were_the_only_one(mvtec: Path, small: tuple[str, ...]) -> None:
    for output, categories in (("alone", "[cable]"), ("both", "[bottle, cable]")):
        assert main([*small, *of_mvtec(mvtec), "--output", output, "--categories", categories]) == 0
    alone, both = (read_results(Path(folder, "MVTecAD.csv")) for folder in ("alone", "both"))
    pd.testing.assert_series_equal(alone.iloc[0], both.iloc[1], check_names=False)


def test_goes_on_where_it_was_interrupted(
    mvtec: Path,
    small: tuple[str, ...],
    tested: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    evaluate = protocol._evaluate

    def interrupt(plan: Plan, category: str) -> object:
        if category == "cable":
            raise KeyboardInterrupt
        return evaluate(plan, category)

    with monkeypatch.context() as context:
        context.setattr(protocol, "_evaluate", interrupt)
        assert main([*small, *of_mvtec(mvtec)]) == 130
    assert tested == ["bottle"]
    assert "continue" in capsys.readouterr().err
    assert main([*small, *of_mvtec(mvtec)]) == 0
    assert tested == ["bottle", "cable"]
    assert "1 of 2 categories are in results/MVTecAD.csv already" in capsys.readouterr().err
    assert main([*small, *of_mvtec(mvtec)]) == 0
    assert tested == ["bottle", "cable"]


def test_other_settings_are_tested_again(mvtec: Path, small: tuple[str, ...], tested: list[str]) -> None:
    arguments = [*small, *of_mvtec(mvtec), "--categories", "[cable]"]
    assert main(arguments) == 0
    assert main([*arguments, "--model.views", "[identity]"]) == 0
    assert main([*arguments, "--data.eval_batch_size", "2"]) == 0
    assert tested == ["cable", "cable"]
    first, second = read_results(Path("results/MVTecAD.csv"))["settings"]
    assert first != second
    assert '"views": ["identity"]' in second


def test_a_category_that_fails(
    mvtec: Path,
    small: tuple[str, ...],
    capsys: pytest.CaptureFixture,
    tmp_path: Path,
) -> None:
    root = tmp_path / "datasets"
    root.mkdir()
    (root / "bottle").symlink_to(mvtec / "bottle", target_is_directory=True)
    (root / "cable" / "test").mkdir(parents=True)
    assert main([*small, *of_mvtec(root)]) == 2
    screen = capsys.readouterr()
    assert "[2/2] cable failed: Found 0 images in" in screen.err
    assert "Traceback" not in screen.err
    assert "1 of 2 categories" in screen.out
    assert [*read_results(Path("results/datasets.csv"))["category"]] == ["bottle"]


def test_the_table_is_named_after_the_dataset(
    mvtec: Path,
    small: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    """And not after the layout, in which other datasets lie, too."""
    parts = tmp_path / "my parts"
    shutil.copytree(mvtec / "cable", parts / "cable")
    assert main([*small, *of_mvtec(mvtec)]) == 0
    assert main([*small, *of_mvtec(parts)]) == 0
    assert "FB-CLIP on my parts, 1 of 1 categories" in capsys.readouterr().out
    assert sorted(path.name for path in Path("results").iterdir()) == [
        *("MVTecAD.csv", "MVTecAD.md", "my parts.csv", "my parts.md"),
    ]
    assert [*read_results(Path("results/MVTecAD.csv"))["category"]] == ["bottle", "cable"]
    assert Path("results/my parts.md").read_text(encoding="utf-8").startswith("| my parts | image AUROC |")


def test_two_datasets_of_one_name(
    mvtec: Path,
    small: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    other = shutil.copytree(mvtec, tmp_path / "MVTecAD")
    assert main([*small, *of_mvtec(mvtec)]) == 0
    before = {path.name: path.read_bytes() for path in Path("results").iterdir()}
    assert main([*small, *of_mvtec(other)]) == 2
    assert f"MVTecAD.csv has results of another dataset, in {mvtec}" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in Path("results").iterdir()} == before
    assert main([*small, *of_mvtec(other), "--output", "other"]) == 0


def test_the_layout_of_meta_json(small: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Its config names no dataset: whatever root is given is not MVTec AD."""
    root = tmp_path / "screws"
    root.mkdir()
    WRITERS["head_ct"](root)
    config = str(CONFIGS / "data/meta_json.yaml")
    arguments = ("--data", config, "--data.root", str(root), "--data.num_workers", "0", "--output", "results")
    assert main([*small, *arguments]) == 0
    assert "FB-CLIP on screws, 1 of 1 categories" in capsys.readouterr().out
    assert sorted(path.name for path in Path("results").iterdir()) == ["screws.csv", "screws.md"]


def test_two_layouts_of_one_folder(
    mvtec: Path,
    small: tuple[str, ...],
    tmp_path: Path,
    tested: list[str],
) -> None:
    root = tmp_path / "parts"
    shutil.copytree(mvtec / "cable", root / "cable")
    entry = {"img_path": next((root / "cable/test/good").iterdir()).relative_to(root).as_posix(), "anomaly": 0}
    (root / "meta.json").write_text(json.dumps({"test": {"cable": [entry]}}), encoding="utf-8")
    for layout in ("MVTecAD", "MetaJson"):
        assert main([*small, *of_mvtec(root), "--data", layout, "--data.root", str(root)]) == 0
    assert tested == ["cable", "cable"]
    assert [*(read_results(Path("results/parts.csv"))["anomalous"] > 0)] == [True, False]


def test_a_category_without_any_metric(small: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_category(tmp_path / "parts/nut", "broken", "_mask", anomalous=0)
    (tmp_path / "parts/nut/test/broken").mkdir()
    assert main([*small, *of_mvtec(tmp_path / "parts")]) == 0
    assert "[1/1] nut: no metric" in capsys.readouterr().err
    results = read_results(Path("results/parts.csv"))
    assert results[[*MEASURED]].isna().all(axis=None)
    assert results[["normal", "anomalous"]].to_numpy().tolist() == [[3, 0]]


@pytest.mark.parametrize(
    ("name", "metrics"),
    [("isic", {"pixel_AUROC", "pixel_AUPRO"}), ("head_ct", {*MEASURED} - {"pixel_AUROC", "pixel_AUPRO"})],
)
def test_what_is_not_defined_is_left_out(tmp_path: Path, small: tuple[str, ...], name: str, metrics: set[str]) -> None:
    root = tmp_path / "dataset"
    root.mkdir()
    WRITERS[name](root)
    arguments = ("--data", "MetaJson", "--data.root", str(root), "--data.num_workers", "0", "--output", "results")
    assert main([*small, *arguments]) == 0
    results = read_results(Path("results/dataset.csv"))
    assert set(results[[*MEASURED]].dropna(axis="columns")) == metrics
    assert " - |" in Path("results/dataset.md").read_text(encoding="utf-8")


def test_options_in_a_file(mvtec: Path, small_backbone: str, small_adapters: Path) -> None:
    options = {
        "data": {"class_path": "anomalib.data.MVTecAD", "init_args": {"root": str(mvtec), "num_workers": 0}},
        "model": {"backbone": small_backbone, "weights": str(small_adapters)},
        "categories": ["cable"],
        "accelerator": "cpu",
        "output": "elsewhere",
    }
    Path("protocol.yaml").write_text(yaml.safe_dump(options), encoding="utf-8")
    assert main(["--config", "protocol.yaml"]) == 0
    assert [*read_results(Path("elsewhere/MVTecAD.csv"))["category"]] == ["cable"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "data"),
        (("--data", "MVTecXY"), "MVTecXY"),
        (("--data", "MVTecAD", "--data.root", "nowhere"), "folder nowhere does not exist"),
        (("--data", "MVTecAD", "--data.root", "."), "no categories of MVTecAD"),
        (("--data", "MVTecAD", "--model.backbone", "ViT-L-14-337"), "Unknown backbone 'ViT-L-14-337'"),
        (("--data", "MVTecAD", "--modle", "x"), "modle"),
        (("--data", "RealIAD", "--data.category", "bottle"), "Category bottle not found"),
    ],
)
def test_cannot_begin(arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture) -> None:
    assert main([*arguments, "--output", "results"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in line
    assert not Path("results").exists()


def plan_of(root: Path, accelerator: str, model: str = "{}") -> Plan:
    data = {"class_path": "anomalib.data.MVTecAD", "init_args": {"root": str(root), "num_workers": 0}}
    return Plan(0, 0, "settings", model, data, accelerator, Path("results/MVTecAD.csv").absolute())


@pytest.mark.parametrize(
    ("accelerator", "available", "used"),
    [("auto", 1, 1), ("cpu", 4, 1), ("auto", 4, 4), ("cuda", 4, 4)],
)
def test_one_process_a_device(
    accelerator: str, available: int, used: int, mvtec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: available)
    monkeypatch.setattr(protocol, "_list_tests", lambda *arguments: found.append(arguments[-1]) or [])
    run_missing(plan_of(mvtec, accelerator), ["bottle"])
    assert found == [used]


@pytest.mark.parametrize(
    ("accelerator", "device", "devices"),
    [("cuda", 3, [3]), ("auto", 0, [0]), ("cuda", None, 1), ("cpu", 3, 1)],
)
def test_each_test_has_a_device_of_its_own(
    accelerator: str, device: int | None, devices: object, mvtec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(**arguments: object) -> None:
        assert (arguments["accelerator"], arguments["devices"]) == (accelerator, devices)
        raise InterruptedError

    monkeypatch.setattr(protocol, "Trainer", begin)
    with pytest.raises(InterruptedError):
        protocol._evaluate(plan_of(mvtec, accelerator), "bottle", device)


@pytest.mark.slow
def test_two_processes(mvtec: Path, small_backbone: str, small_adapters: Path) -> None:
    model = json.dumps({"backbone": small_backbone, "weights": str(small_adapters)})
    plan = plan_of(mvtec, "cpu", model)
    found = {category: test() for category, test in protocol._list_tests(plan, ["bottle", "cable"], devices=2)}
    assert sorted(found) == ["bottle", "cable"]
    protocol._load_model.cache_clear()
    for category, row in found.items():
        assert protocol._evaluate(plan, category) == pytest.approx(row, abs=1e-5)


def test_module(tmp_path: Path) -> None:
    result = run(tmp_path, sys.executable, "-m", "anomalib_fbclip.protocol", "--data", "MVTecAD", "--data.root", "no")
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith("error: The dataset's folder no does not exist")
