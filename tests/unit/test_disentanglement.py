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
    FusedAttention,
    IdentityView,
    MultiViewDisentanglement,
    SemanticView,
    SoftForegroundMask,
    SpatialView,
    create_views,
    fused,
)
from anomalib_fbclip.modeling.mvfbe import mvfbe as mvfbe_module
from anomalib_fbclip.modeling.mvfbe.linear_maps import LayerViews, LinearMap, identity
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
    actual = SemanticView()(tokens, mask, grid)(tokens)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9 * magnitude)
    in_single = SemanticView()(tokens.float(), mask.float(), grid)(tokens.float()).double()
    torch.testing.assert_close(in_single, expected, rtol=1e-4, atol=1e-4 * magnitude)


@properties
@given(grids, seeds, magnitudes, st.floats(0, 5), foreground_shares)
def test_spatial_view(grid: tuple[int, int], seed: int, magnitude: float, offset: float, share: float) -> None:
    tokens = make_tokens(seed, 2, grid[0] * grid[1], magnitude, offset)
    mask = make_mask(seed, 2, grid[0] * grid[1], share)
    images = zip(tokens, mask, strict=True)
    expected = torch.stack([oracle.spatial_view(*image, grid) for image in images])
    actual = SpatialView()(tokens, mask, grid)(tokens)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6 * magnitude)


@properties
@given(grids, seeds, foreground_shares)
def test_spatial_view_in_single_precision(grid: tuple[int, int], seed: int, share: float) -> None:
    """At the magnitudes of CLIP's tokens: the logits grow with the magnitude, and with them every rounding error."""
    tokens = make_tokens(seed, 1, grid[0] * grid[1], magnitude=1.0, offset=3.0)
    mask = make_mask(seed, 1, grid[0] * grid[1], share)
    expected = SpatialView()(tokens, mask, grid)(tokens)
    actual = SpatialView()(tokens.float(), mask.float(), grid)(tokens.float()).double()
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-4)


def test_spatial_view_with_logits_beyond_the_range_of_exp() -> None:
    """Neighborhoods whose logits lie far apart keep finite, normalized weights in single precision."""
    tokens = torch.ones(1, 1 + 49, 8)
    tokens[:, 1:25] *= 1e4
    view = SpatialView()(tokens, torch.full((1, 49), 0.5), (7, 7))(tokens)
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
    assume(((expected - 0.5).abs() > 1e-9).all())
    assert torch.equal(module(tokens, previous), torch.where(expected > 0.5, 1.0, 0.5).double())


def test_foreground_mask_of_a_constant_image() -> None:
    """No cue tells patches apart, but that those at the ends have nothing beside them: all are background."""
    tokens = torch.ones(1, 1 + 9, 4)
    module = SoftForegroundMask()
    torch.testing.assert_close(module.score(tokens, tokens), torch.tensor([[0.3, 0, 0, 0, 0, 0, 0, 0, 0.3]]))
    assert module(tokens, tokens).tolist() == [[0.5] * 9]


@pytest.mark.parametrize("view", [IdentityView(), SemanticView(), SpatialView()])
def test_views_keep_the_class_token(view: torch.nn.Module) -> None:
    tokens = torch.randn(2, 1 + 12, 6)
    assert torch.equal(view(tokens, torch.full((2, 12), 0.5), (3, 4))(tokens)[:, 0], tokens[:, 0])


@properties
@given(seeds, st.integers(2, 9))
def test_attention(seed: int, tokens_count: int) -> None:
    torch.manual_seed(seed)
    attention = ForegroundBackgroundAttention(16, AttentionSize(num_heads=2, head_dim=4)).double()
    assert attention.foreground.scale.item() == attention.background.scale.item() == pytest.approx(0.5)  # of 4 channels
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, 0.5, 0.3)
    tokens = torch.randn(2, tokens_count, 16, dtype=torch.float64)
    expected = torch.stack([oracle.attention(image, attention.state_dict(), num_heads=2) for image in tokens])
    torch.testing.assert_close(attention.attend(tokens), expected)


