# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Closed forms and fused operations against the literal definitions."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from anomalib_fbclip.modeling.mvfbe import (
    AttentionSize,
    BackgroundSuppression,
    ForegroundBackgroundAttention,
    IdentityView,
    SemanticView,
    SoftForegroundMask,
    SpatialView,
)
from support import oracle

grids = st.tuples(st.integers(1, 6), st.integers(1, 7)).filter(lambda grid: grid[0] * grid[1] >= 3)
magnitudes = st.floats(-3, 2.5).map(lambda exponent: 10**exponent)
seeds = st.integers(0, 2**32 - 1)
foreground_shares = st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0])
properties = settings(deadline=None, max_examples=40)


def make_tokens(seed: int, batch: int, patches: int, magnitude: float, offset: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(8, generator=generator, dtype=torch.float64)
    return magnitude * (torch.randn(batch, 1 + patches, 8, generator=generator, dtype=torch.float64) + offset * shared)


def make_mask(seed: int, batch: int, patches: int, share: float) -> torch.Tensor:
    uniform = torch.rand(batch, patches, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.where(uniform < share, 1.0, 0.5).double()


@properties
@given(grids, seeds, magnitudes, st.floats(0, 5), foreground_shares)
def test_semantic_view(grid: tuple[int, int], seed: int, magnitude: float, offset: float, share: float) -> None:
    tokens = make_tokens(seed, 2, grid[0] * grid[1], magnitude, offset)
    mask = make_mask(seed, 2, grid[0] * grid[1], share)
    expected = torch.stack(list(map(oracle.semantic_view, tokens, mask)))
    actual = SemanticView()(tokens, mask, grid)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9 * magnitude)
    in_single = SemanticView()(tokens.float(), mask.float(), grid).double()
    torch.testing.assert_close(in_single, expected, rtol=1e-4, atol=1e-4 * magnitude)


@properties
@given(grids, seeds, magnitudes, st.floats(0, 5), foreground_shares)
def test_spatial_view(grid: tuple[int, int], seed: int, magnitude: float, offset: float, share: float) -> None:
    tokens = make_tokens(seed, 2, grid[0] * grid[1], magnitude, offset)
    mask = make_mask(seed, 2, grid[0] * grid[1], share)
    images = zip(tokens, mask, strict=True)
    expected = torch.stack([oracle.spatial_view(*image, grid) for image in images])
    actual = SpatialView()(tokens, mask, grid)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6 * magnitude)


@properties
@given(grids, seeds, foreground_shares)
def test_spatial_view_in_single_precision(grid: tuple[int, int], seed: int, share: float) -> None:
    """At the magnitudes of CLIP's tokens: the logits grow with the magnitude, and with them every rounding error."""
    tokens = make_tokens(seed, 1, grid[0] * grid[1], magnitude=1.0, offset=3.0)
    mask = make_mask(seed, 1, grid[0] * grid[1], share)
    expected = SpatialView()(tokens, mask, grid)
    actual = SpatialView()(tokens.float(), mask.float(), grid).double()
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-4)


def test_spatial_view_with_logits_beyond_the_range_of_exp() -> None:
    """Neighbourhoods whose logits lie far apart keep finite, normalised weights in single precision."""
    tokens = torch.ones(1, 1 + 49, 8)
    tokens[:, 1:25] *= 1e4
    view = SpatialView()(tokens, torch.full((1, 49), 0.5), (7, 7))
    assert view.isfinite().all()
    expected = oracle.spatial_view(tokens[0].double(), torch.full((49,), 0.5).double(), (7, 7))
    torch.testing.assert_close(view[0].double(), expected, rtol=1e-3, atol=1e-3)


@properties
@given(grids, seeds, magnitudes, st.booleans())
def test_foreground_mask(grid: tuple[int, int], seed: int, magnitude: float, is_first: bool) -> None:
    tokens = make_tokens(seed, 2, grid[0] * grid[1], magnitude, offset=1.0)
    previous = None if is_first else make_tokens(seed + 1, 2, grid[0] * grid[1], magnitude, offset=1.0)
    module = SoftForegroundMask()
    earlier = [None, None] if previous is None else list(previous)
    expected = torch.stack(list(map(oracle.foreground_score, tokens, earlier)))
    torch.testing.assert_close(module.smooth(module.score(tokens, previous)), expected, rtol=1e-9, atol=1e-9)
    assume(((expected - module.threshold).abs() > 1e-9).all())
    assert torch.equal(module(tokens, previous), torch.where(expected > 0.5, 1.0, 0.5).double())


def test_foreground_mask_of_a_constant_image() -> None:
    tokens = torch.ones(1, 1 + 9, 4)
    assert module_values(SoftForegroundMask()(tokens, tokens)) <= {0.5, 1.0}


def module_values(mask: torch.Tensor) -> set[float]:
    return set(mask.flatten().tolist())


@pytest.mark.parametrize("view", [IdentityView(), SemanticView(), SpatialView()])
def test_views_keep_the_class_token(view: torch.nn.Module) -> None:
    tokens = torch.randn(2, 1 + 12, 6)
    assert torch.equal(view(tokens, torch.full((2, 12), 0.5), (3, 4))[:, 0], tokens[:, 0])


@properties
@given(seeds, st.integers(2, 9))
def test_attention(seed: int, tokens_count: int) -> None:
    torch.manual_seed(seed)
    attention = ForegroundBackgroundAttention(16, AttentionSize(num_heads=2, head_dim=4)).double()
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, 0.5, 0.3)
    tokens = torch.randn(2, tokens_count, 16, dtype=torch.float64)
    expected = torch.stack([oracle.attention(image, attention.state_dict(), num_heads=2) for image in tokens])
    torch.testing.assert_close(attention(tokens), expected)


@properties
@given(seeds, st.integers(2, 8), st.integers(1, 4))
def test_background_suppression(seed: int, tokens_count: int, map_count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (map_count, 2, tokens_count, 5)
    maps = list(torch.randn(shape, generator=generator, dtype=torch.float64))
    actual = BackgroundSuppression()(maps)
    for image in range(2):
        expected = oracle.suppress([tokens[image] for tokens in maps])
        for tokens, wanted in zip(actual, expected, strict=True):
            torch.testing.assert_close(tokens[image], wanted)
