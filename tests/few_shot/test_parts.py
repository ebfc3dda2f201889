# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Memory, merge and calibration do what is written down."""

import runpy
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from anomalib_fbclip.modeling.anomaly_map import LOWEST, AnomalyMapGenerator, MapValues
from anomalib_fbclip.modeling.decision import top_mean, top_patches
from anomalib_fbclip.modeling.few_shot import FewShot, ReferenceImage, fit, unlikeness
from anomalib_fbclip.modeling.few_shot.calibration import (
    Calibration,
    Spread,
    find_outliers,
    prediction_limit,
)
from anomalib_fbclip.modeling.few_shot.few_shot import Merge, score
from anomalib_fbclip.modeling.few_shot.memory_bank import MemoryBank, join_layers, select_coreset
from anomalib_fbclip.modeling.region import RegionOfInterest
from anomalib_fbclip.modeling.tiling import WholeImage

oracle = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("oracle.py"))))

fit_module = import_module("anomalib_fbclip.modeling.few_shot.fit")  # of which the package has the function

PATCH, SIDE = 4, 3
"""Pixels of the side of a patch, and patches of the side of an image."""

property_test = settings(deadline=None, max_examples=25)

seeds = st.integers(0, 2**32 - 1)
scores = st.lists(st.floats(0.1, 50), min_size=1, max_size=12)


def random_layers(seed: int, images: int, patches: int, layers: int) -> list[torch.Tensor]:
    """Tokens of layers, of lengths that differ much."""
    stream = np.random.default_rng(seed)
    return [
        torch.from_numpy(stream.normal(size=(images, 1 + patches, 5)) * 10 ** stream.uniform(-2, 2)).float()
        for _ in range(layers)
    ]


def patches_of(layer_tokens: list[torch.Tensor], image: int) -> list[list[np.ndarray]]:
    """The tokens of an image's patches, of each patch those of all layers."""
    layers = [tokens[image, 1:].double().numpy() for tokens in layer_tokens]
    return [list(tokens) for tokens in zip(*layers, strict=True)]


@property_test
@given(seeds, st.integers(1, 3), st.integers(1, 4))
def test_the_memory_gives_the_nearest_patch_by_the_mean_of_the_layers_cosines(seed, layers, photographs) -> None:
    references = random_layers(seed, photographs, patches=4, layers=layers)
    images = random_layers(seed + 1, 2, patches=6, layers=layers)
    match = MemoryBank(join_layers(references))(join_layers(images))
    rows = [patch for index in range(photographs) for patch in patches_of(references, index)]
    for image in range(2):
        for patch, tokens in enumerate(patches_of(images, image)):
            distance, row = oracle.distance(tokens, rows)
            assert match.distance[image, patch].item() == pytest.approx(distance, abs=1e-5)
            assert match.row[image, patch].item() == row


def test_tokens_without_a_direction_are_equally_far_from_all() -> None:
    tokens = torch.zeros(1, 1 + 2, 4)
    assert MemoryBank(join_layers([torch.randn(1, 1 + 3, 4)]))(join_layers([tokens])).distance.tolist() == [[1, 1]]


@property_test
@given(seeds, st.integers(1, 25))
def test_coreset(seed: int, count: int) -> None:
    rows = nn.functional.normalize(torch.from_numpy(np.random.default_rng(seed).normal(size=(20, 4))), dim=1)
    assert select_coreset(rows, count).tolist() == (
        oracle.k_center_greedy(rows.numpy(), count) if count < 20 else list(range(20))
    )


def test_a_coreset_is_chosen_in_full_precision() -> None:
    rows = nn.functional.normalize(1 + 0.01 * torch.randn(200, 64, generator=torch.manual_seed(0)), dim=1)
    chosen = select_coreset(rows, 20)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(select_coreset(rows, 20), chosen)


@property_test
@given(scores)
def test_prediction_limit(values: list[float]) -> None:
    assert prediction_limit(torch.tensor(values)).item() == pytest.approx(oracle.prediction_limit(values), rel=1e-5)


@pytest.mark.parametrize("values", [[0.0, 0.0], [-2.0, -2.0, -2.0]])
def test_the_limit_is_positive_whatever_the_scores(values: list[float]) -> None:
    """Values are divided by it."""
    assert prediction_limit(torch.tensor(values)) >= 1e-3


def test_values_that_do_not_differ_do_not_deviate() -> None:
    values = torch.full((3,), 0.25)
    assert Spread.of(values)(values).tolist() == [0, 0, 0]


