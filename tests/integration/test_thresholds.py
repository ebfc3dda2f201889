# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Verdicts: fitted thresholds decide as the labels say, whatever the weights come from and whatever runs the model."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch
from anomalib.data import ImageBatch, InferenceBatch, MVTecAD
from anomalib.deploy import ExportType
from anomalib.engine import Engine
from anomalib.post_processing import PostProcessor
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from lightning.pytorch import Trainer
from PIL import Image

from anomalib_fbclip import FBClip
from anomalib_fbclip.exported import EdgeInferencer
from anomalib_fbclip.lightning.post_processing import ThresholdPostProcessor, match_verdict
from anomalib_fbclip.results import regions
from support.brightness import judge_by_brightness, make_folder, write_folder, write_image
from support.graphs import write_graph
from tools.bundled_model.parts import draw_category


@pytest.fixture
def model(small_backbone: str, small_adapters: Path, monkeypatch: pytest.MonkeyPatch) -> FBClip:
    return judge_by_brightness(FBClip(small_backbone, weights=small_adapters), monkeypatch)


def make_engine(root: Path) -> Engine:
    return Engine(default_root_dir=root, devices=1, accelerator="cpu", enable_progress_bar=False)


def read_table(root: Path) -> list[dict]:
    path = max(root.rglob("predictions.jsonl"), key=lambda path: path.parent.name)
    return [json.loads(line) for line in path.read_text().splitlines()]


def verdicts(root: Path) -> dict[str, str]:
    return {"/".join(Path(row["path"]).parts[-2:]): row["verdict"] for row in read_table(root)}


