# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Turned copies of photographs."""

from pathlib import Path

import pytest
import torch

from anomalib_fbclip import FBClip
from anomalib_fbclip.data import reference_set
from anomalib_fbclip.data.reference_set import turned_copies
from tools.bundled_model.procedural import Product, draw_sample


def test_quarter_turns_of_a_square() -> None:
    image = torch.rand(3, 20, 20, generator=torch.manual_seed(0))
    for index, copy in enumerate(turned_copies(image, 4)):
        assert torch.allclose(copy, image.rot90(index, (1, 2)), atol=1e-5)


def test_one_is_the_photograph_itself() -> None:
    image = torch.rand(3, 20, 30)
    (copy,) = turned_copies(image, 1)
    assert copy is image


def test_corners_have_the_median_color() -> None:
    image = torch.full((3, 20, 30), 0.25)
    image[0] = 0.5
    image[:, 8:12, 13:17] = 1
    for copy in list(turned_copies(image, 8))[1:]:
        assert torch.allclose(copy[:, 0, 0], torch.tensor([0.5, 0.25, 0.25]))


def test_a_large_photograph_is_shrunk_before_it_is_turned(monkeypatch) -> None:
    """Of 12000 x 9000 pixels, each turn would take gigabytes."""
    monkeypatch.setattr(reference_set, "LARGEST_TURNED", 45)
    image = torch.rand(3, 90, 120, generator=torch.manual_seed(0))
    first, *others = turned_copies(image, 4)
    assert first is image
    assert [copy.shape for copy in others] == [(3, 45, 60)] * 3
    small = torch.nn.functional.interpolate(image[None], (45, 60), mode="bilinear", antialias=True)[0]
    assert torch.allclose(others[1], small.flip(1, 2), atol=1e-4)


def test_a_white_place_of_a_shrunk_copy_is_shown(monkeypatch) -> None:
    """What resizes it adds rounding to 1."""
    monkeypatch.setattr(reference_set, "LARGEST_TURNED", 64)
    white = torch.ones(3, 74, 74)
    references = reference_set.ReferenceSet([white])
    for turn in range(4):
        place = references.crop(reference_set.ReferencePatch(0, "white", turn, (1, 1), (4, 4)), white)
        assert all(low >= 254 for low, _ in place.getextrema())


def test_a_copy_that_is_not_there() -> None:
    """It must not end an iteration, as a bare ``next`` does."""
    references = reference_set.ReferenceSet([torch.ones(3, 20, 20)], rotations=1)
    with pytest.raises(ValueError, match="number 2"):
        references.crop(reference_set.ReferencePatch(0, "a.png", 1, (0, 0), (2, 2)), torch.ones(3, 20, 20))


def test_filled_corners_are_not_remembered(arguments: dict, good: Path) -> None:
    """The rows of a copy that is turned by 45 degrees come from the middle alone: a corner is no part of anything."""
    model = FBClip(**arguments | {"reference_rotations": 8}, image_size=112)
    model.use_references(sorted(good.iterdir()))
    origins = model.reference_set.fit.origins.tolist()
    askew = [divmod(patch, 8) for _, turn, patch in origins if turn % 2]
    assert askew
    # In patches from the middle, the photograph ends where |x| + |y| is half its diagonal.
    farthest = [sum(max(abs(place - 4), abs(place + 1 - 4)) for place in patch) for patch in askew]
    assert max(farthest) < 4 * 2**0.5 + 0.2
    straight = {patch for _, turn, patch in origins if turn and not turn % 2}
    assert straight & {0, 7, 56, 63}  # corners of others are the photograph's


@pytest.mark.parametrize(("product", "is_said"), [(Product("painted metal", "wrench"), True), (Product("wood"), False)])
def test_parts_at_many_angles_are_told(product: Product, is_said: bool) -> None:
    model = FBClip("fbclip-small")
    model.use_references([draw_sample(product, seed, size=224).image for seed in range(2)])
    assert any("angles" in line for line in model.reference_set.warnings()) == is_said
