# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Scores, regularization, losses and anomaly maps against literal definitions and scipy."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from torch.nn import functional as F  # noqa: N812

from anomalib_fbclip.modeling.alignment import TextAlignment
from anomalib_fbclip.modeling.anomaly_map import AnomalyMapGenerator, highest_patch
from anomalib_fbclip.modeling.decision import IntermediateOutputs
from anomalib_fbclip.modeling.loss import FBClipLoss, dice_loss, focal_loss, semantic_consistency
from support import oracle

seeds = st.integers(0, 2**32 - 1)
properties = settings(deadline=None, max_examples=25)


def make_text(generator: torch.Generator) -> torch.Tensor:
    return F.normalize(torch.randn(2, 6, generator=generator, dtype=torch.float64), dim=-1)


@properties
@given(seeds, st.integers(1, 5))
def test_text_alignment(seed: int, layers: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    text = make_text(generator)
    maps = list(torch.randn(3 * layers, 2, 4, 6, generator=generator, dtype=torch.float64))
    alignment = TextAlignment(views_per_layer=3).double()
    alignment.scale_weights.data = torch.randn(6, generator=generator, dtype=torch.float64)
    actual = alignment(maps, text)
    for image in range(2):
        expected = oracle.abnormal_probability([tokens[image] for tokens in maps], text, alignment.scale_weights)
        torch.testing.assert_close(actual[image], expected)


def test_each_view_has_the_weight_of_its_layer() -> None:
    generator = torch.Generator().manual_seed(0)
    text, first, second = make_text(generator), *torch.randn(2, 2, 4, 6, generator=generator, dtype=torch.float64)
    alignment = TextAlignment(views_per_layer=1).double()
    alignment.scale_weights.data[1] = 100  # the second layer alone
    torch.testing.assert_close(alignment([first, second], text), alignment([second, second], text))


def test_at_first_all_layers_weigh_the_same() -> None:
    """They are six, as in the reference, whose checkpoints have them all."""
    assert TextAlignment(views_per_layer=3).scale_weights.tolist() == pytest.approx([1 / 6] * 6)


def test_a_token_without_a_direction_is_like_both_states() -> None:
    text = make_text(torch.Generator().manual_seed(0)).float()
    assert TextAlignment(views_per_layer=3)([torch.zeros(1, 2, 6)] * 3, text).tolist() == [[0.5, 0.5]]


@properties
@given(seeds)
def test_semantic_consistency(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    text = make_text(generator)
    embedding = torch.randn(3, 5, 6, generator=generator, dtype=torch.float64)
    actual = 0.15 * semantic_consistency(embedding, text)
    assert float(actual) == pytest.approx(oracle.consistency(embedding, text), rel=1e-9)


@properties
@given(st.lists(st.tuples(st.floats(1e-3, 1 - 1e-3), st.sampled_from([0.0, 1.0])), min_size=1, max_size=8))
def test_focal_loss(pairs: list[tuple[float, float]]) -> None:
    probability, target = (list(values) for values in zip(*pairs, strict=True))
    actual = focal_loss(torch.tensor(probability, dtype=torch.float64), torch.tensor(target, dtype=torch.float64))
    assert float(actual) == pytest.approx(oracle.focal_loss(probability, target), rel=1e-6)


@properties
@given(seeds)
def test_dice_loss(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    probability = torch.rand(3, 4, 5, generator=generator, dtype=torch.float64)
    target = (torch.rand(3, 4, 5, generator=generator) > 0.7).double()
    assert float(dice_loss(probability, target)) == pytest.approx(oracle.dice_loss(probability, target))


def test_loss_is_computed_in_full_precision_under_autocast() -> None:
    label, mask = torch.tensor([1, 0]), torch.zeros(2, 8, 8, dtype=torch.bool)
    mask[0, 2:5, 2:5] = True
    score, patch_map = torch.tensor([0.7, 0.2]), torch.rand(2, 1, 4, 4)
    outputs = IntermediateOutputs(score, patch_map, [torch.randn(2, 17, 6)], F.normalize(torch.randn(2, 6), dim=-1), [])
    expected = FBClipLoss()(outputs, label, mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = FBClipLoss()(outputs, label, mask)
    assert actual == expected
    assert actual.total == sum(expected)


@pytest.mark.parametrize("image_size", [(98, 98), (40, 70), (7, 5), (1, 1)])
def test_anomaly_map(image_size: tuple[int, int]) -> None:
    patch_map = torch.rand(2, 1, 3, 5)
    upsampled = F.interpolate(patch_map, size=image_size, mode="bilinear", align_corners=False)
    images = upsampled.squeeze(1).double().numpy()
    expected = [gaussian_filter(image, sigma=4, mode="reflect", truncate=4) for image in images]
    actual = AnomalyMapGenerator()(patch_map, image_size)
    assert actual.shape == (2, *image_size)
    for image, wanted in zip(actual, expected, strict=True):
        torch.testing.assert_close(image.double(), torch.from_numpy(wanted), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("pixel", "patch"), [((0, 0), (0, 0)), ((27, 14), (1, 1)), ((41, 69), (2, 4)), ((28, 55), (2, 3))]
)
def test_highest_patch(pixel: tuple[int, int], patch: tuple[int, int]) -> None:
    """Of 3 x 5 patches of 14 pixels."""
    anomaly_map = torch.zeros(42, 70)
    anomaly_map[pixel] = 1
    assert highest_patch(anomaly_map, (3, 5)) == patch
