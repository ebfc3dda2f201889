# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""fbclip-small with no network and empty caches, beside what README.md says: ``test_readme.py`` runs that."""

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from anomalib_fbclip.weights import bundled
from support.command_line import anomalib, run


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, mvtec: Path) -> Path:
    """The checkpoint of a training of adapters for fbclip-small."""
    folder = tmp_path_factory.mktemp("fit")
    result = anomalib(
        folder,
        "fit",
        *("--model", "FBClip", "--model.backbone", "fbclip-small", "--model.weights", "null"),
        *("--data", "AuxiliaryDataModule", "--data.sources", "MVTecAD", "--data.sources.root", mvtec),
        *("--data.categories", "[bottle]", "--data.num_workers", "0", "--trainer.max_epochs", "1"),
    )
    assert result.returncode == 0, result.stderr
    return folder / "results" / "FBClip" / "MVTecAD" / "latest" / "weights" / "lightning" / "model.ckpt"


def test_published_adapters_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (300, 200), "gray").save(tmp_path / "part.jpg")
    result = anomalib(
        tmp_path,
        "predict",
        *("--model", "FBClip", "--model.backbone", "fbclip-small", "--model.weights", "mvtec", "--data", "part.jpg"),
    )
    assert result.returncode != 0
    assert "fit backbone ViT-L-14-336 only, not 'fbclip-small'" in result.stdout + result.stderr


def test_test_with_a_checkpoint(tmp_path: Path, checkpoint: Path, mvtec: Path) -> None:
    result = anomalib(
        tmp_path,
        "test",
        *("--model", "FBClip", "--model.backbone", "fbclip-small", "--ckpt_path", checkpoint),
        *("--data", "MVTecAD", "--data.root", mvtec, "--data.category", "cable", "--data.num_workers", "0"),
    )
    assert result.returncode == 0, result.stderr
    assert "pixel_AUROC" in result.stdout
    assert "trained on MVTecAD, which is now tested" in " ".join((result.stdout + result.stderr).split())


def test_fbclip_with_a_checkpoint(tmp_path: Path, checkpoint: Path) -> None:
    """It names the backbone."""
    Image.new("RGB", (300, 200), "gray").save(tmp_path / "part.jpg")
    result = run(tmp_path, sys.executable, "-m", "anomalib_fbclip", "part.jpg", "--weights", checkpoint)
    assert result.returncode in {0, 1}, result.stderr
    assert result.stdout.startswith("fbclip-small: adapters trained on MVTecAD.")


def test_a_checkpoint_names_no_path(checkpoint: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    assert content["fbclip"]["pretrained"] == bundled.TAG
    assert "/" not in json.dumps([content["fbclip"], dict(content["hyper_parameters"])])
