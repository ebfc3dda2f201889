# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The metrics that a test of FBClip reports."""

import json
import sys
import warnings
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.cli.cli import AnomalibCLI
from anomalib.data import AnomalibDataModule, Folder, MVTecAD
from anomalib.engine import Engine
from anomalib.metrics import AUPR, AUPRO, AUROC, Evaluator, F1Score
from lightning.pytorch import Trainer
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from anomalib_fbclip import FBClip
from anomalib_fbclip.data import MetaJson
from support.command_line import run
from support.metrics import area_under_pro, area_under_roc

IMAGE_METRICS = {"image_AUROC", "image_AUPR"}
PIXEL_METRICS = {"pixel_AUROC", "pixel_AUPRO"}


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


def make_folder(root: Path, **folders: object) -> Folder:
    arguments = {"name": "bottles", "root": root, "normal_dir": "train/good", "num_workers": 0, **folders}
    return Folder(**arguments)


NORMAL = {"normal_test_dir": "test/good"}


@pytest.fixture
def empty_masks(tmp_path: Path, mvtec: Path) -> Path:
    """Masks of the anomalous images that show no defect."""
    folder = tmp_path / "empty"
    folder.mkdir()
    for path in (mvtec / "bottle/ground_truth/hole").iterdir():
        Image.new("L", Image.open(path).size).save(folder / path.name)
    return folder


