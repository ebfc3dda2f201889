# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""fbclip-small finds defects that it has never seen: a change that makes it worse fails here.

The limits lie below what ``anomalib_fbclip/weights/bundled/MODEL_CARD.md`` reports, by what the choice of images alone
makes out.
"""

from pathlib import Path

import pytest
import torch

from anomalib_fbclip import FBClip
from tools.bundled_model.evaluate import evaluate, list_images
from tools.bundled_model.parts import draw_category
from tools.bundled_model.procedural import HELD_OUT_CATEGORIES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model() -> FBClip:
    return FBClip("fbclip-small").eval()


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("parts")
    for category in HELD_OUT_CATEGORIES:
        draw_category(root, category, train_images=1, test_images=60)
    return root


def test_unseen_procedural_categories(model: FBClip, parts: Path) -> None:
    found = torch.tensor([evaluate(model, list_images(parts / category)) for category in HELD_OUT_CATEGORIES])
    image_auroc, pixel_auroc = found.mean(dim=0).tolist()
    assert image_auroc > 0.80
    assert pixel_auroc > 0.95


def test_photographs_of_hazelnuts(model: FBClip, real_data: Path) -> None:
    image_auroc, pixel_auroc = evaluate(model, list_images(real_data / "hazelnut"))
    assert image_auroc > 0.95
    assert pixel_auroc > 0.97


def test_photographs_of_cookies(model: FBClip, real_data: Path) -> None:
    image_auroc, pixel_auroc = evaluate(model, list_images(real_data / "cookie"))
    assert image_auroc > 0.68
    assert pixel_auroc > 0.92
