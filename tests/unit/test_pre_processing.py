# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

import pytest
import torch
from anomalib.pre_processing import PreProcessor
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate
from torchvision.transforms.v2 import CenterCrop, Compose, InterpolationMode, Normalize, Resize

from anomalib_fbclip.lightning.pre_processing import AntialiasedPreProcessor, get_antialiased_transform
from anomalib_fbclip.modeling.resize import (
    AntialiasedResize,
    create_exported_transform,
    create_transform,
    cubic,
    resize_matrix,
)

SIDES = st.integers(2, 300)  # torch itself gives wrong values for images that are one pixel wide
MODES = st.sampled_from([InterpolationMode.BILINEAR, InterpolationMode.BICUBIC])


@given(size=st.tuples(SIDES, SIDES), resized=st.tuples(SIDES, SIDES), mode=MODES, seed=st.integers(0, 9))
@settings(deadline=None, max_examples=60)
def test_resizes_as_torch_does(size: tuple[int, int], resized: tuple[int, int], mode: InterpolationMode, seed: int):
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(seed))
    expected = interpolate(images, resized, mode=mode.value, antialias=True)
    torch.testing.assert_close(AntialiasedResize(resized, mode)(images), expected, atol=5e-6, rtol=0)


@pytest.mark.parametrize("size", [(576, 768), (1260, 500), (90, 70), (3000, 4000)])
def test_resizes_photographs_as_the_transform_does(size: tuple[int, int]) -> None:
    images = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    pre_processor = AntialiasedPreProcessor(
        Compose([
            Resize((518, 518), interpolation=InterpolationMode.BICUBIC, antialias=True),
            Normalize(mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4]),
        ]),
    )
    torch.testing.assert_close(pre_processor(images), pre_processor.transform(images), atol=2e-5, rtol=0)


def test_an_exported_graph_has_the_transform_of_the_model() -> None:
    images = torch.rand(1, 3, 90, 120, generator=torch.Generator().manual_seed(0))
    expected = create_transform((28, 42))(images)
    torch.testing.assert_close(create_exported_transform((28, 42))(images), expected, atol=2e-5, rtol=0)


def test_resizes_an_image_without_a_batch() -> None:
    images = torch.rand(2, 3, 90, 120)
    resize = AntialiasedResize((28, 42), InterpolationMode.BICUBIC)
    torch.testing.assert_close(resize(images[1]), resize(images)[1])


@given(side=SIDES, resized=SIDES)
@settings(deadline=None, max_examples=60)
def test_rows_of_the_matrix_sum_to_one(side: int, resized: int) -> None:
    matrix = resize_matrix(side, resized, cubic)
    assert matrix.shape == (1, resized, side)
    torch.testing.assert_close(matrix.sum(dim=-1), torch.ones(1, resized))


def test_an_image_of_the_same_size_stays_as_it_is() -> None:
    torch.testing.assert_close(resize_matrix(128, 128, cubic)[0], torch.eye(128), atol=0, rtol=0)


def test_half_precision_keeps_its_type() -> None:
    resize = AntialiasedResize((56, 70), InterpolationMode.BICUBIC)
    assert resize(torch.rand(1, 3, 90, 70).half()).dtype == torch.half


@pytest.mark.parametrize(
    "transform",
    [
        Resize(56, antialias=True),
        Resize((56, 70), antialias=False),
        Resize((56, 70), interpolation=InterpolationMode.NEAREST),
        CenterCrop(32),
        None,
    ],
)
def test_what_needs_no_matrix_is_left_to_anomalib(transform) -> None:
    exportable = get_antialiased_transform(transform)
    images = torch.rand(1, 3, 64, 96)
    expected = PreProcessor(transform)(images)
    assert not isinstance(exportable, AntialiasedResize)
    assert torch.equal(exportable(images) if exportable else images, expected)


def test_the_transform_itself_is_not_changed() -> None:
    transform = Compose([Resize((56, 70), antialias=True)])
    AntialiasedPreProcessor(transform)
    assert isinstance(transform.transforms[0], Resize)
    assert transform.transforms[0].antialias


def test_a_checkpoint_brings_the_antialiasing_back() -> None:
    saved = AntialiasedPreProcessor(Resize((56, 70), interpolation=InterpolationMode.BICUBIC, antialias=True))
    restored = AntialiasedPreProcessor()
    restored.load_checkpoint_config(saved.checkpoint_config())
    images = torch.rand(1, 3, 90, 80)
    assert torch.equal(restored(images), saved(images))
    torch.testing.assert_close(restored(images), restored.transform(images), atol=5e-6, rtol=0)
