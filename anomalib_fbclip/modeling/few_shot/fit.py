# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Fit of a decision to photographs, by comparing each with the others."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch.nn import functional as F  # noqa: N812

from anomalib_fbclip.modeling.fbclip import FBClipModel
from anomalib_fbclip.modeling.precision import full_precision
from anomalib_fbclip.modeling.region import LEAST_SHARE, RegionOfInterest, patches_inside

from .calibration import Calibration, Spread, find_outliers
from .few_shot import MAPS, FewShot, Merge, later_half, score, text_logits
from .memory_bank import MemoryBank, join_layers, select_coreset

MEMORY_VALUES = 2**23
"""Largest number of values in a memory: 33 MB."""

UNLIKE, LEAST_UNLIKE = 1.5, 0.12
"""An image shows something else if its distance from good parts, in both directions, exceeds this multiple of their
distance from each other, and this value. Of 328 images of 12 products, some alike, 7 are so far from their own product,
and 320 from all others. ``tests/benchmark/products.py`` measures it."""

WHOLLY_INSIDE = 0.99
"""Smallest share of a rotated copy's patch that the photograph fills, if the memory may keep the patch."""


class ReferenceImage(NamedTuple):
    """A normalized image of a photograph of a good part.

    Attributes:
        image (torch.Tensor): The image, shape ``[1, 3, H, W]``.
        region (RegionOfInterest | None): Its region of interest; ``None``: everywhere.
    """

    image: torch.Tensor
    region: RegionOfInterest | None = None


Photograph = Callable[[], Iterable[ReferenceImage]]
"""Returns the images of a photograph: the original, then its rotated copies."""


class Block(NamedTuple):
    """Values kept of a photograph. Others can be added later, without its rotated copies.

    Attributes:
        patches (torch.Tensor): Joined patch tokens, shape ``[R, D]``, in the order of :func:`select_coreset`: a memory
            of more photographs keeps the first ones.
        origins (torch.Tensor): Index of the rotated image and of the patch for each, shape ``[R, 2]``.
        logits (torch.Tensor): The text's logits of the patches of the original's views, shape ``[V, 1, h, w]``.
        inside (torch.Tensor): Which of these patches count, bool, of the same shape.
        region (RegionOfInterest | None): Region of interest of the original.
        is_whole (bool): Whether ``patches`` are exactly the patches of the original.
    """

    patches: torch.Tensor
    origins: torch.Tensor
    logits: torch.Tensor
    inside: torch.Tensor
    region: RegionOfInterest | None
    is_whole: bool = False

    def shorten(self, rows: int) -> "Block":
        """Keep only a number of patches: those that would have been chosen for that number."""
        chosen = select_coreset(self.patches, rows)
        return self._replace(patches=self.patches[chosen], origins=self.origins[chosen], is_whole=False)


class Fit(NamedTuple):
    """Result of a fit to photographs.

    Attributes:
        decision (FewShot): The decision.
        origins (torch.Tensor): Index of photograph, rotated image and patch for each row of the memory, shape
            ``[k R, 3]``.
        logits (torch.Tensor): The text's logits of the patches of their views, shape ``[k, V, 1, h, w]``.
        inside (torch.Tensor): Which of these patches count, bool, of the same shape.
        scores (torch.Tensor): Leave-one-out scores, 0..1, shape ``[k]``.
        unlikeness (torch.Tensor): :func:`unlikeness` of each to the others, shape ``[k, 2]``.
        outliers (list[int]): Indices of photographs that are unlike the others.
    """

    decision: FewShot
    origins: torch.Tensor
    logits: torch.Tensor
    inside: torch.Tensor
    scores: torch.Tensor
    unlikeness: torch.Tensor
    outliers: list[int]

    def is_unlike(self, unlikeness: torch.Tensor) -> bool:
        """Return whether an image shows something other than good parts, given its :func:`unlikeness`."""
        return bool((unlikeness > (UNLIKE * self.unlikeness.mean(dim=0)).clamp(min=LEAST_UNLIKE)).all())

    @property
    def false_alarms(self) -> int:
        """Expected number above the threshold among ``k + 1`` good parts, roughly.

        The next good part takes each rank among the ``k + 1`` with the same probability, whatever the distribution.
        This is not a bound: the threshold comes from the same photographs.
        """
        return int((self.scores > 0.5).sum()) + 1  # noqa: PLR2004

    def block(self, index: int, region: RegionOfInterest | None) -> Block:
        """Return the values kept of a photograph.

        Args:
            index (int): Its index.
            region (RegionOfInterest | None): Its region of interest, made by the model.
        """
        patches = self.decision.memory.patches
        origins = self.origins.view(*patches.shape[:2], -1)[index, :, 1:]
        return Block(patches[index], origins, self.logits[index], self.inside[index], region)