def test_the_defect_that_sets_the_threshold_is_anomalous(
    tmp_path: Path, model: FBClip, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folder(tmp_path / "parts", good=[40, 50, 60, 60], spots=[200])
    make_engine(tmp_path / "results").predict(model, datamodule=make_folder(tmp_path / "parts"))
    assert "5 images: 1 anomalous, 4 normal" in capsys.readouterr().out
    assert model.post_processor.image_threshold.item() == pytest.approx((60 + 200) / 2 / 255, abs=1e-3)
    # Of pixels, too: the brightest that is normal is at 60, the darkest of the defect at 200, but for its soft edge.
    assert model.post_processor.pixel_threshold.item() == pytest.approx((60 + 200) / 2 / 255, abs=1e-3)
    (row,) = [row for row in read_table(tmp_path / "results") if row["verdict"] == "anomalous"]
    assert (row["threshold_source"], row["pixel_threshold_source"]) == ("labels", "masks")
    assert row["regions"] == [{"box": [10, 20, 25, 30], "area": 150}]


def test_without_masks_the_threshold_of_the_map_is_its_own(tmp_path: Path, model: FBClip) -> None:
    """Scores and maps may lie on scales of their own; here the scores are far below."""
    forward = model.model.forward

    def on_another_scale(images: torch.Tensor) -> InferenceBatch:
        prediction = forward(images)
        return prediction._replace(pred_score=prediction.pred_score / 10)

    model.model.forward = on_another_scale
    write_folder(tmp_path / "parts", good=[40, 50, 60], spots=[180, 200], masks=False)
    make_engine(tmp_path / "results").predict(model, datamodule=make_folder(tmp_path / "parts"))
    assert model.post_processor.image_threshold.item() == pytest.approx((60 + 180) / 2 / 2550, abs=1e-3)
    assert model.post_processor.pixel_threshold.item() == pytest.approx(60 / 255, abs=1e-3)
    for row in read_table(tmp_path / "results"):
        assert row["pixel_threshold_source"] == "normal images"
        boxes = [region["box"] for region in row["regions"]]
        assert boxes == ([[10, 20, 25, 30]] if row["verdict"] == "anomalous" else [])


def test_only_normal_images(tmp_path: Path, model: FBClip) -> None:
    write_folder(tmp_path / "parts", good=[40, 50, 60], spots=[])
    make_engine(tmp_path / "results").predict(model, datamodule=make_folder(tmp_path / "parts"))
    assert set(verdicts(tmp_path / "results").values()) == {"normal"}
    assert {row["threshold_source"] for row in read_table(tmp_path / "results")} == {"normal images"}


@pytest.mark.parametrize("threshold", [None, 0.7])
@pytest.mark.parametrize("run", ["test", "predict"])
def test_a_guess(tmp_path: Path, model: FBClip, caplog: pytest.LogCaptureFixture, run: str, threshold: float) -> None:
    """It is said to be one, and a given threshold is none."""
    write_folder(tmp_path / "parts", good=[40], spots=[200])
    model.post_processor = ThresholdPostProcessor(image_threshold=threshold)
    datamodule = make_folder(tmp_path / "parts", val_split_mode="none")
    getattr(make_engine(tmp_path / "results"), run)(model, datamodule=datamodule)
    assert len([record for record in caplog.records if "unreliable" in record.message]) == (threshold is None)


def test_a_datamodule_without_validation_images(tmp_path: Path, model: FBClip) -> None:
    write_folder(tmp_path / "parts", good=[40], spots=[200])
    datamodule = make_folder(tmp_path / "parts", val_split_mode="none")
    make_engine(tmp_path / "results").predict(model, datamodule=datamodule)
    assert {row["threshold_source"] for row in read_table(tmp_path / "results")} == {"default"}


def test_verdict_and_regions_agree(tmp_path: Path, model: FBClip) -> None:
    """An anomalous image shows its strongest place, and a normal one no place, wherever the thresholds lie."""
    write_image(tmp_path / "photographs" / "weak.png", 10, spot=100)
    for name, (image_threshold, pixel_threshold) in {"anomalous": (0.1, 0.9), "normal": (0.9, 0.1)}.items():
        model.post_processor = ThresholdPostProcessor(image_threshold, pixel_threshold)
        make_engine(tmp_path / name).predict(model, data_path=tmp_path / "photographs")
        (row,) = read_table(tmp_path / name)
        assert row["verdict"] == name
        assert row["anomaly_map_max"] == pytest.approx(100 / 255, abs=1e-3)
        places = [region["box"] for region in row["regions"]]
        assert places == ([[10, 20, 11, 21]] if name == "anomalous" else [])


def test_verdict_and_regions_agree_with_another_post_processor(tmp_path: Path, model: FBClip) -> None:
    write_image(tmp_path / "photographs" / "weak.png", 10, spot=100)
    for name, (image, pixel) in {"anomalous": (0.9, 0.1), "normal": (0.1, 0.9)}.items():
        model.post_processor = PostProcessor(image_sensitivity=image, pixel_sensitivity=pixel)
        make_engine(tmp_path / name).predict(model, data_path=tmp_path / "photographs")
        (row,) = read_table(tmp_path / name)
        assert (row["verdict"], len(row["regions"])) == (name, int(name == "anomalous"))


@given(
    arrays(bool, (3, 5, 7)),
    arrays(np.float32, (3, 5, 7), elements=st.floats(0, 1, width=32), unique=True),
    arrays(bool, 3),
)
def test_masks_in_torch_are_those_in_numpy(mask: np.ndarray, anomaly_map: np.ndarray, label: np.ndarray) -> None:
    matched = match_verdict(torch.tensor(mask), torch.tensor(anomaly_map), torch.tensor(label))
    for index in range(3):
        expected = regions.match_verdict(mask[index], anomaly_map[index], bool(label[index]))
        assert np.array_equal(matched[index].numpy(), expected)


def test_masks_agree_with_the_verdicts_where_there_are_maps() -> None:
    scores, maps = torch.tensor([0.9, 0.1]), torch.tensor([0.1, 0.9]).view(2, 1, 1).expand(2, 5, 7)
    processor = ThresholdPostProcessor()
    batch = ImageBatch(image=torch.zeros(2, 3, 5, 7), pred_score=scores, anomaly_map=maps)
    processor.threshold_batch(batch)
    predicted = processor(InferenceBatch(pred_score=scores, anomaly_map=maps))
    for mask in (batch.pred_mask, predicted.pred_mask):
        assert mask.flatten(1).any(dim=1).tolist() == [True, False]

    batch = ImageBatch(image=torch.zeros(2, 3, 5, 7), pred_score=scores, pred_mask=maps > 0.5)
    processor.threshold_batch(batch)
    assert torch.equal(batch.pred_mask, maps > 0.5)


def test_a_fit_takes_place_where_the_model_is() -> None:
    processor = ThresholdPostProcessor()
    processor.on_validation_epoch_start(SimpleNamespace(), SimpleNamespace(device=torch.device("meta")))
    assert {metric.device.type for metric in processor._metrics.values()} == {"meta"}


def test_images_without_labels_fit_nothing() -> None:
    processor, trainer, model = ThresholdPostProcessor(), SimpleNamespace(world_size=1), SimpleNamespace(device="cpu")
    batch = ImageBatch(image=torch.zeros(2, 3, 5, 7), pred_score=torch.ones(2), anomaly_map=torch.ones(2, 5, 7))
    processor.on_validation_epoch_start(trainer, model)
    processor.on_validation_batch_end(trainer, model, batch)
    processor.on_validation_epoch_end(trainer, model)
    assert not processor.is_fitted
    assert processor.image_threshold_source == "default"


class TestCheckpoint:
    """With a checkpoint, thresholds are fitted to the data at hand as without one."""

    @pytest.fixture
    def data(self, tmp_path: Path) -> Path:
        return write_folder(tmp_path / "parts", good=[40, 50, 60], spots=[180, 200])

    @pytest.fixture
    def checkpoint(self, tmp_path: Path, model: FBClip) -> Path:
        """With thresholds of other data, and one that was given when it was made."""
        write_folder(tmp_path / "other", good=[200, 210], spots=[240])
        engine = make_engine(tmp_path / "before")
        model.post_processor = ThresholdPostProcessor(image_threshold=0.25)
        engine.fit(model, datamodule=make_folder(tmp_path / "other"))
        engine.trainer.save_checkpoint(tmp_path / "model.ckpt")
        return tmp_path / "model.ckpt"

    @pytest.fixture
    def fresh(self, small_backbone: str, monkeypatch: pytest.MonkeyPatch) -> FBClip:
        return judge_by_brightness(FBClip(small_backbone, weights=None), monkeypatch)

    @staticmethod
    def thresholds(model: FBClip) -> list[float]:
        names = ("image_threshold", "pixel_threshold", "image_min", "image_max", "pixel_min", "pixel_max")
        values = [getattr(model.post_processor, name).item() for name in names]
        return [*values, model.post_processor.normalized_image_threshold.item()]

    @pytest.mark.parametrize("command", ["test", "predict", "validate"])
    def test_of_the_data_at_hand(
        self,
        tmp_path: Path,
        data: Path,
        checkpoint: Path,
        fresh: FBClip,
        small_backbone: str,
        small_adapters: Path,
        monkeypatch: pytest.MonkeyPatch,
        command: str,
    ) -> None:
        expected = judge_by_brightness(FBClip(small_backbone, weights=small_adapters), monkeypatch)
        getattr(make_engine(tmp_path / "weights"), command)(expected, datamodule=make_folder(data))
        getattr(make_engine(tmp_path / "checkpoint"), command)(
            fresh, datamodule=make_folder(data), ckpt_path=checkpoint
        )
        assert self.thresholds(fresh) == self.thresholds(expected)
        assert np.isfinite(self.thresholds(fresh)).all()
        if command == "predict":
            assert verdicts(tmp_path / "checkpoint") == verdicts(tmp_path / "weights")
            assert sorted(verdicts(tmp_path / "checkpoint").values()) == ["anomalous"] * 2 + ["normal"] * 3
            assert {row["threshold_source"] for row in read_table(tmp_path / "checkpoint")} == {"labels"}

    def test_the_metrics_are_the_same(
        self, tmp_path: Path, data: Path, checkpoint: Path, fresh: FBClip, model: FBClip
    ) -> None:
        expected = make_engine(tmp_path / "weights").test(model, datamodule=make_folder(data))
        engine = make_engine(tmp_path / "checkpoint")
        assert engine.test(fresh, datamodule=make_folder(data), ckpt_path=checkpoint) == expected

    def test_of_the_checkpoint_without_labels(self, tmp_path: Path, checkpoint: Path, fresh: FBClip) -> None:
        write_image(tmp_path / "photographs" / "part.png", 10, spot=250)
        engine = make_engine(tmp_path / "checkpoint")
        engine.predict(fresh, data_path=tmp_path / "photographs", ckpt_path=checkpoint)
        (row,) = read_table(tmp_path / "checkpoint")
        assert (row["threshold"], row["threshold_source"]) == (0.25, "checkpoint")
        assert fresh.post_processor.image_threshold.item() == pytest.approx((210 + 240) / 2 / 255, abs=1e-3)

    def test_given_ones_override_both(
        self, tmp_path: Path, data: Path, checkpoint: Path, small_backbone: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = judge_by_brightness(FBClip(small_backbone, weights=None, image_threshold=0.9), monkeypatch)
        make_engine(tmp_path / "given").predict(model, datamodule=make_folder(data), ckpt_path=checkpoint)
        rows = read_table(tmp_path / "given")
        assert {(row["threshold"], row["threshold_source"]) for row in rows} == {(0.9, "given")}

    def test_a_checkpoint_of_the_stock_one_has_no_threshold_of_scores_for_maps(self) -> None:
        post_processor = ThresholdPostProcessor()
        post_processor.load_checkpoint_config(PostProcessor().checkpoint_config())
        post_processor._image_threshold.fill_(0.7)
        assert post_processor.pixel_threshold.isnan()


@pytest.mark.slow
def test_every_runtime_decides_alike(tmp_path: Path) -> None:
    """On each image of the data that thresholds were fitted to; the one that sets the threshold, too."""
    draw_category(tmp_path, "leather", image_size=128, train_images=1, test_images=6)
    datamodule = MVTecAD(tmp_path, "leather", num_workers=0)
    model = FBClip("fbclip-small", feature_layers=[6], views=["identity"])
    Trainer(logger=False, enable_checkpointing=False, accelerator="cpu").validate(model, datamodule=datamodule)
    model.eval()
    engine = Engine(accelerator="cpu", logger=False)
    onnx = engine.export(model, ExportType.ONNX, export_root=tmp_path)
    with pytest.MonkeyPatch.context() as patch:  # it takes longest, and both come from it
        patch.setattr(model, "to_onnx", lambda *_: onnx)
        xml = engine.export(model, ExportType.OPENVINO, export_root=tmp_path)
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    edge = EdgeInferencer(xml)
    decided = set()
    for path in datamodule.test_data.samples["image_path"]:
        with Image.open(path) as image:
            batch = np.asarray(image.convert("RGB"), dtype=np.float32).transpose(2, 0, 1)[None] / 255
        with torch.no_grad():
            expected = model(torch.from_numpy(batch))
        (label,) = session.run(["pred_label"], {"input": batch})
        prediction = edge.predict(path)
        assert bool(expected.pred_label) == bool(label) == prediction.is_anomalous
        assert expected.pred_mask.any() == prediction.mask.any() == bool(label)
        decided.add(bool(label))
    assert decided == {True, False}


def test_an_export_to_openvino_fits_thresholds_to_its_data(
    tmp_path: Path, small_backbone: str, small_adapters: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the adapters come from a file or from a checkpoint with thresholds of other images."""
    monkeypatch.setattr(FBClip, "to_onnx", lambda _, folder, *__: write_graph(Path(folder, "model.onnx")))
    write_folder(tmp_path / "other", good=[200, 210], spots=[240])
    write_folder(tmp_path / "parts", good=[40, 50], spots=[200])
    engine = make_engine(tmp_path / "before")
    engine.fit(FBClip(small_backbone, weights=small_adapters), datamodule=make_folder(tmp_path / "other"))
    checkpoint = next((tmp_path / "before").rglob("*.ckpt"))
    told = {}
    for name, weights in {"file": small_adapters, "checkpoint": None}.items():
        model = FBClip(small_backbone, weights=weights)
        if weights is None:
            model.load_state_dict(torch.load(checkpoint, weights_only=True)["state_dict"], strict=False)
            model.post_processor.load_checkpoint_config({})
        path = make_engine(tmp_path / name).export(
            model, ExportType.OPENVINO, export_root=tmp_path / name, datamodule=make_folder(tmp_path / "parts")
        )
        metadata = EdgeInferencer(path).metadata
        told[name] = {
            key: value for key, value in metadata.items() if "threshold" in key or key.endswith(("min", "max"))
        }
    assert told["checkpoint"] == told["file"]
    assert told["file"]["image_threshold_source"] == "labels"
    assert "image_threshold" in told["file"]


def test_thresholds_that_were_fitted_stay_in_an_export(tmp_path: Path, model: FBClip) -> None:
    """Other images do not change what was tested."""
    write_folder(tmp_path / "parts", good=[40, 50], spots=[200])
    model._fit_thresholds(make_folder(tmp_path / "parts"))
    fitted = model.post_processor.image_threshold.item()
    assert fitted == pytest.approx((50 + 200) / 2 / 255, abs=1e-3)
    write_folder(tmp_path / "calibration", good=[100, 110], spots=[200])
    model._fit_thresholds(make_folder(tmp_path / "calibration"))
    assert model.post_processor.image_threshold.item() == fitted
    assert model.description()["image_threshold"] == repr(fitted)
