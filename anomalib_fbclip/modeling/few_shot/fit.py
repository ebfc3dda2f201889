# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Learns from photographs by leaving out one after the other."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch.nn import functional as F  # noqa: N812

from anomalib_fbclip.modeling.decision import IntermediateOutputs, top_mean
from anomalib_fbclip.modeling.fbclip import FBClipModel

from .calibration import Calibration, Spread, find_outliers
from .few_shot import MAPS, FewShot, Merge, later_half, text_logits
from .memory_bank import MemoryBank, join_layers, select_coreset

MEMORY_VALUES = 2**23
"""Values that a memory holds at most: 33 MB."""


Photograph = Callable[[], Iterable[torch.Tensor]]
"""Gives the normalized images of a photograph of a good part, each ``[1, 3, H, W]``: first as it is, then turned."""


class Block(NamedTuple):
    """What the memory keeps of a photograph.

    Attributes:
        patches (torch.Tensor): Joined patch tokens, shape ``[R, D]``.
        origins (torch.Tensor): Where they come from: which of the turned images, and which patch, shape ``[R, 2]``.
        logits (torch.Tensor): What the text gives the patches of the image that is not turned, shape ``[1, 1, h, w]``.
        is_whole (bool): Whether these are all patches of that image, and no others.
    """

    patches: torch.Tensor
    origins: torch.Tensor
    logits: torch.Tensor
    is_whole: bool


class Fit(NamedTuple):
    """What comes of photographs.

    Attributes:
        decision (FewShot): The part of the model that decides by them.
        origins (torch.Tensor): For each row of the memory: photograph, turned image and patch, shape ``[k R, 3]``.
        scores (torch.Tensor): Leave-one-out scores as the model gives them, 0..1, shape ``[k]``.
        outliers (list[int]): Photographs that are unlike the others.
    """

    decision: FewShot
    origins: torch.Tensor
    scores: torch.Tensor
    outliers: list[int]

    @property
    def false_alarms(self) -> int:
        """Number of ``k + 1`` good parts that is to be expected above the threshold, about.

        The next good part is as likely to take any rank among the ``k + 1``, whatever the distribution. It is no bound:
        the threshold itself comes from these few.
        """
        return int((self.scores > 0.5).sum()) + 1  # noqa: PLR2004


@torch.inference_mode(mode=False)  # what comes of it outlives a run
@torch.no_grad()
def fit(
    model: FBClipModel,
    photographs: Sequence[Photograph],
    maps: Sequence[str] = MAPS,
    decision: type[FewShot] = FewShot,
) -> Fit:
    """Learn from photographs.

    Each is asked for twice, so that one at a time is in memory; once, if the memory keeps all of its patches.

    Args:
        model (FBClipModel): The model. It stays as it is.
        photographs (Sequence[Photograph]): The photographs.
        maps (Sequence[str], optional): Maps that take part in the decision. Defaults to both.
        decision (type[FewShot], optional): The kind of decision. Defaults to :class:`FewShot`, by photographs of good
            parts.

    Returns:
        Fit: The part of the model that decides by them, and what is to be said of them.
    """
    blocks = [_remember(model, photograph(), len(photographs)) for photograph in photographs]
    memory = decision.memory_bank(torch.stack([block.patches for block in blocks]))
    left_out = [
        _leave_out(model, photograph, block, memory.without(index)) if len(blocks) > 1 else _mirror(model, photograph)
        for index, (photograph, block) in enumerate(zip(photographs, blocks, strict=True))
    ]
    distances, logits = (torch.cat(values) for values in zip(*left_out, strict=True))
    spreads = {"references": Spread.of(distances), "text": Spread.of(logits)}
    merge = Merge({name: spreads[name] for name in maps})

    size = [side * patch for side, patch in zip(distances.shape[-2:], model.backbone.patch_size, strict=True)]
    scores = top_mean(model.anomaly_map_generator(merge(distances, logits), size))
    calibration = Calibration(decision.limit(scores))
    return Fit(
        decision=decision(memory, merge, calibration),
        origins=torch.cat([F.pad(block.origins, (1, 0), value=index) for index, block in enumerate(blocks)]),
        scores=calibration(scores),
        outliers=find_outliers(top_mean(model.anomaly_map_generator(distances, size))),
    )


def _remember(model: FBClipModel, images: Iterable[torch.Tensor], count: int) -> Block:
    """Choose what the memory keeps of a photograph: as many patches as it has, fewer if there are many of them."""
    one_by_one = iter(images)
    outputs = model.intermediate_outputs(next(one_by_one), model.text_features())
    tokens = torch.cat([_join(outputs), *(_encode(model, image) for image in one_by_one)])
    rows = tokens.flatten(0, 1)
    patches, width = tokens.shape[1:]
    chosen = select_coreset(rows, max(min(patches, MEMORY_VALUES // (count * width)), 1))
    origins = torch.stack([chosen // patches, chosen % patches], dim=1)
    return Block(rows[chosen], origins, text_logits(outputs), len(chosen) == len(rows))


def _leave_out(
    model: FBClipModel, photograph: Photograph, block: Block, others: MemoryBank
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compare a photograph with the others.

    Returns:
        tuple[torch.Tensor, torch.Tensor]: Distances of its patches, and the logits that the text gives them, each
            ``[1, 1, h, w]``.
    """
    tokens = block.patches.unsqueeze(0) if block.is_whole else _encode(model, _first(photograph()))
    return others(tokens).distance.unflatten(1, block.logits.shape[1:]), block.logits


def _mirror(model: FBClipModel, photograph: Photograph) -> tuple[torch.Tensor, torch.Tensor]:
    """Compare the mirror image of a single photograph with it. See :func:`_leave_out`."""
    image = _first(photograph())
    outputs = model.intermediate_outputs(image.flip(-1), model.text_features())
    distance = MemoryBank(_encode(model, image))(_join(outputs)).distance
    return distance.unflatten(1, outputs.patch_map.shape[1:]), text_logits(outputs)


def _encode(model: FBClipModel, image: torch.Tensor) -> torch.Tensor:
    """Give the joined patch tokens of an image, shape ``[1, L, D]``."""
    layer_tokens, _ = model.backbone.encode_image(image)
    return join_layers(later_half(layer_tokens))


def _join(outputs: IntermediateOutputs) -> torch.Tensor:
    return join_layers(later_half(outputs.layer_tokens))


def _first(images: Iterable[torch.Tensor]) -> torch.Tensor:
    return next(iter(images))
