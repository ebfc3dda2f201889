# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Images are changed as written down, and masks with them, in training and by disturbances."""

import math

import pytest
import torch
from torchvision import tv_tensors

from tools.bundled_model.augmentations import create_augmentations
from tools.bundled_model.disturbances import RandomLight


def test_light_follows_its_formula() -> None:
    image = tv_tensors.Image(torch.rand(3, 5, 7))
    params = {"exponent": -0.5, "slope": 0.8, "angle": 1.0}
    lit = RandomLight(gamma=0.6, slope=0.3).transform(image, params)
    for row, v in enumerate((-1, -0.5, 0, 0.5, 1)):
        for column, u in enumerate((-1, -2 / 3, -1 / 3, 0, 1 / 3, 2 / 3, 1)):
            shade = 1 + 0.3 * 0.8 * (u * math.cos(1.0) + v * math.sin(1.0))
            expected = [min(value ** math.exp(-0.3) * shade, 1) for value in image[:, row, column].tolist()]
            assert lit[:, row, column].tolist() == pytest.approx(expected, abs=1e-5)


def test_light_leaves_masks() -> None:
    mask = tv_tensors.Mask(torch.tensor([[0, 1], [1, 0]]))
    _, same = RandomLight()(tv_tensors.Image(torch.rand(3, 2, 2)), mask)
    assert torch.equal(same, mask)


def test_masks_move_with_images() -> None:
    """A bright square is where its mask is, however the frame and the light change."""
    torch.manual_seed(0)
    augmentations = create_augmentations(64)
    image = torch.full((3, 80, 80), 20, dtype=torch.uint8)
    mask = torch.zeros(80, 80, dtype=torch.uint8)
    image[:, 10:40, 45:75], mask[10:40, 45:75] = 220, 1
    for _ in range(20):
        changed, changed_mask = augmentations(tv_tensors.Image(image), tv_tensors.Mask(mask))
        assert changed.shape == (3, 64, 64)
        assert 0 <= changed.min() <= changed.max() <= 1.2  # noise comes last
        inside, outside = changed[:, changed_mask > 0], changed[:, changed_mask == 0]
        assert not inside.numel() or inside.mean() > outside.mean() + 0.1
