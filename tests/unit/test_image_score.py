# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

import pytest
import torch

from anomalib_fbclip.modeling.anomaly_map import MapValues
from anomalib_fbclip.modeling.decision import IMAGE_SCORES, ZeroShot
from anomalib_fbclip.weights.backbones import build_model, resolve_image_score

CLASS_SCORE = torch.tensor([0.2, 0.9])
MAPS = torch.zeros(2, 20, 20)
MAPS[0, 3, :4] = torch.tensor([0.4, 0.6, 0.8, 1.0])
"""Maps of 400 places: four are the highest hundredth."""


@pytest.mark.parametrize(
    ("name", "expected"),
    [("class_token", [0.2, 0.9]), ("map", [0.7, 0.0]), ("both", [0.45, 0.45])],
)
def test_scores(name, expected):
    values = MapValues(torch.zeros(2, 1, 5, 5), MAPS, None, area=MAPS[0].numel())
    prediction = ZeroShot(IMAGE_SCORES[name]).predict(CLASS_SCORE, values)
    torch.testing.assert_close(prediction.pred_score, torch.tensor(expected))


def test_the_text_alone_needs_no_reference_images():
    assert ZeroShot(IMAGE_SCORES["class_token"]).k_shot == 0


@pytest.mark.parametrize(
    ("backbone", "given", "expected"),
    [
        ("ViT-L-14-336", None, "class_token"),
        ("ViT-L-14-336", "map", "map"),
        ("fbclip-small", None, "both"),
        ("fbclip-small", "class_token", "class_token"),
    ],
)
def test_usual_score_is_the_papers_but_for_the_bundled_backbone(backbone, given, expected):
    assert resolve_image_score(backbone, given) == expected


def test_an_unknown_score_is_refused():
    with pytest.raises(ValueError, match=r"'mean': choose one of .*'both'"):
        resolve_image_score("fbclip-small", "mean")


def test_the_model_scores_as_it_is_told():
    images = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    models = {name: build_model("ViT-B-32", None, [1, 2], image_score=name).eval() for name in IMAGE_SCORES}
    images = torch.nn.functional.interpolate(images, size=(96, 96))
    with torch.inference_mode():
        scores = {name: model(images) for name, model in models.items()}
    torch.testing.assert_close(
        scores["both"].pred_score,
        (scores["class_token"].pred_score + scores["map"].pred_score) / 2,
    )
    assert not torch.allclose(scores["map"].pred_score, scores["class_token"].pred_score)
    assert torch.equal(scores["map"].anomaly_map, scores["class_token"].anomaly_map)
