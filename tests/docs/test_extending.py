# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The code of the documentation runs as it stands there."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from anomalib_fbclip import FBClip
from anomalib_fbclip.modeling.mvfbe import VIEWS
from anomalib_fbclip.modeling.text_fusion import GlobalStrategy, TextFusion

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"


@pytest.fixture
def names() -> Iterator[dict]:
    """What the page's code defines, all of it run in one go."""
    names: dict = {"__name__": "extending"}
    known = dict(VIEWS)
    for code in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        exec(compile(code, str(PAGE), "exec"), names)
    yield names
    VIEWS.clear()
    VIEWS.update(known)


def test_a_view_and_a_strategy_of_ones_own(names: dict) -> None:
    model = names["model"].model
    tokens = torch.randn(2, 10, 4)
    view = names["ContrastView"]()(tokens, torch.ones(2, 9), (3, 3))(tokens)
    torch.testing.assert_close(view[:, 1:].mean(dim=1), torch.zeros(2, 4))
    assert torch.equal(view[:, 0], tokens[:, 0])

    images = torch.randn(2, 3, 224, 224)
    outputs = model.intermediate_outputs(images, model.text_features())
    assert len(outputs.embeddings) == 2 * len(model.backbone.feature_layers)
    prediction = model(images)
    assert prediction.anomaly_map.isfinite().all()
    both = model.encode_text()
    torch.testing.assert_close(model.text_features(), both)
    del model.text_fusion.weights["maximum"]
    assert not torch.allclose(model.encode_text(), both)


def test_another_fusion_after_a_prediction() -> None:
    model = FBClip("fbclip-small").model
    before = model.text_features()
    model.text_fusion = TextFusion({"global": GlobalStrategy()}, {"global": 1.0})
    assert torch.equal(model.text_features(), model.encode_text())
    assert not torch.allclose(model.text_features(), before)
