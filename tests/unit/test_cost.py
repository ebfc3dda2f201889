# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""What the model costs, counted: seconds depend on the machine, the number and size of operations do not."""

import gc
from collections.abc import Generator
from contextlib import contextmanager

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: PLC2701
from torch.utils.flop_counter import FlopCounterMode

from anomalib_fbclip import FBClip
from anomalib_fbclip.modeling.mvfbe import FusedAttention, SemanticView, SpatialView

GRID = (40, 12)
PATCHES = 480
WIDTH = 32


class Operations(TorchDispatchMode):
    """Keeps names and shapes of the results of all operations."""

    def __init__(self) -> None:
        super().__init__()
        self.results: list[tuple[str, tuple[int, ...]]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: PLW3201
        result = func(*args, **(kwargs or {}))
        results = result if isinstance(result, tuple | list) else [result]
        self.results += [(str(func), tuple(part.shape)) for part in results if isinstance(part, torch.Tensor)]
        return result


@contextmanager
def recorded() -> Generator[list[tuple[str, tuple[int, ...]]]]:
    with torch.no_grad(), Operations() as operations:
        yield operations.results


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randn(1, 1 + PATCHES, WIDTH, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def mask() -> torch.Tensor:
    return torch.where(torch.rand(1, PATCHES, generator=torch.Generator().manual_seed(0)) > 0.5, 1.0, 0.5)


def largest(results: list[tuple[str, tuple[int, ...]]]) -> int:
    return max(torch.Size(shape).numel() for _, shape in results)


def test_the_semantic_view_has_no_matrix_of_all_pairs(tokens: torch.Tensor, mask: torch.Tensor) -> None:
    with recorded() as results:
        SemanticView()(tokens, mask, GRID)(tokens)
    assert largest(results) <= tokens.numel()


def test_the_spatial_view_has_bands_and_never_unfolds_features(tokens: torch.Tensor, mask: torch.Tensor) -> None:
    with recorded() as results:
        SpatialView()(tokens, mask, GRID)(tokens)
    pairs = PATCHES * (8 * GRID[1] + 1)  # each patch with those of eight rows, and with what is beyond the border
    assert largest(results) <= max(2 * tokens.numel(), 2 * pairs) < PATCHES**2
    assert not any("im2col" in name or "unfold" in name for name, _ in results)


def test_a_spatial_map_copies_no_values(tokens: torch.Tensor, mask: torch.Tensor) -> None:
    linear_map = SpatialView()(tokens, mask, GRID)
    with recorded() as results:
        linear_map(tokens)
    assert largest(results) <= tokens.numel()


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        ({"feature_layers": [4], "views": ["identity"]}, 1),
        ({"feature_layers": [4]}, 1),
        ({"feature_layers": [1, 2, 4]}, 3),
    ],
)
def test_views_of_a_layer_share_its_products(small_backbone: str, arguments: dict[str, object], count: int) -> None:
    model = FBClip(small_backbone, weights=None, **arguments).model
    layer_tokens = [torch.randn(1, 17, 64) for _ in model.backbone.feature_layers]
    projected = len(FusedAttention(model.mvfbe.attention).weights.inputs)
    with recorded() as results:
        model.mvfbe(layer_tokens, (4, 4))
    products = [shape for name, shape in results if name.startswith("aten.mm") and shape[-1] == projected]
    assert len(products) == count


def test_products_of_the_head() -> None:
    """One product a layer with the merged matrix, one a map with the output layers, and one into the joint space."""
    model = FBClip("fbclip-small").model
    layers, maps, tokens, width, joint = 3, 9, 257, 384, 128
    inner = 4 * 32
    layer_tokens, grid = model.backbone.encode_image(torch.zeros(1, 3, 224, 224))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        for suppressed in model.mvfbe(layer_tokens, grid):
            model.backbone.project_image(suppressed)
    counts = counter.get_flop_counts()["Global"]
    dense = (
        2
        * tokens
        * (layers * width * (width // 2 + 6 * inner) + maps * (2 * inner * width + width // 2 + width * joint))
    )
    assert counts[torch.ops.aten.mm] + counts[torch.ops.aten.addmm] == dense


def test_inference_builds_no_graph_for_what_is_frozen(small_backbone: str) -> None:
    model = FBClip(small_backbone, weights=None).model
    layer_tokens, _ = model.backbone.encode_image(torch.randn(1, 3, 56, 56, requires_grad=True))
    assert not any(tokens.requires_grad for tokens in layer_tokens)
    mask = model.mvfbe.foreground_mask(layer_tokens[0])
    for view in model.mvfbe.views.values():
        assert not view(layer_tokens[0], mask, (4, 4))(layer_tokens[0]).requires_grad
    assert all(tokens.requires_grad for tokens in model.mvfbe(layer_tokens, (4, 4)))


def living_tensors() -> list[torch.Tensor]:
    gc.collect()
    return [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]


def test_memory_does_not_grow_with_the_number_of_images(small_backbone: str) -> None:
    """No tensor outlives its prediction."""
    model = FBClip(small_backbone, weights=None).model.eval()
    with torch.inference_mode():
        model(torch.rand(1, 3, 56, 56))  # from here on the text features are kept
        before = living_tensors()  # kept alive, so that no new tensor has the identity of an old one
        for _ in range(10):
            model(torch.rand(1, 3, 56, 56))
    known = set(map(id, before))
    assert not [tensor.shape for tensor in living_tensors() if id(tensor) not in known]
