# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The scores are those of anomalib's engine, and of one photograph at a time."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import PredictDataset
from anomalib.engine import Engine
from anomalib.post_processing import PostProcessor
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import Trainer

from anomalib_fbclip import FBClip
from anomalib_fbclip.cli.inspection import ComparedPrediction
from anomalib_fbclip.cli.torch_inferencer import TorchInferencer
from anomalib_fbclip.errors import ImageError
from anomalib_fbclip.images.image_files import find_images
from anomalib_fbclip.weights.tensor_files import Normalization


@pytest.mark.parametrize("is_few_shot", [False, True], ids=["zero-shot", "few-shot"])
def test_same_as_anomalib(is_few_shot: bool, photographs: Path, tmp_path: Path) -> None:
    good = photographs / "good"
    inferencer = TorchInferencer("fbclip-small", "auto", "cpu", "float32", None, None)
    if is_few_shot:
        inferencer.compare_with(inferencer.read_references(find_images(good)), advance=lambda: None)
    paths = find_images(photographs)
    own = list(inferencer.stream(paths))

    model = FBClip("fbclip-small", few_shot_source=good if is_few_shot else None)
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", devices=1, enable_progress_bar=False)
    batches = engine.predict(model, dataset=PredictDataset(path=photographs))
    theirs = {Path(item.image_path): item for batch in batches for item in batch}
    for prediction in own:
        item = theirs[prediction.path]
        assert prediction.score == pytest.approx(item.pred_score.item(), abs=1e-6)
        assert prediction.anomaly_map == pytest.approx(item.anomaly_map.squeeze().numpy(), abs=1e-6)
        assert prediction.is_anomalous == bool(item.pred_label)
        assert (prediction.mask == item.pred_mask.squeeze().numpy()).all()


def test_several_at_once_are_not_mixed_up(photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each prediction is that of its own photograph, its nearest place too, and an error comes when it is its turn."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    paths = find_images(photographs)
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (60 + 7 * index, 90, 3), dtype=np.uint8) for index in range(6)]
    too_small = noise[0][:5]
    sources = [noise[0], paths[0], too_small, *noise[1:4], paths[-1], too_small, *noise[4:]]

    def predict(at_once: int) -> list[ComparedPrediction | None]:
        inferencer = TorchInferencer("fbclip-small", "auto", "cpu", "float32", None, None, at_once)
        inferencer.compare_with(inferencer.read_references(find_images(photographs / "good")[:2]), advance=lambda: None)
        found = []
        for prediction in inferencer.stream(sources, on_failure=lambda *_: found.append(None)):
            found.extend([prediction])
        return found

    alone, together = predict(1), predict(3)
    for source, one, other in zip(sources, alone, together, strict=True):
        if source is too_small:
            assert one is other is None
            continue
        assert one.score == pytest.approx(other.score, abs=1e-6)
        assert (one.image.shape, one.nearest.path) == (other.image.shape, other.nearest.path)
        assert np.array_equal(one.nearest.place, other.nearest.place)
        assert np.array_equal(one.nearest.reference, other.nearest.reference)


def test_an_error_is_raised_where_nobody_takes_it() -> None:
    inferencer = TorchInferencer("fbclip-small", "auto", "cpu", "float32", None, None)
    with pytest.raises(ImageError):
        list(inferencer.stream([np.zeros((5, 5, 3), np.uint8)]))


@pytest.fixture
def checkpoint(tmp_path: Path, small_backbone: str) -> Path:
    """The checkpoint of a model with other layers and views, whose training has fitted thresholds."""
    model = FBClip(small_backbone, weights=None, seed=3, feature_layers=[2, 4], views=["identity"], pixel_threshold=0.3)
    model.source = "parts"
    fitted = {"_image_threshold": 0.5, "image_min": 0.4, "image_max": 0.7, "pixel_min": 0.45, "pixel_max": 0.45}
    for name, value in fitted.items():
        getattr(model.post_processor, name).fill_(value)
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    return tmp_path / "model.ckpt"


def test_a_checkpoint(photographs: Path, tmp_path: Path, small_backbone: str, checkpoint: Path) -> None:
    """It says which layers and views the model has, how scores are normalized, and where the thresholds are."""
    inferencer = TorchInferencer(small_backbone, str(checkpoint), "cpu", "float32", None, None)
    own = {prediction.path: prediction for prediction in inferencer.stream(find_images(photographs))}
    assert inferencer.trained_on == "parts"
    assert inferencer.decision_thresholds() == pytest.approx((0.5, 0.3))
    assert inferencer.threshold_sources() == ("checkpoint", "checkpoint")

    model = FBClip(small_backbone, weights=None, feature_layers=[2, 4], views=["identity"])
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", devices=1, enable_progress_bar=False)
    batches = engine.predict(model, dataset=PredictDataset(path=photographs), ckpt_path=checkpoint)
    theirs = [item for batch in batches for item in batch]
    assert len(theirs) == len(own)
    assert any(0 < prediction.score < 1 for prediction in own.values())
    for item in theirs:
        prediction = own[Path(item.image_path)]
        assert prediction.score == pytest.approx(item.pred_score.item(), abs=1e-6)
        assert prediction.anomaly_map == pytest.approx(item.anomaly_map.squeeze().numpy(), abs=1e-6)
        assert prediction.is_anomalous == bool(item.pred_label)
        assert (prediction.mask == item.pred_mask.squeeze().numpy()).all()


def test_good_photographs_take_the_place_of_a_checkpoints_thresholds(
    photographs: Path, small_backbone: str, checkpoint: Path
) -> None:
    inferencer = TorchInferencer(small_backbone, str(checkpoint), "cpu", "float32", None, None)
    inferencer.compare_with(inferencer.read_references(find_images(photographs / "good")), advance=lambda: None)
    assert inferencer.decision_thresholds() == (0.5, 0.5)
    assert inferencer.threshold_sources() == ("good photographs", "good photographs")


def test_the_backbone_is_that_of_the_weights(tmp_path: Path) -> None:
    """A file names its backbone, so that nobody has to."""
    adapters = FBClip("fbclip-small", image_size=112)
    adapters.save_adapters(tmp_path / "mine.safetensors")
    inferencer = TorchInferencer(None, str(tmp_path / "mine.safetensors"), "cpu", "float32", None, None)
    assert (inferencer.backbone, inferencer.input_size) == ("fbclip-small", (112, 112))


@given(
    st.floats(0, 1, width=32),
    st.sampled_from([math.nan, 0.3, 0.5]),
    st.sampled_from([(math.nan, math.nan), (0.2, 0.8), (0.4, 0.4), (0.5, 0.5)]),
)
def test_normalization_is_anomalibs(value: float, threshold: float, limits: tuple[float, float]) -> None:
    tensors = [torch.tensor(number) for number in (value, *limits, threshold)]
    expected = PostProcessor._normalize(*tensors)
    found = Normalization(threshold, *limits)(tensors[0])
    assert found.item() == pytest.approx(expected.item(), abs=1e-6)