@torch.inference_mode(mode=False)  # the result outlives a run
@torch.no_grad()
def fit(
    model: FBClipModel,
    photographs: Sequence[Photograph],
    maps: Sequence[str] = MAPS,
    decision: type[FewShot] = FewShot,
    known: Mapping[int, Block] | None = None,
) -> Fit:
    """Fit a decision to photographs.

    Each is read twice, so that only one at a time is in memory; or once, if the memory keeps all of its patches, or if
    its values are known. Of known ones, only the original is read.

    Args:
        model (FBClipModel): The model, which is not changed.
        photographs (Sequence[Photograph]): The photographs.
        maps (Sequence[str], optional): Maps to merge. Defaults to both.
        decision (type[FewShot], optional): The kind of decision. Defaults to :class:`FewShot`.
        known (Mapping[int, Block] | None, optional): Values of photographs from an earlier fit, by index. Those with
            too few rows are not used. Defaults to ``None``.

    Returns:
        Fit: The decision, and results for the photographs.

    Raises:
        ValueError: If a region of interest is thinner than half a patch.
    """
    count = len(photographs)
    reused = {index: _reuse(block, count) for index, block in (known or {}).items()}
    blocks = [
        reused.get(index) or _remember(model, photograph(), count) for index, photograph in enumerate(photographs)
    ]
    memory = decision.memory_bank(torch.stack([block.patches for block in blocks]), model.tiling.view_count)
    left_out = [
        _leave_out(model, photograph, block, memory.without(index)) if count > 1 else _mirror(model, photograph, block)
        for index, (photograph, block) in enumerate(zip(photographs, blocks, strict=True))
    ]
    distances, logits = (torch.cat([one[part] for one in left_out]) for part in range(2))
    inside = torch.cat([block.inside for block in blocks])
    spreads = {"references": Spread.of(distances[inside]), "text": Spread.of(logits[inside])}
    merge = Merge({name: spreads[name] for name in maps})

    regions = [block.region for block in blocks]
    scores = _score(model, merge(distances, logits), regions)
    calibration = Calibration(decision.limit(scores))
    return Fit(
        decision=decision(memory, merge, calibration),
        origins=torch.cat([F.pad(block.origins, (1, 0), value=index) for index, block in enumerate(blocks)]),
        logits=torch.stack([block.logits for block in blocks]),
        inside=torch.stack([block.inside for block in blocks]),
        scores=calibration(scores),
        unlikeness=torch.stack([one.unlikeness for one in left_out]),
        outliers=find_outliers(_score(model, distances, regions)),
    )