@property_test
@given(st.floats(0.1, 20), st.lists(st.floats(-30, 60), min_size=2, max_size=20))
def test_calibration(limit: float, values: list[float]) -> None:
    calibration = Calibration(torch.tensor(limit, dtype=torch.float64))
    ordered = torch.tensor(sorted(values), dtype=torch.float64)
    found = calibration(ordered)
    assert found.tolist() == pytest.approx([oracle.probability(value, limit) for value in ordered.tolist()])
    assert (found.diff() >= 0).all()
    assert calibration(torch.tensor(limit, dtype=torch.float64)).item() == pytest.approx(0.5)


@property_test
@given(seeds)
def test_merge(seed: int) -> None:
    distances, logits = torch.randn(2, 3, 1, 4, 5, generator=torch.Generator().manual_seed(seed))
    spreads = {"references": Spread(torch.tensor(0.2), torch.tensor(0.1)), "text": Spread.of(logits)}
    both, references, text = (
        Merge({name: spreads[name] for name in names})(distances, logits)
        for names in (("references", "text"), ("references",), ("text",))
    )
    assert torch.allclose(references, ((distances - 0.2) / 0.1).clamp(min=-3))
    expected = [max(deviation, -3.0) for deviation in oracle.standardized(logits.flatten().tolist())]
    assert text.flatten().tolist() == pytest.approx(expected, abs=1e-4)
    assert torch.allclose(both, references + text)


def test_a_clear_defect_is_not_hidden_by_how_normal_the_rest_is() -> None:
    """The text of an image with a clear defect may find the rest of it much more normal than any good part."""
    merge = Merge({"references": Spread(torch.tensor(0.0), torch.tensor(1.0)), "text": Spread.of(torch.randn(100))})
    distances = torch.zeros(1, 1, 16, 16)
    distances[..., 8, 8] = 25
    deviation_map = AnomalyMapGenerator()(merge(distances, torch.full_like(distances, -50)), (128, 128))
    assert deviation_map.amax() > 5


def test_the_score_is_the_mean_of_the_highest_hundredth() -> None:
    maps = torch.randn(2, 30, 20, generator=torch.manual_seed(0))
    expected = [sum(sorted(anomaly_map.flatten().tolist())[-6:]) / 6 for anomaly_map in maps]
    assert top_mean(maps, area=600).tolist() == pytest.approx(expected)
    assert top_mean(maps, area=4).tolist() == maps.flatten(1).amax(dim=1).tolist()


@property_test
@given(seeds, st.integers(1, 20))
def test_with_tiles_the_score_is_the_mean_of_the_two_highest_patches_inside(seed: int, count: int) -> None:
    """Or the only one, if the region has no more."""
    generator = torch.manual_seed(seed)
    maps = torch.randn(2, 1, 4, 5, generator=generator)
    inside = (torch.randperm(20, generator=generator) < count).view(1, 1, 4, 5)
    expected = []
    for patch_map in maps:
        highest = sorted(patch_map[inside[0]].tolist())[-2:]
        expected.append(sum(highest) / len(highest))
    assert top_patches(maps, inside).tolist() == pytest.approx(expected)
    if count == inside.numel():
        assert torch.equal(top_patches(maps), top_patches(maps, inside))
    values = MapValues(maps, torch.rand(2, 40, 50, generator=generator), inside, area=2000)
    assert torch.equal(score(values, views=5), top_patches(maps, inside))
    assert torch.equal(score(values, views=1), top_mean(values.pixels, 2000))


class TestOutliers:
    def test_one_that_is_unlike_the_others(self) -> None:
        assert find_outliers(torch.tensor([1.0, 1.1, 3.0, 0.9, 1.05])) == [2]

    def test_ten_standard_deviations(self) -> None:
        """Of the others, whose mean is 1, and whose deviation is the root of (0.02 + 2 * 0.1**2) / (5 - 2)."""
        others = [1.0, 1.1, 0.9, 1.0]
        limit = 1 + 10 * (0.04 / 3) ** 0.5
        assert find_outliers(torch.tensor([*others, limit - 0.01])) == []
        assert find_outliers(torch.tensor([*others, limit + 0.01])) == [4]

    def test_scores_that_lie_close_together(self) -> None:
        """One may be many deviations from others that hardly differ, and still be like them."""
        assert find_outliers(torch.tensor([1.0, 1.001, 1.2, 0.999, 1.002])) == []

    def test_scores_that_differ_much(self) -> None:
        assert find_outliers(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])) == []

    def test_too_few_to_tell(self) -> None:
        assert find_outliers(torch.tensor([1.0, 1.0, 9.0])) == []
        assert find_outliers(torch.tensor([1.0, 1.0, 1.0, 9.0])) == [3]


