# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Regions, and masks that agree with the verdict."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage import measure

from anomalib_fbclip.results.regions import Region, find_regions, match_verdict

masks = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(lambda shape: arrays(bool, shape))


@given(masks)
def test_the_regions_are_those_of_scikit_image(mask: np.ndarray) -> None:
    expected = []
    for part in measure.regionprops(measure.label(mask, connectivity=2)):
        top, left, bottom, right = part.bbox
        expected.append(Region((left, top, right, bottom), int(part.area)))
    assert sorted(find_regions(mask, mask.shape)) == sorted(expected)


def test_a_spiral_is_one_region() -> None:
    mask = np.array([[1, 1, 1, 1, 1], [0, 0, 0, 0, 1], [1, 1, 1, 0, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]], dtype=bool)
    assert find_regions(mask, (5, 5)) == [Region((0, 0, 5, 5), 17)]


def test_in_pixels_of_an_image_of_another_size_and_shape() -> None:
    mask = np.zeros((4, 8), dtype=bool)
    mask[1:3, 2:3] = True
    assert find_regions(mask, (40, 16)) == [Region((4, 10, 6, 30), 40)]


def test_the_largest_is_first() -> None:
    mask = np.zeros((6, 6), dtype=bool)
    mask[0, 0] = mask[4:, 2:] = True
    assert [region.area for region in find_regions(mask, (6, 6))] == [8, 1]


@pytest.mark.parametrize("image_size", [(1, 1), (7, 4001), (517, 519)])
def test_a_region_never_leaves_the_image(image_size: tuple[int, int]) -> None:
    (region,) = find_regions(np.ones((518, 518), dtype=bool), image_size)
    assert region == Region((0, 0, image_size[1], image_size[0]), image_size[0] * image_size[1])


@given(masks, st.booleans())
def test_a_mask_agrees_with_the_verdict(mask: np.ndarray, is_anomalous: bool) -> None:
    anomaly_map = np.arange(mask.size, dtype=np.float32).reshape(mask.shape)
    matched = match_verdict(mask, anomaly_map, is_anomalous)
    assert matched.any() == is_anomalous
    if is_anomalous and mask.any():
        assert np.array_equal(matched, mask)
    if is_anomalous and not mask.any():
        assert matched[-1, -1]


@pytest.mark.parametrize(
    ("place", "region"),
    [((50, 200), Region((198, 48, 203, 53), 25)), ((0, 0), Region((0, 0, 3, 3), 9))],
    ids=["inside", "in a corner"],
)
def test_the_strongest_place_is_a_square_around_the_maximum(place: tuple[int, int], region: Region) -> None:
    anomaly_map = np.zeros((128, 256))
    anomaly_map[place] = 0.3
    matched = match_verdict(np.zeros((128, 256), dtype=bool), anomaly_map, is_anomalous=True)
    assert find_regions(matched, (128, 256)) == [region]
