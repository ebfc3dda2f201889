# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""What a user types, in processes of their own."""

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from support.command_line import ANOMALIB, CONFIGS, anomalib, run


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, small_backbone: str, mvtec: Path) -> Path:
    """The checkpoint of a training on the command line."""
    folder = tmp_path_factory.mktemp("fit")
    result = anomalib(
        folder,
        "fit",
        "--config",
        CONFIGS / "train_mvtec.yaml",
        *("--model.init_args.backbone", small_backbone),
        *("--data.init_args.sources.init_args.root", mvtec),
        *("--data.init_args.categories", "[bottle, cable]"),
        *("--data.init_args.num_workers", "0"),
    )
    assert result.returncode == 0, result.stderr
    return folder / "results" / "FBClip" / "MVTecAD" / "latest" / "weights" / "lightning" / "model.ckpt"


def test_fit(checkpoint: Path) -> None:
    state = torch.load(checkpoint, weights_only=True)
    assert state["epoch"] == 1
    assert not any("backbone" in name for name in state["state_dict"])


def test_test_by_bare_name(tmp_path: Path, checkpoint: Path, small_backbone: str, mvtec: Path) -> None:
    result = anomalib(
        tmp_path,
        "test",
        *("--model", "FBClip", "--model.backbone", small_backbone, "--ckpt_path", checkpoint),
        *("--data", "MVTecAD", "--data.root", mvtec, "--data.category", "cable", "--data.num_workers", "0"),
    )
    assert result.returncode == 0, result.stderr
    assert "pixel_AUROC" in result.stdout
    assert "is not zero-shot" in result.stdout + result.stderr


def test_test_in_half_precision(tmp_path: Path, small_backbone: str, small_adapters: Path, mvtec: Path) -> None:
    result = anomalib(
        tmp_path,
        "test",
        *("--model", "FBClip", "--model.backbone", small_backbone, "--model.weights", small_adapters),
        *("--model.backbone_precision", "bfloat16", "--trainer.precision", "bf16-mixed"),
        *("--data", "MVTecAD", "--data.root", mvtec, "--data.category", "cable", "--data.num_workers", "0"),
    )
    assert result.returncode == 0, result.stderr
    assert "pixel_AUROC" in result.stdout
    assert "in precision bf16-mixed" in " ".join((result.stdout + result.stderr).split())


def test_predict_an_image(tmp_path: Path, small_backbone: str, small_adapters: Path) -> None:
    Image.new("RGB", (80, 60), "gray").save(tmp_path / "part.jpg")
    result = anomalib(
        tmp_path,
        "predict",
        *("--model", "FBClip", "--model.backbone", small_backbone, "--model.weights", small_adapters),
        *("--data", "part.jpg"),
    )
    assert result.returncode == 0, result.stderr
    assert [path.name for path in (tmp_path / "results").rglob("part.*")] == ["part.jpg"]


def test_predict_an_empty_folder(tmp_path: Path, small_backbone: str, small_adapters: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = anomalib(
        tmp_path,
        "predict",
        *("--model", "FBClip", "--model.backbone", small_backbone, "--model.weights", small_adapters),
        *("--data", "empty"),
    )
    assert result.returncode != 0
    assert "Found 0 images" in result.stdout + result.stderr


def test_unusable_argument(tmp_path: Path) -> None:
    result = anomalib(
        tmp_path,
        "test",
        *("--model", "FBClip", "--model.backbone", "ViT-L-14-337", "--model.weights", "null"),
        *("--data", "MVTecAD", "--data.root", "."),
    )
    assert result.returncode != 0
    assert "Unknown backbone 'ViT-L-14-337'" in result.stdout + result.stderr


def test_export(tmp_path: Path, checkpoint: Path, small_backbone: str) -> None:
    result = anomalib(
        tmp_path,
        "export",
        *("--model", "FBClip", "--model.backbone", small_backbone, "--ckpt_path", checkpoint),
        *("--export_type", "torch", "--export_root", "exported"),
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "exported" / "weights" / "torch" / "model.pt").is_file()


def test_benchmark(tmp_path: Path, small_backbone: str, small_adapters: Path, mvtec: Path) -> None:
    (tmp_path / "benchmark.yaml").write_text(
        f"""
accelerator: cpu
benchmark:
  seed: 42
  model:
    class_path: FBClip
    init_args:
      backbone: {small_backbone}
      weights: {small_adapters}
      image_size: [56, 70]
  data:
    class_path: MVTecAD
    init_args:
      root: {mvtec}
      category:
        grid: [bottle, cable]
      num_workers: 0
""",
    )
    result = run(tmp_path, ANOMALIB, "benchmark", "--config", "benchmark.yaml")
    assert result.returncode == 0, result.stderr
    (table,) = tmp_path.glob("runs/benchmark/*/results.csv")
    assert "Initializing FBClip model" in (tmp_path / "runs" / "pipeline.log").read_text()  # anomalib's own log
    header, *rows = table.read_text().splitlines()
    assert "image_AUROC" in header
    assert len(rows) == 2


def test_help(tmp_path: Path) -> None:
    result = run(tmp_path, ANOMALIB, "test", "--model.help", "FBClip")
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) < 220  # 170 in a terminal of 80 columns
    text = " ".join(result.stdout.split())
    for part in ("--model.backbone", "--model.weights", "in pixels", "--model.feature_layers", "counted from 1"):
        assert part in text


def test_components_of_the_users_own_are_arguments(tmp_path: Path, small_backbone: str) -> None:
    result = run(
        tmp_path,
        *(
            ANOMALIB,
            "predict",
            "--model",
            "FBClip",
            "--model.backbone",
            small_backbone,
            "--data",
            ".",
            "--print_config",
        ),
        *("--model.pre_processor", "PreProcessor", "--model.post_processor", "MEBinPostProcessor"),
        *(
            "--model.evaluator",
            "false",
            "--model.visualizer",
            "ImageVisualizer",
            "--model.visualizer.field_size",
            "[9, 9]",
        ),
    )
    assert result.returncode == 0, result.stderr
    for name in ("PreProcessor", "MEBinPostProcessor", "ImageVisualizer"):
        assert f".{name}\n" in result.stdout


@pytest.mark.slow
def test_training_in_two_processes(tmp_path: Path, small_backbone: str, mvtec: Path) -> None:
    script = Path(__file__).with_name("fit_in_two_processes.py")
    result = run(tmp_path, sys.executable, script, small_backbone, mvtec, tmp_path)
    assert result.returncode == 0, result.stderr
    first, second = (load_file(tmp_path / f"rank{rank}.safetensors") for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
