# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Region of interest: what lies outside takes part in neither map nor score."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from anomalib_fbclip import FBClip
from anomalib_fbclip.modeling.anomaly_map import LOWEST, AnomalyMapGenerator
from anomalib_fbclip.modeling.decision import IntermediateOutputs
from anomalib_fbclip.modeling.fbclip import FBClipModel
from anomalib_fbclip.modeling.region import LEAST_WEIGHT, RegionOfInterest

property_test = settings(deadline=None, max_examples=20)

PATCH, GRID = 14, (4, 4)
SIZE = (PATCH * GRID[0], PATCH * GRID[1])

seeds = st.integers(0, 2**32 - 1)

Box = tuple[int, int, int, int]


def draw_boxes(*boxes: Box) -> torch.Tensor:
    """Rectangles, each by its rows and columns: first and last."""
    pixels = torch.zeros(SIZE, dtype=torch.bool)
    for top, bottom, left, right in boxes:
        pixels[top : bottom + 1, left : right + 1] = True
    return pixels


edges = st.tuples(st.integers(0, SIZE[0] - 1), st.integers(0, SIZE[0] - 1)).map(sorted)
boxes = st.tuples(edges, edges).map(lambda sides: (*sides[0], *sides[1]))
regions = st.lists(boxes, min_size=1, max_size=3).map(lambda found: draw_boxes(*found))


def patches_inside(pixels: torch.Tensor) -> list[tuple[int, int]]:
    """Patches of which half or more lies inside."""
    found = []
    for row in range(GRID[0]):
        for column in range(GRID[1]):
            patch = pixels[row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH]
            if 2 * int(patch.sum()) >= PATCH**2:
                found.append((row, column))
    return found


def draw_values(seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(1, 1, *GRID))).float()


def test_checkpoints_hold_no_region() -> None:
    assert not RegionOfInterest(torch.ones(2, 2, dtype=torch.bool)).state_dict()


@property_test
@given(regions, seeds)
def test_a_pixel_has_the_weighted_mean_of_the_patches_inside(pixels: torch.Tensor, seed: int) -> None:
    inside = patches_inside(pixels)
    assume(inside)
    generator, values = AnomalyMapGenerator(), draw_values(seed)
    total, weights = torch.zeros(SIZE), torch.zeros(SIZE)
    for row, column in inside:
        alone = torch.zeros(1, 1, *GRID)
        alone[..., row, column] = 1
        weight = generator(alone, SIZE)[0]
        total += weight * values[0, 0, row, column]
        weights += weight
    expected = torch.full(SIZE, LOWEST)
    for y, x in pixels.nonzero().tolist():
        if weights[y, x] > LEAST_WEIGHT:
            expected[y, x] = total[y, x] / weights[y, x]
    certain = (weights - LEAST_WEIGHT).abs() > 1e-6
    found = generator(values, SIZE, RegionOfInterest(pixels))[0]
    torch.testing.assert_close(found[certain], expected[certain], atol=1e-3, rtol=1e-4)


def test_everything_is_as_without_a_region() -> None:
    generator, values = AnomalyMapGenerator(), draw_values(0)
    everything = RegionOfInterest(torch.ones(SIZE, dtype=torch.bool))
    torch.testing.assert_close(generator(values, SIZE, everything), generator(values, SIZE))


@pytest.fixture(scope="module")
def model(small_backbone: str, small_adapters: Path) -> FBClipModel:
    return FBClip(small_backbone, weights=small_adapters).eval().model


def predict(model: FBClipModel, patch_values: torch.Tensor, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Score and map of values of patches, and of a class token that is sure of a defect."""
    region = RegionOfInterest(pixels)
    outputs = IntermediateOutputs(torch.ones(1), patch_values, [], torch.zeros(2, 1), [])
    with torch.no_grad():
        score, anomaly_map = model.conclude([outputs], SIZE, model.decision, region)
    return score[0], anomaly_map[0]


@property_test
@given(regions, seeds)
def test_the_score_is_the_mean_of_the_highest_hundredth_inside(
    model: FBClipModel, pixels: torch.Tensor, seed: int
) -> None:
    assume(patches_inside(pixels))
    score, anomaly_map = predict(model, draw_values(seed).sigmoid(), pixels)
    assert not anomaly_map[~pixels].any()
    assert not anomaly_map[~pixels].signbit().any()
    inside = sorted(anomaly_map[pixels].tolist(), reverse=True)
    highest = inside[: max(round(len(inside) / 100), 1)]
    assert score.item() == pytest.approx(sum(highest) / len(highest), abs=1e-5)


@property_test
@given(regions, seeds)
def test_a_defect_outside_changes_nothing(model: FBClipModel, pixels: torch.Tensor, seed: int) -> None:
    inside = patches_inside(pixels)
    assume(inside)
    values = draw_values(seed).sigmoid() / 2
    defective = torch.ones_like(values)
    for row, column in inside:
        defective[..., row, column] = values[..., row, column]
    for one, other in zip(predict(model, values, pixels), predict(model, defective, pixels), strict=True):
        torch.testing.assert_close(one, other)


@property_test
@given(regions)
def test_values_stay_between_0_and_1(model: FBClipModel, pixels: torch.Tensor) -> None:
    """However thin the region is, as far as it can be looked at."""
    if not patches_inside(pixels):
        with pytest.raises(ValueError, match="patch"):
            model.region_of(pixels)
        return
    for values in predict(model, torch.full((1, 1, *GRID), 0.5), model.region_of(pixels).pixels):
        assert values.min() >= 0
        assert values.max() <= 0.5 + 1e-5


def test_a_region_that_is_thinner_than_half_a_patch(model: FBClipModel) -> None:
    """No patch counts: nothing is said, rather than that all is normal."""
    with pytest.raises(ValueError, match="patch"):
        model.region_of(draw_boxes((20, 25, 0, 55)))


def test_an_empty_mask() -> None:
    with pytest.raises(ValueError, match="empty") as raised:
        RegionOfInterest(torch.zeros(SIZE, dtype=torch.bool))
    assert "\n" not in str(raised.value)


def test_where_there_is_a_region_the_class_token_has_no_say(model: FBClipModel) -> None:
    """It sees the whole image."""
    everything = torch.ones(SIZE, dtype=torch.bool)
    score, _ = predict(model, torch.full((1, 1, *GRID), 0.25), everything)
    assert score.item() == pytest.approx(0.25, abs=1e-5)
