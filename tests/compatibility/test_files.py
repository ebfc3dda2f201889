# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Files that version 0.1.0 writes load, and give the same numbers.

``files`` holds adapters and a checkpoint of a very small model after three steps of training, and what that model
predicted: for two random images, and for the same images after three more steps from the checkpoint.
"""

import json
from pathlib import Path

import pytest
import torch
from anomalib.data import MVTecAD
from anomalib.engine import Engine

from anomalib_fbclip import FBClip
from anomalib_fbclip.data import AuxiliaryDataModule
from tools.bundled_model.parts import draw_category

FILES = Path(__file__).with_name("files")
BACKBONE = str(FILES / "fbclip-test-old.json")
PREDICTIONS = json.loads((FILES / "predictions.json").read_text())


def predict(model: FBClip) -> dict[str, list[float]]:
    images = torch.rand(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        prediction = model.eval().model(images)
    return {
        "pred_score": prediction.pred_score.tolist(),
        "anomaly_map_means": prediction.anomaly_map.mean(dim=(1, 2)).tolist(),
    }


def assert_same(found: dict[str, list[float]], expected: dict[str, list[float]], tolerance: float = 1e-6) -> None:
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, abs=tolerance), name


def test_adapters() -> None:
    model = FBClip(backbone=BACKBONE, weights=FILES / "adapters.safetensors")
    assert model.source == "SyntheticParts"
    assert_same(predict(model), PREDICTIONS["saved"])


def test_a_checkpoint() -> None:
    model = FBClip.load_from_checkpoint(FILES / "model.ckpt", backbone=BACKBONE)
    assert model.source == "SyntheticParts"
    assert_same(predict(model), PREDICTIONS["saved"])


def test_a_training_goes_on(tmp_path: Path) -> None:
    """The optimizer's averages belong to the same parameters."""
    model = FBClip(backbone=BACKBONE, weights=None, seed=3, learning_rate=1e-2, visualizer=False, evaluator=False)
    draw_category(tmp_path, "bottle")
    data = AuxiliaryDataModule(
        sources=MVTecAD(tmp_path),
        categories=["bottle"],
        train_batch_size=8,
        num_workers=0,
        seed=1,
    )
    engine = Engine(default_root_dir=tmp_path, max_steps=6, accelerator="cpu", logger=False)
    engine.fit(model, datamodule=data, ckpt_path=FILES / "model.ckpt")
    assert engine.trainer.global_step == 6
    assert_same(predict(model), PREDICTIONS["three steps later"], tolerance=1e-3)
