# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Learns from photographs by leaving out one after the other."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch.nn import functional as F  # noqa: N812

from anomalib_fbclip.modeling.decision import top_mean
from anomalib_fbclip.modeling.fbclip import VIEWS_AT_ONCE, FBClipModel
from anomalib_fbclip.modeling.precision import full_precision
from anomalib_fbclip.modeling.region import LEAST_SHARE, RegionOfInterest, share_inside

from .calibration import Calibration, Spread, find_outliers
from .few_shot import MAPS, FewShot, Merge, later_half, text_logits
from .memory_bank import MemoryBank, join_layers, select_coreset

MEMORY_VALUES = 2**23
"""Values that a memory holds at most: 33 MB."""

UNLIKE, LEAST_UNLIKE = 1.5, 0.12
"""Ratio, in both directions, of an image's distance from good parts to their distance from each other, if it shows
something else, and how far at least. Of 328 images of 12 products, some alike, 7 are so far from their own product, and
320 from all others. ``tests/benchmark/products.py`` measures it."""

WHOLLY_INSIDE = 0.99
"""Share of a patch of a turned copy that its photograph fills, if the memory may keep the patch."""


class ReferenceImage(NamedTuple):
    """A normalized image of a photograph of a good part.

    Attributes:
        image (torch.Tensor): The image, shape ``[1, 3, H, W]``.
        region (RegionOfInterest | None): What counts of it; ``None``: everything.
    """

    image: torch.Tensor
    region: RegionOfInterest | None = None


Photograph = Callable[[], Iterable[ReferenceImage]]
"""Gives the images of a photograph of a good part: first as it is, then turned."""


class Block(NamedTuple):
    """Values kept of a photograph. Others can be added later, without its rotated copies.

    Attributes:
        patches (torch.Tensor): Joined patch tokens, shape ``[R, D]``, in the order in which they were chosen: the first
            ones are those that a memory of more photographs keeps.
        origins (torch.Tensor): Where they come from: which of the turned images, and which patch, shape ``[R, 2]``.
        logits (torch.Tensor): What the text gives the patches of the views of the image that is not turned, shape
            ``[V, 1, h, w]``.
        inside (torch.Tensor): Which of these patches count, bool, of the same shape.
        region (RegionOfInterest | None): What counts of that image.
        is_whole (bool): Whether these are all patches of that image, and no others.
    """

    patches: torch.Tensor
    origins: torch.Tensor
    logits: torch.Tensor
    inside: torch.Tensor
    region: RegionOfInterest | None
    is_whole: bool = False

    def shorten(self, rows: int) -> "Block":
        """Keep fewer patches: those that would have been chosen, if only so many had been asked for."""
        chosen = select_coreset(self.patches, rows)
        return self._replace(patches=self.patches[chosen], origins=self.origins[chosen], is_whole=False)


class Fit(NamedTuple):
    """Result of a fit to photographs.

    Attributes:
        decision (FewShot): The part of the model that decides by them.
        origins (torch.Tensor): For each row of the memory: photograph, turned image and patch, shape ``[k R, 3]``.
        logits (torch.Tensor): What the text gives the patches of their views, shape ``[k, V, 1, h, w]``.
        inside (torch.Tensor): Which of these patches count, bool, of the same shape.
        scores (torch.Tensor): Leave-one-out scores as the model gives them, 0..1, shape ``[k]``.
        unlikeness (torch.Tensor): How far each is from the others as a whole, :func:`unlikeness`, shape ``[k, 2]``.
        outliers (list[int]): Photographs that are unlike the others.
    """

    decision: FewShot
    origins: torch.Tensor
    logits: torch.Tensor
    inside: torch.Tensor
    scores: torch.Tensor
    unlikeness: torch.Tensor
    outliers: list[int]

    def is_unlike(self, unlikeness: torch.Tensor) -> bool:
        """Tell whether an image shows something else than good parts, by its :func:`unlikeness`."""
        return bool((unlikeness > (UNLIKE * self.unlikeness.mean(dim=0)).clamp(min=LEAST_UNLIKE)).all())

    @property
    def false_alarms(self) -> int:
        """Number of ``k + 1`` good parts that is to be expected above the threshold, about.

        The next good part is as likely to take any rank among the ``k + 1``, whatever the distribution. It is not a
        bound: the threshold itself comes from these few.
        """
        return int((self.scores > 0.5).sum()) + 1  # noqa: PLR2004

    def block(self, index: int, region: RegionOfInterest | None) -> Block:
        """Give what is kept of a photograph.

        Args:
            index (int): Which one.
            region (RegionOfInterest | None): What counts of it, as the model looks at it.
        """
        patches = self.decision.memory.patches
        origins = self.origins.view(*patches.shape[:2], -1)[index, :, 1:]
        return Block(patches[index], origins, self.logits[index], self.inside[index], region)