class OutsideView(torch.nn.Module):
    """A view from outside: patches by their difference from the mean patch."""

    @staticmethod
    def forward(tokens: torch.Tensor, foreground_mask: torch.Tensor, grid: tuple[int, int]) -> LinearMap:
        del tokens, foreground_mask, grid
        return lambda values: torch.cat([values[:, :1], values[:, 1:] - values[:, 1:].mean(dim=1, keepdim=True)], dim=1)


@pytest.fixture
def mvfbe() -> MultiViewDisentanglement:
    """With all views, and parameters that are far from where they start."""
    torch.manual_seed(0)
    views = create_views(["identity", "semantic", "spatial"]) | {"outside": OutsideView()}
    attention = ForegroundBackgroundAttention(16, AttentionSize(num_heads=2, head_dim=4))
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, 0.2, 0.3)
    return MultiViewDisentanglement(SoftForegroundMask(), views, attention, BackgroundSuppression())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("maps_at_once", [1, 5])
def test_the_fused_attention_is_the_textbook_one(
    mvfbe: MultiViewDisentanglement,
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    tolerance: float,
    maps_at_once: int,
) -> None:
    """Values, and gradients of all parameters, with one map at once and with chunks of which the last is short."""
    monkeypatch.setattr(fused, "_maps_at_once", lambda _: maps_at_once)
    mvfbe.suppression = torch.nn.Identity()
    mvfbe.to(dtype)
    layer_tokens = [3 * torch.randn(2, 1 + 12, 16, dtype=dtype) for _ in range(3)]
    factors = torch.randn(12, 2, 1 + 12, 16, dtype=dtype)

    def run() -> list[torch.Tensor]:
        maps = torch.stack(mvfbe(layer_tokens, (3, 4)))
        return [maps.detach(), *torch.autograd.grad((factors * maps).sum(), list(mvfbe.attention.parameters()))]

    found = run()
    calls = []
    mvfbe.attention.register_forward_hook(lambda *call: calls.append(call))
    monkeypatch.setattr(mvfbe_module, "FusedAttention", lambda attention: attention)
    textbook = run()
    assert len(calls) == 1
    for actual, expected in zip(found, textbook, strict=True):
        largest = float(expected.abs().max())
        assert largest > 0.01
        torch.testing.assert_close(actual, expected, atol=tolerance * largest, rtol=0)


@properties
@given(seeds, st.integers(2, 9), st.floats(-2, 2).map(lambda exponent: 10**exponent))
def test_the_fused_attention_at_all_magnitudes(seed: int, tokens_count: int, magnitude: float) -> None:
    torch.manual_seed(seed)
    attention = ForegroundBackgroundAttention(16, AttentionSize(num_heads=2, head_dim=4)).double()
    layers = [LayerViews(magnitude * torch.randn(2, tokens_count, 16, dtype=torch.float64), [identity])]
    (attended,), (expected,) = FusedAttention(attention)(layers), attention(layers)
    torch.testing.assert_close(attended, expected, atol=1e-9, rtol=1e-9)


def test_each_layer_has_the_mask_of_its_own_tokens_and_those_before(mvfbe: MultiViewDisentanglement) -> None:
    """One part after the other, as the paper has them."""
    layer_tokens = [torch.randn(2, 1 + 12, 16) for _ in range(3)]
    attended = []
    for tokens, previous in zip(layer_tokens, [None, *layer_tokens], strict=False):
        mask = mvfbe.foreground_mask(tokens, previous)
        attended += [mvfbe.attention.attend(view(tokens, mask, (3, 4))(tokens)) for view in mvfbe.views.values()]
    expected = mvfbe.suppression(attended)
    torch.testing.assert_close(mvfbe(layer_tokens, (3, 4)), expected, atol=1e-5, rtol=1e-5)


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
