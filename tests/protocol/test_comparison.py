# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Tables and pictures of benchmarks."""

from pathlib import Path

import pytest
from anomalib import models as anomalib_models
from anomalib.data import get_datamodule
from anomalib.data.datasets.image import mvtecad
from anomalib.pipelines import Benchmark
from anomalib.pipelines.benchmark.job import BenchmarkJob
from anomalib.pipelines.components.utils import get_iterator_from_grid_dict
from PIL import Image

from anomalib_fbclip.protocol.__main__ import main
from support.command_line import CONFIGS

FBCLIP = """\
accelerator,job_duration,fit_duration,test_duration,seed,data.class_path,data.init_args.root,model.class_path,\
model.init_args.backbone,data.init_args.category,image_AUROC,image_AUPR,pixel_AUROC,pixel_AUPRO
cpu,14.0,2.0,12.0,42,MVTecAD,data,FBClip,fbclip-small,01,0.60,0.70,0.90,0.55
cpu,16.0,2.0,14.0,42,MVTecAD,data,FBClip,fbclip-small,02,0.80,0.90,0.94,0.65
cpu,90.0,9.0,81.0,42,MVTecAD,data,FBClip,ViT-L-14-336,01,0.90,0.95,0.95,0.85
cpu,90.0,9.0,83.0,42,MVTecAD,data,FBClip,ViT-L-14-336,02,0.92,0.97,0.97,0.87
"""
METRICS = "image AUROC | image AUPR | pixel AUROC | pixel AUPRO | image F1Score | pixel F1Score"
OTHERS = """\
accelerator,job_duration,fit_duration,test_duration,seed,data.class_path,data.init_args.root,model.class_path,\
data.init_args.category,image_AUROC,image_F1Score,pixel_AUROC,pixel_F1Score
cpu,30.0,20.0,8.0,42,MVTecAD,data,Patchcore,01,0.97,0.90,0.98,0.60
cpu,30.0,22.0,10.0,42,MVTecAD,data,Patchcore,02,0.99,0.92,0.98,0.62
cpu,30.0,22.0,99.0,42,MVTecAD,data,Patchcore,03,0.10,0.10,0.10,0.10
"""


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What two benchmarks leave."""
    monkeypatch.chdir(tmp_path)
    for number, table in enumerate((FBCLIP, OTHERS)):
        path = tmp_path / "runs" / "benchmark" / f"2026-01-01-00_00_0{number}" / "results.csv"
        path.parent.mkdir(parents=True)
        path.write_text(table)
    return tmp_path / "runs"


def test_table_and_picture(runs: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["compare", str(runs), "--output", "out/comparison"]) == 0
    text = Path("out/comparison.md").read_text(encoding="utf-8")
    assert text.splitlines() == [
        f"| model | datasets | {METRICS} | fit, s | test, s |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        "| Patchcore | 2 | 98.0 | - | 98.0 | - | 91.0 | 61.0 | 21.0 | 9.0 |",
        "| FBClip (ViT-L-14-336) | 2 | 91.0 | 96.0 | 96.0 | 86.0 | - | - | 9.0 | 82.0 |",
        "| FBClip (fbclip-small) | 2 | 70.0 | 80.0 | 92.0 | 60.0 | - | - | 2.0 | 13.0 |",
    ]
    assert text in capsys.readouterr().out
    with Image.open("out/comparison.png") as picture:
        assert picture.size == (1050, 750)
        assert len(picture.convert("RGB").getcolors(2**20)) > 50
    assert sorted(path.name for path in Path("out").iterdir()) == ["comparison.md", "comparison.png"]


def test_the_last_of_several_measurements_counts(runs: Path) -> None:
    path = runs / "benchmark" / "2026-01-02-00_00_00" / "results.csv"
    path.parent.mkdir()
    path.write_text("\n".join([*FBCLIP.splitlines()[:1], FBCLIP.splitlines()[1].replace("0.60", "0.50")]))
    assert main(["compare", str(runs), "--output", "comparison"]) == 0
    assert "| FBClip (fbclip-small) | 2 | 65.0 |" in Path("comparison.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "nowhere is not a table of 'anomalib benchmark'"),
        (("runs", "empty"), "empty/results.csv is not a table of 'anomalib benchmark'"),
        (("other.csv",), "other.csv is not a table of 'anomalib benchmark'"),
        (("runs", "alone.csv"), "There is no common dataset"),
        (("bare.csv",), "There is no common metric"),
    ],
)
def test_nothing_to_compare(
    runs: Path, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture
) -> None:
    (runs.parent / "other.csv").write_text("a,b\n1,2\n")
    (runs.parent / "alone.csv").write_text(OTHERS.replace("Patchcore,0", "Padim,1"))
    (runs.parent / "bare.csv").write_text("model.class_path,fit_duration,test_duration\nPadim,1,1\n")
    (runs.parent / "empty").mkdir()
    assert main(["compare", *arguments, "--output", "out/comparison"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert len(error.splitlines()) == 1
    assert not Path("out").exists()


def test_what_a_benchmark_really_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shape of the tables above, from anomalib's own classes."""
    monkeypatch.chdir(tmp_path)
    names = FBCLIP.splitlines()[0].split(",")
    values = ["cpu", 3.0, 1.0, 2.0, 42, "MVTecAD", "data", "FBClip", "fbclip-small", "01", 0.5, 0.5, 0.5, 0.5]
    result = dict(zip(names, values, strict=True))
    BenchmarkJob.save(BenchmarkJob.collect([result]))
    (file,) = Path("runs").rglob("results.csv")
    assert file.read_text().splitlines()[0] == FBCLIP.splitlines()[0]
    assert main(["compare", "runs", "--output", "comparison"]) == 0
    assert "| FBClip (fbclip-small) | 1 | 50.0 |" in Path("comparison.md").read_text(encoding="utf-8")


BENCHMARKS = sorted((CONFIGS / "benchmark").glob("*.yaml"))


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_configs(path: Path) -> None:
    arguments = Benchmark.get_parser().parse_args(["--config", str(path)])
    options = Benchmark()._get_args(arguments)
    assert options["accelerator"] == "cpu"  # which every machine has
    assert Benchmark._setup_runners(options)
    jobs = list(get_iterator_from_grid_dict(options["benchmark"]))
    names = {job["model"]["class_path"] for job in jobs}
    assert all(hasattr(anomalib_models, name) for name in names)
    datamodules = [get_datamodule(job["data"]) for job in jobs]
    if path.stem.startswith("mvtec_ad"):
        assert {datamodule.category for datamodule in datamodules} == set(mvtecad.CATEGORIES)
    if names == {"EfficientAd"}:
        assert {datamodule.train_batch_size for datamodule in datamodules} == {1}
    if names == {"FBClip"}:
        assert {job["model"]["init_args"]["backbone"] for job in jobs} == {"fbclip-small", "ViT-L-14-336"}
    assert f"--config configs/benchmark/{path.name}" in path.read_text(encoding="utf-8")


def test_configs_of_all_models() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in BENCHMARKS)
    for model in ("FBClip", "WinClip", "Patchcore", "Padim", "EfficientAd", "AnomalyDINO"):
        assert model in text