class Interpolation(AnomalyMapGenerator):
    """Upsamples a map, and does not smooth it."""

    def values(self, patch_map: torch.Tensor, image_size: list[int], region: RegionOfInterest | None) -> MapValues:
        pixels = nn.functional.interpolate(patch_map, image_size, mode="bilinear").squeeze(1)
        if region is None:
            return MapValues(patch_map, pixels, None, pixels[0].numel())
        return MapValues(patch_map, torch.where(region.pixels, pixels, LOWEST), None, region.area)


class PatchMeans:
    """A model in which the tokens of a patch are made of its own pixels."""

    patch_size = (PATCH, PATCH)
    tiling = WholeImage((PATCH * SIDE, PATCH * SIDE))

    def __init__(self) -> None:
        self.backbone = self
        self.anomaly_map_generator = Interpolation()
        generator = torch.Generator().manual_seed(0)
        self.projections = torch.randn(2, 3 * PATCH**2, 6, generator=generator)

    def encode_image(self, images: torch.Tensor) -> tuple[list[torch.Tensor], tuple[int, int]]:
        patches = nn.functional.unfold(images, PATCH, stride=PATCH).mT
        tokens = [patches @ projection for projection in self.projections]
        return [nn.functional.pad(values, (0, 0, 1, 0)) for values in tokens], (SIDE, SIDE)

    @staticmethod
    def text_features() -> torch.Tensor:
        return torch.zeros(2, 1)

    def intermediate_outputs(self, images: torch.Tensor, text_features: torch.Tensor) -> SimpleNamespace:
        del text_features
        layer_tokens, grid = self.encode_image(images)
        patch_map = layer_tokens[0][:, 1:, 0].sigmoid().unflatten(1, (1, *grid))
        return SimpleNamespace(layer_tokens=layer_tokens, patch_map=patch_map)

    @staticmethod
    def region_of(pixels: torch.Tensor) -> RegionOfInterest:
        return RegionOfInterest(pixels)


def random_images(seed: int, photographs: int, copies: int = 2) -> list[list[torch.Tensor]]:
    side = PATCH * SIDE
    generator = torch.Generator().manual_seed(seed)
    return [list(torch.randn(copies, 1, 3, side, side, generator=generator)) for _ in range(photographs)]


def photographs_of(images: list[list[torch.Tensor]]) -> list:
    return [lambda copies=copies: map(ReferenceImage, copies) for copies in images]


@property_test
@given(seeds, st.integers(2, 4))
def test_leaving_one_out_is_fitting_the_others(seed: int, photographs: int) -> None:
    model, images = PatchMeans(), random_images(seed, photographs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_module, "MEMORY_VALUES", 5 * 6 * photographs)
        whole = fit(model, photographs_of(images), ["references"])
        assert whole.decision.memory.patches.shape == (photographs, 5, 6)
        distances = []
        for index in range(photographs):
            others = images[:index] + images[index + 1 :]
            patch.setattr(fit_module, "MEMORY_VALUES", 5 * 6 * len(others))
            memory = fit(model, photographs_of(others), ["references"]).decision.memory
            distances.append(memory(join_layers(model.encode_image(images[index][0])[0][1:])).distance)
    spread = whole.decision.merge.spreads["references"]
    expected = torch.stack(distances)
    assert spread.mean.item() == pytest.approx(expected.mean().item(), abs=1e-5)
    assert spread.std.item() == pytest.approx(expected.std().item(), abs=1e-5)
    merged = spread(expected).unflatten(-1, (SIDE, SIDE))
    limits = top_mean(model.anomaly_map_generator(merged, [PATCH * SIDE] * 2), (PATCH * SIDE) ** 2)
    limit = oracle.prediction_limit(limits.tolist())
    assert whole.decision.calibration.threshold.item() == pytest.approx(limit, rel=1e-3)
    assert whole.scores.tolist() == pytest.approx(
        [oracle.probability(score, limit) for score in limits.tolist()], abs=1e-3
    )


@property_test
@given(seeds)
def test_one_photograph_is_compared_with_its_mirror_image(seed: int) -> None:
    model, images = PatchMeans(), random_images(seed, 1)
    result = fit(model, photographs_of(images), ["references", "text"])
    upright, mirrored = (
        patches_of(model.encode_image(image)[0][1:], 0) for image in (images[0][0], images[0][0].flip(-1))
    )
    distances = [oracle.distance(patch, upright)[0] for patch in mirrored]
    spread = result.decision.merge.spreads["references"]
    assert spread.mean.item() == pytest.approx(sum(distances) / len(distances), abs=1e-5)
    assert result.decision.k_shot == 1
    assert result.outliers == []
    assert result.false_alarms == 1
    assert result.scores.item() < 0.5


