# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""fbclip-nano as a new user meets it: the literal commands, with no network and empty caches."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from support.command_line import ANOMALIB, CONFIGS, anomalib, run

NOTHING_LISTENS_HERE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def _no_network(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(variable, NOTHING_LISTENS_HERE)
        monkeypatch.setenv(variable.upper(), NOTHING_LISTENS_HERE)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    home = str(tmp_path_factory.mktemp("home"))
    for variable in ("HOME", "XDG_CACHE_HOME", "HF_HOME", "TORCH_HOME"):
        monkeypatch.setenv(variable, home)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, mvtec: Path) -> Path:
    """The checkpoint of a training of adapters for fbclip-nano."""
    folder = tmp_path_factory.mktemp("fit")
    result = anomalib(
        folder,
        "fit",
        *("--model", "FBClip", "--model.backbone", "fbclip-nano", "--model.weights", "null"),
        *("--data", "AuxiliaryDataModule", "--data.sources", "MVTecAD", "--data.sources.root", mvtec),
        *("--data.categories", "[bottle]", "--data.num_workers", "0", "--trainer.max_epochs", "1"),
    )
    assert result.returncode == 0, result.stderr
    return folder / "results" / "FBClip" / "MVTecAD" / "latest" / "weights" / "lightning" / "model.ckpt"


def test_quickstart(tmp_path: Path) -> None:
    shutil.copytree(CONFIGS, tmp_path / "configs")
    result = run(tmp_path, ANOMALIB, "test", "--config", "configs/quickstart.yaml")
    assert result.returncode == 0, result.stderr
    for metric in ("image_AUROC", "image_AUPR", "pixel_AUROC", "pixel_AUPRO"):
        assert metric in result.stdout
    for fault in ("not zero-shot", "untrained", "CLIP is random"):
        assert fault not in result.stdout + result.stderr
    heatmaps = sorted((tmp_path / "results").rglob("images/**/*.png"))
    assert len(heatmaps) == 40
    assert {Image.open(path).mode for path in heatmaps} == {"RGB"}
    assert {path.name for path in tmp_path.iterdir()} == {"configs", "datasets", "results"}


def test_quickstart_on_another_category(tmp_path: Path) -> None:
    result = anomalib(
        tmp_path,
        "test",
        *("--config", CONFIGS / "quickstart.yaml", "--data.init_args.category", "cookie"),
        *("--data.init_args.test_images", "2", "--data.init_args.train_images", "1"),
    )
    assert result.returncode == 0, result.stderr
    assert [path.name for path in (tmp_path / "datasets" / "SyntheticParts").iterdir()] == ["cookie"]
    assert "pixel_AUROC" in result.stdout


def test_predict_a_photograph(tmp_path: Path) -> None:
    Image.new("RGB", (300, 200), "gray").save(tmp_path / "part.jpg")
    result = run(
        tmp_path,
        *(ANOMALIB, "predict", "--model", "FBClip", "--model.backbone", "fbclip-nano", "--data", "part.jpg"),
    )
    assert result.returncode == 0, result.stderr
    assert [path.name for path in (tmp_path / "results").rglob("part.*")] == ["part.jpg"]


def test_published_adapters_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (300, 200), "gray").save(tmp_path / "part.jpg")
    result = anomalib(
        tmp_path,
        "predict",
        *("--model", "FBClip", "--model.backbone", "fbclip-nano", "--model.weights", "mvtec", "--data", "part.jpg"),
    )
    assert result.returncode != 0
    assert "fit backbone ViT-L-14-336 only, not 'fbclip-nano'" in result.stdout + result.stderr


def test_test_with_a_checkpoint(tmp_path: Path, checkpoint: Path, mvtec: Path) -> None:
    result = anomalib(
        tmp_path,
        "test",
        *("--model", "FBClip", "--model.backbone", "fbclip-nano", "--ckpt_path", checkpoint),
        *("--data", "MVTecAD", "--data.root", mvtec, "--data.category", "cable", "--data.num_workers", "0"),
    )
    assert result.returncode == 0, result.stderr
    assert "pixel_AUROC" in result.stdout
    assert "trained on MVTecAD, which is now tested" in " ".join((result.stdout + result.stderr).split())


def test_a_checkpoint_names_no_path(checkpoint: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    assert content["fbclip"]["pretrained"] == "procedural"
    assert "/" not in json.dumps([content["fbclip"], dict(content["hyper_parameters"])])
