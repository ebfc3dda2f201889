# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The metrics that a test of FBClip reports."""

from pathlib import Path

import pytest
import torch
from anomalib.cli.cli import AnomalibCLI
from anomalib.data import AnomalibDataModule, Folder, MVTecAD
from anomalib.engine import Engine
from anomalib.metrics import AUPR, AUPRO, AUROC, Evaluator, F1Score

from anomalib_fbclip import FBClip


def make_mvtec(root: Path) -> MVTecAD:
    return MVTecAD(root=root, category="bottle", train_batch_size=2, eval_batch_size=3, num_workers=0)


def evaluate(root: Path, model: FBClip, datamodule: AnomalibDataModule) -> dict[str, float]:
    (results,) = Engine(default_root_dir=root, accelerator="cpu", devices=1).test(model, datamodule=datamodule)
    return results


def evaluate_scores_of_the_model(model: FBClip, datamodule: AnomalibDataModule) -> dict[str, float]:
    """Compute anomalib's metrics of the scores as the model gives them, with no engine."""
    datamodule.setup()
    metrics = [
        *(metric(fields=["pred_score", "gt_label"], prefix="image_") for metric in (AUROC, AUPR)),
        *(metric(fields=["anomaly_map", "gt_mask"], prefix="pixel_") for metric in (AUROC, AUPRO)),
    ]
    for batch in datamodule.test_dataloader():
        model.pre_processor.on_test_batch_start(None, None, batch, 0)
        with torch.inference_mode():
            batch.update(**model.model(batch.image)._asdict())
        for metric in metrics:
            metric.update(batch)
    return {metric.name: float(metric.compute()) for metric in metrics}


def test_scores_are_those_of_the_model(tmp_path: Path, small_backbone: str, small_adapters: Path, mvtec: Path) -> None:
    model = FBClip(backbone=small_backbone, weights=small_adapters)
    results = evaluate(tmp_path, model, make_mvtec(mvtec))
    assert model.post_processor.image_threshold.isfinite()
    expected = evaluate_scores_of_the_model(model, make_mvtec(mvtec))
    assert results == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("evaluator", [True, Evaluator()])
def test_order_of_callbacks(small_backbone: str, small_adapters: Path, evaluator: Evaluator | bool) -> None:
    """Another evaluator may need the decisions that the post-processor makes."""
    model = FBClip(backbone=small_backbone, weights=small_adapters, evaluator=evaluator)
    callbacks = model.configure_callbacks()
    is_first = callbacks.index(model.evaluator) < callbacks.index(model.post_processor)
    assert is_first == (evaluator is True)


def test_data_without_masks(tmp_path: Path, small_backbone: str, small_adapters: Path, mvtec: Path) -> None:
    datamodule = Folder(
        name="bottles",
        root=mvtec / "bottle",
        normal_dir="train/good",
        normal_test_dir="test/good",
        abnormal_dir="test/hole",
        num_workers=0,
    )
    results = evaluate(tmp_path, FBClip(backbone=small_backbone, weights=small_adapters), datamodule)
    assert results.keys() == {"image_AUROC", "image_AUPR"}


def test_another_evaluator(tmp_path: Path, small_backbone: str, small_adapters: Path, mvtec: Path) -> None:
    evaluator = Evaluator(test_metrics=[F1Score(fields=["pred_label", "gt_label"], prefix="image_")])
    model = FBClip(backbone=small_backbone, weights=small_adapters, evaluator=evaluator)
    assert evaluate(tmp_path, model, make_mvtec(mvtec)).keys() == {"image_F1Score"}


def test_no_evaluator(tmp_path: Path, small_backbone: str, small_adapters: Path, mvtec: Path) -> None:
    model = FBClip(backbone=small_backbone, weights=small_adapters, evaluator=False)
    assert evaluate(tmp_path, model, make_mvtec(mvtec)) == {}


def test_another_evaluator_on_the_command_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    small_backbone: str,
    small_adapters: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evaluator.yaml").write_text("""
class_path: anomalib.metrics.Evaluator
init_args:
  test_metrics:
    - class_path: anomalib.metrics.AUROC
      init_args:
        fields: [pred_score, gt_label]
        prefix: image_
""")
    model = AnomalibCLI(
        [
            "test",
            *("--model", "FBClip", "--model.backbone", small_backbone, "--model.weights", str(small_adapters)),
            *("--model.evaluator", "evaluator.yaml", "--data", "MVTecAD"),
        ],
        run=False,
    ).model
    assert type(model.evaluator) is Evaluator
    assert [metric.name for metric in model.evaluator.test_metrics] == ["image_AUROC"]