def test_a_row_of_the_memory_tells_where_it_comes_from() -> None:
    model, images = PatchMeans(), random_images(0, 3, copies=4)
    result = fit(model, photographs_of(images))
    for row, (photograph, copy, patch) in zip(
        result.decision.memory.patches.flatten(0, 1), result.origins, strict=True
    ):
        tokens = join_layers(model.encode_image(images[photograph][copy])[0][1:])
        assert torch.allclose(row, tokens[0, patch], atol=1e-6)


@property_test
@given(seeds)
def test_how_unlike_an_image_is(seed: int) -> None:
    rng = np.random.default_rng(seed)
    memory, tokens = (
        nn.functional.normalize(torch.from_numpy(rng.normal(size=size)), dim=-1) for size in ((3, 5, 4), (6, 4))
    )
    inside = torch.from_numpy(rng.random(6) < 0.5)
    counted = [token for token, counts in zip(tokens, inside, strict=True) if counts] or [*tokens]
    to_parts = [min(1 - float(token @ row) for row in memory.flatten(0, 1)) for token in counted]
    to_image = [
        sum(min(1 - float(token @ row) for token in counted) for row in photograph) / 5 for photograph in memory
    ]
    expected = sum(to_parts) / len(to_parts), min(to_image)
    assert unlikeness(MemoryBank(memory), tokens, inside).tolist() == pytest.approx(expected)


def test_of_one_photograph_what_lies_in_its_region_is_compared() -> None:
    model, ((image,),) = PatchMeans(), random_images(0, 1, copies=1)
    pixels = torch.zeros(SIDE * PATCH, SIDE * PATCH, dtype=torch.bool)
    pixels[:PATCH, : 2 * PATCH] = True
    found = fit(model, [lambda: [ReferenceImage(image, RegionOfInterest(pixels))]])
    upright, mirrored = (join_layers(model.encode_image(one)[0][1:]) for one in (image, image.flip(-1)))
    inside = torch.tensor([[False, True, True], [False] * 3, [False] * 3])
    torch.testing.assert_close(found.unlikeness[0], unlikeness(MemoryBank(upright), mirrored[0], inside))


@property_test
@given(seeds)
def test_values_of_an_earlier_fit_change_nothing(seed: int) -> None:
    model, images = PatchMeans(), random_images(seed, 3)
    expected = fit(model, photographs_of(images))
    blocks = {index: expected.block(index, None) for index in (0, 2)}
    for known in blocks, {0: blocks[0].shorten(1)}:
        found = fit(model, photographs_of(images), known=known)
        torch.testing.assert_close(found.decision.memory.patches, expected.decision.memory.patches)
        torch.testing.assert_close(found.scores, expected.scores)


def draw_region(seed: int) -> tuple[torch.Tensor, set[int]]:
    """Pixels to look at, and the patches of which half or more lies there, which are some."""
    stream = np.random.default_rng(seed)
    shares = stream.permutation([0, 3, 7, 8, 12, 16, *stream.integers(0, 17, 3)])
    patches = torch.stack([torch.arange(PATCH**2) < share for share in shares])
    pixels = nn.functional.fold(patches.float().mT[None], PATCH * SIDE, PATCH, stride=PATCH)[0, 0] > 0
    return pixels, {patch for patch, share in enumerate(shares) if share >= 8}


@property_test
@given(seeds, st.integers(2, 3))
def test_patches_outside_a_region_are_not_remembered(seed: int, photographs: int) -> None:
    """Nor do they count in what good parts have: those of the photographs may show anything there."""
    model, images = PatchMeans(), random_images(seed, photographs, copies=1)
    pixels, inside = draw_region(seed)
    outside = sorted({*range(SIDE**2)} - inside)
    region = RegionOfInterest(pixels)
    result, other = (
        fit(model, [lambda one=image: [ReferenceImage(one, region)] for (image,) in shown])
        for shown in (images, [[_change(image, outside)] for (image,) in images])
    )
    assert {patch for *_, patch in result.origins.tolist()} == inside
    rows = {tuple(row) for row in result.decision.memory.patches.flatten(0, 1).tolist()}
    expected = torch.cat([join_layers(model.encode_image(image)[0][1:])[0, sorted(inside)] for (image,) in images])
    assert rows == {tuple(row) for row in expected.tolist()}
    for name, spread in result.decision.merge.spreads.items():
        assert spread.mean.item() == pytest.approx(other.decision.merge.spreads[name].mean.item(), abs=1e-5)
        assert spread.std.item() == pytest.approx(other.decision.merge.spreads[name].std.item(), abs=1e-5)