@torch.inference_mode(mode=False)  # what comes of it outlives a run
@torch.no_grad()
def fit(
    model: FBClipModel,
    photographs: Sequence[Photograph],
    maps: Sequence[str] = MAPS,
    decision: type[FewShot] = FewShot,
    known: Mapping[int, Block] | None = None,
) -> Fit:
    """Learn from photographs.

    Each is asked for twice, so that one at a time is in memory; once, if the memory keeps all of its patches, or if
    what the memory keeps of it is known. Of the latter, only the image that is not turned is looked at.

    Args:
        model (FBClipModel): The model. It stays as it is.
        photographs (Sequence[Photograph]): The photographs.
        maps (Sequence[str], optional): Maps that take part in the decision. Defaults to both.
        decision (type[FewShot], optional): The kind of decision. Defaults to :class:`FewShot`, by photographs of good
            parts.
        known (Mapping[int, Block] | None, optional): What an earlier fit kept of photographs, by index. One that has
            too few rows is not used. Defaults to ``None``.

    Returns:
        Fit: The part of the model that decides by them, and what is to be said of them.

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
    """Tell how far an image is from good parts as a whole, in both directions.

    What a defect adds to a part has no like among good parts, but the part still has. Of something else, neither has.

    Args:
        memory (MemoryBank): The good parts.
        tokens (torch.Tensor): Joined patch tokens of the image's first view, shape ``[L, D]``.
        inside (torch.Tensor): Which of them count, bool of L elements. Where none does, all do.

    Returns:
        torch.Tensor: Mean distance of the image's patches from the nearest of good parts, and of the patches of a good
            part from the nearest of the image, of the good part that is nearest; shape ``[2]``.
    """
    counted = inside.flatten() | ~inside.any()
    with full_precision(tokens.device):
        distances = 1 - memory.patches @ tokens[counted].mT
    to_parts = distances.amin(dim=(0, 1)).mean()
    to_image = distances.amin(dim=2).mean(dim=1).min()
    return torch.stack([to_parts, to_image])


def _reuse(block: Block, count: int) -> Block | None:
    """Give the rows that a memory of so many photographs keeps; ``None`` if there are too few."""
    wanted = _count_rows(block.logits[0].numel(), block.patches.shape[1], count)
    return block.shorten(wanted) if wanted <= len(block.patches) else None


def _count_rows(patches: int, width: int, count: int) -> int:
    """Tell how many rows the memory keeps of each photograph: the patches of a view, fewer of many photographs."""
    return max(min(patches, MEMORY_VALUES // (count * width)), 1)


def _score(model: FBClipModel, values: torch.Tensor, regions: Sequence[RegionOfInterest | None]) -> torch.Tensor:
    """Score photographs by the values of their views' patches, as the model does, shape ``[k]``."""
    scores = []
    for views, region in zip(values.split(model.tiling.view_count), regions, strict=True):
        joined = model.tiling.join(views, region)
        sides = zip(joined.shape[-2:], model.backbone.patch_size, strict=True)
        size = [side * patch for side, patch in sides]
        anomaly_map = model.anomaly_map_generator(joined, size, region)
        scores.append(top_mean(anomaly_map, model.area_of_score(size, region)))
    return torch.cat(scores)


def _remember(model: FBClipModel, images: Iterable[ReferenceImage], count: int) -> Block:
    """Choose what the memory keeps of a photograph: as many patches as a view has, fewer if there are many of them.

    So the comparison of a view takes as long with tiles as without.
    """
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
        distances (torch.Tensor): Of the patches of its views, shape ``[V, 1, h, w]``.
        logits (torch.Tensor): What the text gives them, of the same shape.
        unlikeness (torch.Tensor): How far it is from them as a whole, shape ``[2]``.
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
    """Give joined patch tokens of the views of an image, ``[V, L, D]``, and the text's logits, ``[V, 1, h, w]``."""
    outputs = [
        model.intermediate_outputs(views, model.text_features())
        for views in model.tiling.split(image).split(VIEWS_AT_ONCE)
    ]
    tokens = [join_layers(later_half(output.layer_tokens)) for output in outputs]
    return torch.cat(tokens), torch.cat([text_logits(output) for output in outputs])


def _encode(model: FBClipModel, image: torch.Tensor) -> torch.Tensor:
    """Give joined patch tokens of the views of an image, shape ``[V, L, D]``."""
    layers = [model.backbone.encode_image(views)[0] for views in model.tiling.split(image).split(VIEWS_AT_ONCE)]
    return torch.cat([join_layers(later_half(layer_tokens)) for layer_tokens in layers])


def _as_looked_at(model: FBClipModel, reference: ReferenceImage) -> ReferenceImage:
    """Leave out of what counts of an image what the model leaves out when it looks at it."""
    return (
        reference if reference.region is None else reference._replace(region=model.region_of(reference.region.pixels))
    )


def _inside(model: FBClipModel, reference: ReferenceImage, grid: Sequence[int], least: float) -> torch.Tensor:
    """Tell which patches of the views of an image count, bool ``[V, 1, h, w]``."""
    if reference.region is None:
        return torch.ones((model.tiling.view_count, 1, *grid), dtype=torch.bool, device=reference.image.device)
    views = model.tiling.split(reference.region.pixels[None, None].to(reference.image))
    return share_inside(views, grid) >= least


def _first(images: Iterable[ReferenceImage]) -> ReferenceImage:
    return next(iter(images))