def unlikeness(memory: MemoryBank, tokens: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """Compute the distance of a whole image from good parts, in both directions.

    A defective part has patches unlike any of good parts, but it still has patches like each of theirs. Something else
    has neither.

    Args:
        memory (MemoryBank): The good parts.
        tokens (torch.Tensor): Joined patch tokens of the image's first view, shape ``[L, D]``.
        inside (torch.Tensor): Which of them count, bool of L elements. If none counts, all do.

    Returns:
        torch.Tensor: Mean distance of the image's patches from the nearest patches of good parts, and mean distance of
            the nearest good part's patches from the nearest patches of the image; shape ``[2]``.
    """
    counted = inside.flatten() | ~inside.any()
    with full_precision(tokens.device):
        distances = 1 - memory.patches @ tokens[counted].mT
    to_parts = distances.amin(dim=(0, 1)).mean()
    to_image = distances.amin(dim=2).mean(dim=1).min()
    return torch.stack([to_parts, to_image])


def _reuse(block: Block, count: int) -> Block | None:
    """Return the rows for a memory of a number of photographs; ``None`` if there are too few."""
    wanted = _count_rows(block.logits[0].numel(), block.patches.shape[1], count)
    return block.shorten(wanted) if wanted <= len(block.patches) else None


def _count_rows(patches: int, width: int, count: int) -> int:
    """Return the number of rows per photograph in the memory: the patches of a view, or fewer with many photographs."""
    return max(min(patches, MEMORY_VALUES // (count * width)), 1)


def _score(model: FBClipModel, values: torch.Tensor, regions: Sequence[RegionOfInterest | None]) -> torch.Tensor:
    """Score photographs by the values of their views' patches, as the model does, shape ``[k]``."""
    scores = []
    for views, region in zip(values.split(model.tiling.view_count), regions, strict=True):
        joined = model.tiling.join(views, region)
        sides = zip(joined.shape[-2:], model.backbone.patch_size, strict=True)
        size = [side * patch for side, patch in sides]
        map_values = model.anomaly_map_generator.values(joined, size, region)
        scores.append(score(map_values, model.tiling.view_count))
    return torch.cat(scores)


def _remember(model: FBClipModel, images: Iterable[ReferenceImage], count: int) -> Block:
    """Choose the patches of a photograph to keep: as many as one view has, or fewer with many photographs."""
    one_by_one = iter(images)
    first = _as_looked_at(model, next(one_by_one))
    tokens, logits = _look(model, first.image)
    inside = _inside(model, first, logits.shape[-2:], LEAST_SHARE)
    rows, kept = [tokens.flatten(0, 1)], [inside.flatten()]
    for turned in one_by_one:
        rows.append(_encode(model, turned.image).flatten(0, 1))
        kept.append(_inside(model, turned, logits.shape[-2:], WHOLLY_INSIDE).flatten())
    number, width = rows[0].shape
    candidates = torch.cat(kept).nonzero().flatten()
    wanted = _count_rows(tokens.shape[1], width, count)
    every = torch.cat(rows)
    chosen = candidates[select_coreset(every[candidates], wanted)]
    chosen = chosen.repeat(-(-wanted // len(chosen)))[:wanted]  # all photographs have as many rows
    places = model.tiling.places(logits.shape[-2:]).to(chosen.device)
    origins = torch.stack([chosen // number, places[chosen % number]], dim=1)
    return Block(every[chosen], origins, logits, inside, first.region, len(candidates) == len(every) == wanted)


class _LeftOut(NamedTuple):
    """Result of comparing a photograph with the others.

    Attributes:
        distances (torch.Tensor): Distances of the patches of its views, shape ``[V, 1, h, w]``.
        logits (torch.Tensor): The text's logits, of the same shape.
        unlikeness (torch.Tensor): Its :func:`unlikeness`, shape ``[2]``.
    """

    distances: torch.Tensor
    logits: torch.Tensor
    unlikeness: torch.Tensor


def _leave_out(model: FBClipModel, photograph: Photograph, block: Block, others: MemoryBank) -> _LeftOut:
    """Compare a photograph with the others."""
    rows = block.patches if block.is_whole else _encode(model, _first(photograph()).image).flatten(0, 1)
    tokens = rows.unflatten(0, (len(block.logits), -1))
    distances = others(tokens).distance.view_as(block.logits)
    return _LeftOut(distances, block.logits, unlikeness(others, tokens[0], block.inside[0]))


def _mirror(model: FBClipModel, photograph: Photograph, block: Block) -> _LeftOut:
    """Compare the mirror image of a single photograph with it."""
    image = _first(photograph()).image
    tokens, logits = _look(model, image.flip(-1))
    memory = MemoryBank(_encode(model, image).flatten(0, 1)[None])
    distances = memory(tokens).distance.view_as(logits)
    return _LeftOut(distances, logits, unlikeness(memory, tokens[0], block.inside[0].flip(-1)))


def _look(model: FBClipModel, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return joined patch tokens of an image's views, ``[V, L, D]``, and the text's logits, ``[V, 1, h, w]``."""
    outputs = [model.intermediate_outputs(views, model.text_features()) for views in model.tiling.split_in_parts(image)]
    tokens = [join_layers(later_half(output.layer_tokens)) for output in outputs]
    return torch.cat(tokens), torch.cat([text_logits(output) for output in outputs])


def _encode(model: FBClipModel, image: torch.Tensor) -> torch.Tensor:
    """Return joined patch tokens of an image's views, shape ``[V, L, D]``."""
    layers = [model.backbone.encode_image(views)[0] for views in model.tiling.split_in_parts(image)]
    return torch.cat([join_layers(later_half(layer_tokens)) for layer_tokens in layers])


def _as_looked_at(model: FBClipModel, reference: ReferenceImage) -> ReferenceImage:
    """Replace an image's region by the one that the model makes of it."""
    return (
        reference if reference.region is None else reference._replace(region=model.region_of(reference.region.pixels))
    )


def _inside(model: FBClipModel, reference: ReferenceImage, grid: Sequence[int], least: float) -> torch.Tensor:
    """Return which patches of an image's views count, bool ``[V, 1, h, w]``."""
    if reference.region is None:
        return torch.ones((model.tiling.view_count, 1, *grid), dtype=torch.bool, device=reference.image.device)
    views = model.tiling.split(reference.region.pixels[None, None].to(reference.image))
    return patches_inside(views, grid, least)


def _first(images: Iterable[ReferenceImage]) -> ReferenceImage:
    return next(iter(images))