def _change(image: torch.Tensor, patches: list[int]) -> torch.Tensor:
    """Show something else in some patches of an image."""
    columns = nn.functional.unfold(image, PATCH, stride=PATCH)
    columns[..., patches] = 5 * columns[..., patches].flip(1) + 3
    return nn.functional.fold(columns, PATCH * SIDE, PATCH, stride=PATCH)


def test_of_turned_copies_only_patches_that_are_wholly_inside_are_remembered() -> None:
    model, images = PatchMeans(), random_images(0, 2)
    pixels = torch.ones(PATCH * SIDE, PATCH * SIDE, dtype=torch.bool)
    pixels[0, 0] = False  # of the first patch
    pixels[-PATCH:, -PATCH:] = False
    result = fit(
        model,
        [
            lambda copies=copies: [ReferenceImage(copies[0]), ReferenceImage(copies[1], RegionOfInterest(pixels))]
            for copies in images
        ],
    )
    of_copies = {patch for _, copy, patch in result.origins.tolist() if copy == 1}
    assert of_copies
    assert not of_copies & {0, SIDE**2 - 1}


def test_one_photograph_at_a_time_is_in_memory() -> None:
    """Each is asked for twice; turned copies only once, for the memory."""
    images = random_images(0, 3, copies=4)
    alive, largest, asked = 0, 0, []

    def photograph(index: int) -> object:
        nonlocal alive, largest
        alive += 1
        largest = max(largest, alive)
        try:
            for turn, image in enumerate(images[index]):
                asked.append((index, turn))
                yield ReferenceImage(image)
        finally:
            alive -= 1

    fit(PatchMeans(), [lambda index=index: photograph(index) for index in range(3)])
    assert largest == 1
    assert sorted(asked) == sorted([(i, turn) for i in range(3) for turn in range(4)] + [(i, 0) for i in range(3)])


@pytest.mark.parametrize("photographs", [1, 2, 8, 100])
def test_a_file_grows_by_40_megabytes_at_most(photographs: int) -> None:
    """By the count for ViT-L at 518 pixels: 37 x 37 patches, and three layers of 1024 channels."""
    patches, width = 37**2, 3 * 1024
    rows = min(patches, fit_module.MEMORY_VALUES // (photographs * width))
    assert rows >= 1
    assert 4 * photographs * rows * width <= 40e6
    assert rows == patches or 4 * photographs * (rows + 1) * width > 33e6  # no less is remembered than was measured


@pytest.mark.parametrize("values", [60, 10**9, 1])
def test_the_memory_holds_no_more_than_it_may(values: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_module, "MEMORY_VALUES", values)
    patches = fit(PatchMeans(), photographs_of(random_images(0, 2, copies=4))).decision.memory.patches
    assert patches.shape == (2, max(min(values // (2 * 6), SIDE**2), 1), 6)


def test_what_was_fitted_in_inference_can_be_used_outside_of_it() -> None:
    with torch.inference_mode():
        few_shot = fit(PatchMeans(), photographs_of(random_images(0, 2))).decision
    assert not any(tensor.is_inference() for tensor in few_shot.tensors().values())


@pytest.mark.parametrize("maps", [["references"], ["text"], ["references", "text"]])
def test_from_tensors(maps: list[str]) -> None:
    model = PatchMeans()
    few_shot = fit(model, photographs_of(random_images(0, 2)), maps).decision
    again = FewShot.from_tensors(few_shot.tensors())
    outputs = model.intermediate_outputs(random_images(1, 1)[0][0], model.text_features())
    assert torch.equal(again(outputs), few_shot(outputs))
    values = MapValues(torch.randn(2, 1, 4, 4), 10 * torch.randn(2, 8, 8), None, 64)
    predictions = (decision.predict(None, values) for decision in (again, few_shot))
    for found, expected in zip(*predictions, strict=True):
        assert torch.equal(found, expected)
    assert list(again.merge.spreads) == maps
    assert not few_shot.state_dict()


def test_the_number_of_good_parts_above_the_threshold() -> None:
    result = fit(PatchMeans(), photographs_of(random_images(0, 3)))
    above = result._replace(scores=torch.tensor([0.6, 0.2, 0.51, 0.5]))
    assert above.false_alarms == 3
    assert result._replace(scores=torch.tensor([0.1] * 8)).false_alarms == 1
