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
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from anomalib_fbclip import FBClip
from anomalib_fbclip.weights.backbones import resolve_backbone
from anomalib_fbclip.weights.clip_files import read_clip
from support.command_line import CONFIGS, run
from tools.bundled_model.average import average
from tools.bundled_model.parts import draw_category
from tools.bundled_model.tower import TIMM_MODEL, to_open_clip

pytestmark = pytest.mark.slow

REPOSITORY = CONFIGS.parent


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of timm's model, where timm puts what it downloads."""
    cache = tmp_path_factory.mktemp("cache")
    torch.manual_seed(0)
    torch.save(timm.create_model(TIMM_MODEL, pretrained=False).state_dict(), cache / "tower.pth")
    return cache / "tower.pth"


TRAIN_WITH_A_TOWER = """
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from unittest import mock
import torch
sys.path.append(sys.argv[2])
from tools.bundled_model import tower, train

def download():
    return torch.load(sys.argv[1], weights_only=True)

def fit_one_part(model, output, part, seed, fit=train._fit_part):
    if part:
        raise KeyboardInterrupt
    fit(model, output, part, seed)

if __name__ == "__main__":
    train.ProcessPoolExecutor = partial(ProcessPoolExecutor, 1)
    with mock.patch.object(tower, "download_tower", download):
        train.train(tower.TIMM_MODEL, Path("small"), text_steps=3, text_batch_size=4, adapter_images=16)
    train.ProcessPoolExecutor, train.PART_IMAGES = lambda **_: ThreadPoolExecutor(1), 6
    again = partial(
        train.train, "none", adapter_images=12, seed=1, clip=Path("small/clip.safetensors"), image_sizes=(112, 140),
        photographs={"photographs/*": "CC0"},
    )
    again(Path("again"))
    with mock.patch.object(train, "_fit_part", fit_one_part):
        try:
            again(Path("ended"))
        except KeyboardInterrupt:
            pass
    again(Path("ended"), resume=True)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tower: Path) -> Path:
    folder = tmp_path_factory.mktemp("train")
    draw_category(folder / "photographs", "gear", image_size=96, train_images=1, test_images=2)
    (folder / "train.py").write_text(TRAIN_WITH_A_TOWER, encoding="utf-8")
    result = run(folder, sys.executable, folder / "train.py", tower, REPOSITORY)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture(scope="module")
def trained(folder: Path) -> Path:
    return folder / "small"


def test_files_can_be_used(trained: Path) -> None:
    model = FBClip("fbclip-small", pretrained=trained / "clip.safetensors", weights=trained / "adapters.safetensors")
    prediction = model.model(torch.zeros(1, 3, 224, 224))
    assert prediction.anomaly_map.isfinite().all()
    assert model.source == "procedural images"


def test_losses_are_logged(trained: Path) -> None:
    with (trained / "log" / "metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3
    for term in ("caption", "region", "state", "image_state"):
        assert all(math.isfinite(float(row[term])) for row in rows), term


def test_the_image_tower_is_the_given_one(trained: Path, tower: Path) -> None:
    clip = open_clip.create_model(resolve_backbone("fbclip-small"))
    given = torch.load(tower, weights_only=True)
    saved = read_clip(trained / "clip.safetensors")
    expected = to_open_clip(given, len(clip.visual.transformer.resblocks), clip.visual.grid_size)
    assert {f"visual.{name}" for name in expected} | {"visual.proj"} <= saved.keys()
    for name, tensor in expected.items():
        error = (saved[f"visual.{name}"] - tensor).abs().amax()
        # Half a step of 8 bits and the rounding of its scale; the least values of half precision are 6e-8 apart.
        assert error <= 0.006 * tensor.abs().amax() + 6e-8, name


def test_other_adapters_for_the_same_clip(folder: Path) -> None:
    assert not (folder / "again" / "clip.safetensors").exists()
    with (
        safe_open(folder / "small" / "adapters.safetensors", framework="pt") as first,
        safe_open(folder / "again" / "adapters.safetensors", framework="pt") as second,
    ):
        assert first.metadata()["signature"] == second.metadata()["signature"]
        name = "prompt_learner.normal_context"
        assert not torch.equal(first.get_tensor(name), second.get_tensor(name))


def test_an_ended_training_goes_on_with_the_same_result(folder: Path) -> None:
    expected, found = (load_file(folder / name / "adapters.safetensors") for name in ("again", "ended"))
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    checkpoint = torch.load(folder / "ended" / "training.ckpt", weights_only=True)
    assert checkpoint["epoch"] == checkpoint["global_step"] - 1 == 1  # two parts of a step each
    assert checkpoint["averaging_state"]["n_averaged"] == 2


def test_photographs_are_named(folder: Path) -> None:
    table = (folder / "again" / "photographs.md").read_text(encoding="utf-8")
    assert "| gear | 3 | 2 | CC0 |" in table
    assert not (folder / "small" / "photographs.md").exists()
    with safe_open(folder / "again" / "adapters.safetensors", framework="pt") as file:
        assert "photographs" in file.metadata()["source"]


def test_mean_of_seeds(folder: Path) -> None:
    files = [folder / name / "adapters.safetensors" for name in ("small", "again")]
    average(files, folder / "mean.safetensors", pretrained=folder / "small" / "clip.safetensors")
    first, second, mean = (load_file(path) for path in (*files, folder / "mean.safetensors"))
    for name in first.keys() - {"text_features"}:
        assert torch.allclose(mean[name], (first[name] + second[name]) / 2), name
    assert not torch.allclose(mean["text_features"], first["text_features"])


def test_adapters_name_no_path(trained: Path) -> None:
    with safe_open(trained / "adapters.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["pretrained"]) == "dinov2_procedural"
    assert str(trained) not in str(metadata)


def test_every_mask_has_its_image(trained: Path) -> None:
    defects, masks = (
        sorted(path.name for path in (trained / "images" / name).iterdir()) for name in ("defect", "mask")
    )
    assert defects == masks
    assert len(defects) + len(list((trained / "images" / "good").iterdir())) == 16


def test_help_explains_every_argument() -> None:
    result = run(REPOSITORY, sys.executable, "-m", "tools.bundled_model.train", "--help")
    assert result.returncode == 0, result.stderr
    for words in ("Folder for the weights", "Number of steps for the text tower", "Seed of everything"):
        assert words in " ".join(result.stdout.split())
