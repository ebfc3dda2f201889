# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Tiles: where they lie, that they leave no seam, and that their number does not change what is done with each."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalib_fbclip.modeling.region import RegionOfInterest
from anomalib_fbclip.modeling.tiling import Tiles, WholeImage

property_test = settings(deadline=None, max_examples=25)

PATCH = 2
counts = st.tuples(st.integers(1, 4), st.integers(1, 4)).filter(lambda count: count != (1, 1))
sides = st.tuples(st.integers(4, 9), st.integers(4, 9))


def make(count: tuple[int, int], side: tuple[int, int]) -> Tiles:
    return Tiles(count, (side[0] * PATCH, side[1] * PATCH), (PATCH, PATCH))


def tile_boxes(count: tuple[int, int], side: tuple[int, int]) -> list[tuple[int, int]]:
    """First row and column of patches of each tile, literally: each begins three quarters of a tile after the last."""
    strides = [number - number // 4 for number in side]
    return [(row * strides[0], column * strides[1]) for row in range(count[0]) for column in range(count[1])]


@property_test
@given(counts, sides, st.integers(1, 3))
def test_views_are_the_whole_and_pieces_of_it(count: tuple[int, int], side: tuple[int, int], images: int) -> None:
    tiles = make(count, side)
    batch = torch.rand(images, 3, *tiles.image_size)
    views = tiles.split(batch).unflatten(0, (images, tiles.view_count))
    assert views.shape[1] == 1 + count[0] * count[1]
    height, width = (number * PATCH for number in side)
    for image, (_, *pieces) in zip(batch, views, strict=True):
        for (row, column), piece in zip(tile_boxes(count, side), pieces, strict=True):
            y, x = row * PATCH, column * PATCH
            assert torch.equal(piece, image[:, y : y + height, x : x + width])
    assert tile_boxes(count, side)[-1][0] + side[0] == tiles.grid[0]
    constant = tiles.split(torch.full((1, 3, *tiles.image_size), 0.3))
    torch.testing.assert_close(constant, torch.full_like(constant, 0.3))


@property_test
@given(counts, sides, st.integers(0, 2**32 - 1))
def test_a_joint_map_is_the_higher_of_the_whole_and_the_blended_tiles(
    count: tuple[int, int], side: tuple[int, int], seed: int
) -> None:
    tiles = make(count, side)
    values = torch.from_numpy(np.random.default_rng(seed).normal(size=(tiles.view_count, 1, *side))).float()
    blended, weights = torch.zeros(tiles.grid), torch.zeros(tiles.grid)
    for (row, column), (piece,) in zip(tile_boxes(count, side), values[1:], strict=True):
        for y in range(side[0]):
            for x in range(side[1]):
                weight = min(y + 1, side[0] - y) * min(x + 1, side[1] - x)
                blended[row + y, column + x] += weight * piece[y, x]
                weights[row + y, column + x] += weight
    whole = torch.nn.functional.interpolate(values[:1], tiles.grid, mode="bilinear")[0, 0]
    torch.testing.assert_close(tiles.blend(values)[0, 0], blended / weights)
    torch.testing.assert_close(tiles.join(values)[0, 0], torch.maximum(whole, blended / weights))


@property_test
@given(counts, sides, st.integers(0, 2**32 - 1), st.tuples(st.floats(0.1, 0.9), st.floats(0.1, 0.9)))
def test_large_patches_of_the_whole_do_not_reach_into_a_region(
    count: tuple[int, int], side: tuple[int, int], seed: int, corner: tuple[float, float]
) -> None:
    """The region is the lower right part of the image."""
    tiles = make(count, side)
    pixels = torch.zeros(tiles.image_size, dtype=torch.bool)
    top, left = (round(share * length) for share, length in zip(corner, tiles.image_size, strict=True))
    pixels[top:, left:] = True
    values = torch.from_numpy(np.random.default_rng(seed).normal(size=(tiles.view_count, 1, *side))).float()
    joined = tiles.join(values, RegionOfInterest(pixels))
    starts = (start / length for start, length in zip((top, left), tiles.image_size, strict=True))
    rows, columns = (torch.arange(number) / number >= start for number, start in zip(side, starts, strict=True))
    far_rows, far_columns = (
        torch.arange(number) / number + 1.5 / number < share for number, share in zip(side, corner, strict=True)
    )
    outside = values.clone()
    outside[0, 0, far_rows] = outside[0, 0, :, far_columns] = 9
    torch.testing.assert_close(tiles.join(outside, RegionOfInterest(pixels)), joined)
    inside = values.clone()
    inside[0, 0, rows[:, None] & columns] = 9
    if (rows[:, None] & columns).any():
        assert tiles.join(inside, RegionOfInterest(pixels)).max() == pytest.approx(9, abs=1e-4)
    constant = values.clone()
    constant[0] = 9
    joined = tiles.join(constant, RegionOfInterest(pixels))
    torch.testing.assert_close(torch.where(joined > 8.9, 9, tiles.blend(values)), joined)
    everything = RegionOfInterest(torch.ones_like(pixels))
    torch.testing.assert_close(tiles.join(values, everything), tiles.join(values))


@property_test
@given(counts, sides)
def test_places_and_what_is_picked_belong_together(count: tuple[int, int], side: tuple[int, int]) -> None:
    tiles = make(count, side)
    places = tiles.places(side).unflatten(0, (tiles.view_count, *side))
    assert torch.equal(tiles.pick(places), torch.arange(tiles.grid[0] * tiles.grid[1]).view(tiles.grid))
    rows, columns = tiles.grid
    assert places[0].tolist() == [
        [row * rows // side[0] * columns + column * columns // side[1] for column in range(side[1])]
        for row in range(side[0])
    ]


def test_a_constant_texture_has_no_seam() -> None:
    """Tiles differ in level, by their surroundings: from one patch to the next, the joint map changes little."""
    tiles = make((3, 3), (16, 16))
    values = torch.zeros(tiles.view_count, 1, 16, 16)
    values[1:] = torch.tensor([0.0, 1, 0, 1, 0, 1, 0, 1, 0]).view(-1, 1, 1, 1)
    joined = tiles.join(values)[0, 0]
    assert joined.max() - joined.min() > 0.9
    assert max(joined.diff(dim=0).abs().max(), joined.diff(dim=1).abs().max()) < 1 / 4


def test_the_highest_of_each_image() -> None:
    assert make((1, 2), (4, 4)).highest(torch.tensor([1.0, 3, 2, 6, 5, 4])).tolist() == [3, 6]


@pytest.mark.parametrize("name", ["split", "blend", "join", "highest"])
def test_a_whole_image_stays_as_it_is(name: str) -> None:
    values = torch.rand(2, 1, 4, 4)
    assert getattr(WholeImage((8, 8)), name)(values) is values
