# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The command that trains fbclip-small again, from images to files that can be used."""

import csv
import json
import math
import sys
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors import safe_open

from anomalib_fbclip import FBClip
from anomalib_fbclip.checkpoints.compact_clip import TEMPERATURE, VOCABULARY, read_clip
from anomalib_fbclip.checkpoints.registry import resolve_backbone
from anomalib_fbclip.training.bundled import continue_from
from support.command_line import run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    result = run(
        folder,
        *(sys.executable, "-m", "anomalib_fbclip.training.bundled", "--output", "nano", "--batch_size", "4"),
        *("--cycles", "[3, 2]", "--adapter_images", "12", "--adapter_epochs", "1"),
    )
    assert result.returncode == 0, result.stderr
    return folder / "nano"


def test_files_can_be_used(trained: Path) -> None:
    model = FBClip("fbclip-small", pretrained=trained / "clip.safetensors", weights=trained / "adapters.safetensors")
    prediction = model.model(torch.zeros(1, 3, 128, 128))
    assert prediction.anomaly_map.isfinite().all()
    assert model.source == "procedural images"


def test_losses_are_logged(trained: Path) -> None:
    for cycle, steps in enumerate((3, 2)):
        with (trained / "log" / f"cycle_{cycle}" / "metrics.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == steps
        for term in ("caption", "region", "state", "image_state", "hidden"):
            assert all(math.isfinite(float(row[term])) for row in rows), term


def test_a_cycle_starts_where_the_one_before_ended(trained: Path) -> None:
    clip = open_clip.create_model(resolve_backbone("fbclip-small"))
    fresh = clip.token_embedding.weight.detach().clone()
    continue_from(clip, trained / "clip.safetensors")
    saved = read_clip(trained / "clip.safetensors")
    for name, parameter in clip.named_parameters():
        if name not in {VOCABULARY, *TEMPERATURE}:
            assert torch.equal(parameter, saved[name]), name
    read = saved[VOCABULARY].any(dim=1)
    assert 0 < read.sum() < len(read)
    assert torch.equal(clip.token_embedding.weight[read], saved[VOCABULARY][read])
    assert torch.equal(clip.token_embedding.weight[~read], fresh[~read])


def test_adapters_name_no_path(trained: Path) -> None:
    with safe_open(trained / "adapters.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["pretrained"]) == "procedural"
    assert str(trained) not in str(metadata)


def test_every_mask_has_its_image(trained: Path) -> None:
    defects, masks = (
        sorted(path.name for path in (trained / "images" / name).iterdir()) for name in ("defect", "mask")
    )
    assert defects == masks
    assert len(defects) + len(list((trained / "images" / "good").iterdir())) == 12


def test_help_explains_every_argument(tmp_path: Path) -> None:
    result = run(tmp_path, sys.executable, "-m", "anomalib_fbclip.training.bundled", "--help")
    assert result.returncode == 0, result.stderr
    for words in ("Folder for the weights", "Steps of the CLIP's pre-training, for each cycle", "Seed of everything"):
        assert words in " ".join(result.stdout.split())