class TestUndefined:
    """What the data does not define is left out, and one line says so."""

    @pytest.fixture
    def model(self, small_backbone: str, small_adapters: Path) -> FBClip:
        return FBClip(backbone=small_backbone, weights=small_adapters, visualizer=False)

    @staticmethod
    def measure(model: FBClip, datamodule: AnomalibDataModule, *, barebones: bool = False) -> dict[str, float]:
        trainer = Trainer(accelerator="cpu", devices=1, logger=False, barebones=barebones)
        trainer.test(model, datamodule=datamodule, verbose=False)
        return {name: float(value) for name, value in trainer.callback_metrics.items()}

    @staticmethod
    def only_line(caplog: pytest.LogCaptureFixture) -> str:
        (line,) = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
        return line

    @pytest.mark.parametrize("barebones", [False, True])
    def test_only_normal_images(
        self,
        mvtec: Path,
        model: FBClip,
        caplog: pytest.LogCaptureFixture,
        barebones: bool,
    ) -> None:
        datamodule = make_folder(mvtec / "bottle", **NORMAL, val_split_mode="none")
        with warnings.catch_warnings(record=True) as shown:
            warnings.simplefilter("always")
            assert self.measure(model, datamodule, barebones=barebones) == {}
        assert self.only_line(caplog) == (
            "The test images are all normal and have no masks: image_AUROC, image_AUPR, pixel_AUROC and pixel_AUPRO "
            "are left out."
        )
        assert not [warning for warning in shown if "samples in targets" in str(warning.message)]
        assert not [warning for warning in shown if "compute" in str(warning.message)]

    @pytest.mark.parametrize("barebones", [False, True])
    def test_only_anomalous_images(
        self,
        tmp_path: Path,
        mvtec: Path,
        model: FBClip,
        caplog: pytest.LogCaptureFixture,
        barebones: bool,
    ) -> None:
        bottle = mvtec / "bottle"
        images = sorted((bottle / "test/hole").iterdir())
        masks = sorted((bottle / "ground_truth/hole").iterdir())
        entries = [
            {"img_path": str(image), "mask_path": str(mask), "anomaly": 1}
            for image, mask in zip(images, masks, strict=True)
        ]
        (tmp_path / "meta.json").write_text(json.dumps({"test": {"bottle": entries}}))
        datamodule = MetaJson(tmp_path, num_workers=0)
        assert self.measure(model, datamodule, barebones=barebones).keys() == PIXEL_METRICS
        assert self.only_line(caplog) == ("The test images are all anomalous: image_AUROC and image_AUPR are left out.")

    def test_without_masks(self, mvtec: Path, model: FBClip, caplog: pytest.LogCaptureFixture) -> None:
        datamodule = make_folder(mvtec / "bottle", **NORMAL, abnormal_dir="test/hole")
        with warnings.catch_warnings(record=True) as shown:
            warnings.simplefilter("always")
            assert self.measure(model, datamodule).keys() == IMAGE_METRICS
        assert self.only_line(caplog) == ("The test images have no masks: pixel_AUROC and pixel_AUPRO are left out.")
        assert not [warning for warning in shown if "compute" in str(warning.message)]

    def test_empty_masks(
        self,
        mvtec: Path,
        model: FBClip,
        empty_masks: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        datamodule = make_folder(mvtec / "bottle", **NORMAL, abnormal_dir="test/hole", mask_dir=empty_masks)
        assert self.measure(model, datamodule).keys() == IMAGE_METRICS
        assert self.only_line(caplog) == (
            "The test images have no anomalous pixel: pixel_AUROC and pixel_AUPRO are left out."
        )

    def test_a_run_does_not_count_in_the_next(self, mvtec: Path, model: FBClip) -> None:
        """What was left out in one run is not logged, and Lightning forgets only what is."""
        expected = self.measure(model, make_mvtec(mvtec))
        assert expected.keys() == IMAGE_METRICS | PIXEL_METRICS
        self.measure(model, make_folder(mvtec / "bottle", **NORMAL, val_split_mode="none"))
        assert self.measure(model, make_mvtec(mvtec)) == expected

    def test_validation(self, tmp_path: Path, mvtec: Path, model: FBClip) -> None:
        datamodule = make_folder(mvtec / "bottle", **NORMAL, val_split_mode="same_as_test")
        engine = Engine(default_root_dir=tmp_path, accelerator="cpu", devices=1)
        assert engine.validate(model, datamodule=datamodule) == [{}]


Batch = list[tuple[float, int]]

CASES: dict[str, list[list[Batch]]] = {
    "one label each": [[[(0.1, 0), (0.2, 0)]], [[(0.9, 1)], [(0.15, 1)], [(0.8, 1)]]],
    "different numbers": [[[(0.6, 0), (0.7, 1)], [(0.3, 1)]], [[(0.5, 1)]]],
    "one process has none": [[[(0.1, 0), (0.7, 1)], [(0.3, 1)], [(0.35, 0)]], []],
    "one image": [[[(0.1, 0)]], []],
    "all normal": [[[(0.1, 0)]], [[(0.4, 0)], [(0.7, 0)]]],
    "all anomalous": [[[(0.1, 1)]], [[(0.4, 1)], [(0.7, 1)]]],
}
"""Images on two processes: for each a list of batches of scores and labels."""


def measure_in_one(batches: list[Batch]) -> dict[str, float]:
    """Compute the metrics of all images of a case from their definitions."""
    scores, labels = (np.array(column) for column in zip(*chain.from_iterable(batches), strict=True))
    maps, masks = np.repeat(scores, 16).reshape(-1, 4, 4), np.zeros((len(scores), 4, 4), dtype=bool)
    masks[:, :, 0] = labels[:, None] == 1
    metrics = {}
    if 0 < labels.sum() < len(labels):
        metrics["image_AUROC"] = roc_auc_score(labels, scores)
        metrics["image_AUPR"] = average_precision_score(labels, scores)
    if labels.any():
        metrics["pixel_AUROC"] = area_under_roc(maps, masks)
        metrics["pixel_AUPRO"] = area_under_pro(maps, masks, limit=0.3)
    return metrics


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    """Each knows the metrics of all images, whichever of them it has seen, and none waits for ever."""
    (tmp_path / "cases.json").write_text(json.dumps(list(CASES.values())))
    script = Path(__file__).with_name("evaluate_in_two_processes.py")
    result = run(tmp_path, sys.executable, script, tmp_path / "cases.json", tmp_path)
    assert result.returncode == 0, result.stderr
    expected = [measure_in_one(list(chain.from_iterable(case))) for case in CASES.values()]
    assert [len(metrics) for metrics in expected] == [4, 4, 4, 0, 0, 2]
    for rank in (0, 1):
        measured = json.loads((tmp_path / f"{rank}.json").read_text())
        assert measured == [pytest.approx(metrics, abs=1e-6) for metrics in expected]
    assert result.stdout.count("left out") == 3


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
