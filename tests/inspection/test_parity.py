# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The scores are those of anomalib's engine, and of one photograph at a time."""

from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import PredictDataset
from anomalib.engine import Engine

from anomalib_fbclip import FBClip
from anomalib_fbclip.contract.image_files import find_images
from anomalib_fbclip.edge.errors import ImageError
from anomalib_fbclip.inspection.prediction import ComparedPrediction
from anomalib_fbclip.inspection.torch_inferencer import TorchInferencer


@pytest.mark.parametrize("is_few_shot", [False, True], ids=["zero-shot", "few-shot"])
def test_same_as_anomalib(is_few_shot: bool, photographs: Path, tmp_path: Path) -> None:
    good = photographs / "good"
    inferencer = TorchInferencer("fbclip-small", "auto", "cpu", "float32", None, None)
    if is_few_shot:
        inferencer.compare_with(find_images(good), advance=lambda: None)
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
        inferencer.compare_with(find_images(photographs / "good"), advance=lambda: None)
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
