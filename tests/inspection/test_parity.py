# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The scores are those of anomalib's engine."""

from pathlib import Path

import pytest
from anomalib.data import PredictDataset
from anomalib.engine import Engine

from anomalib_fbclip import FBClip
from anomalib_fbclip.contract.image_files import find_images
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
