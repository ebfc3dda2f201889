# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Intermediate maps of :class:`FBClipModel` between an image and its anomaly map."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn

from .alignment import similarity
from .anomaly_map import highest_patch
from .fbclip import FBClipModel
from .few_shot import FewShot
from .region import RegionOfInterest

Call = tuple[tuple[Any, ...], Any]
"""Arguments and result of a module's call."""


class ReferenceMaps(NamedTuple):
    """Comparison of one image's patches with those of good photographs. All maps are on the CPU.

    Attributes:
        distances (torch.Tensor): Cosine distance of each patch from the nearest reference patch, 0..2, shape
            ``[h, w]``.
        rows (torch.Tensor): Row of the nearest reference patch in the memory, shape ``[h, w]``.
        deviations (torch.Tensor): How anomalous each patch is in the merged maps, in standard deviations of good parts,
            shape ``[h, w]``.
        probabilities (torch.Tensor): The same as probabilities, shape ``[h, w]``; above 0.5, a patch is more anomalous
            than those of good parts.
    """

    distances: torch.Tensor
    rows: torch.Tensor
    deviations: torch.Tensor
    probabilities: torch.Tensor


class Explanation(NamedTuple):
    """Explanation of FB-CLIP's prediction for one image. All maps are on the CPU.

    There are N layers with V views each, and the image's patches form a grid of ``h x w``. With tiles, all maps come
    from the tiles; ``patch_map``, ``anomaly_map`` and ``reference_maps`` also use the whole image.

    Attributes:
        layers (tuple[int, ...]): The layers, counted from 1.
        views (tuple[str, ...]): Names of the views.
        foreground_masks (torch.Tensor): Soft foreground mask of each layer, 1 (foreground) or ½, shape ``[N, h, w]``.
        gates (torch.Tensor): Share of each token that the attention gives to its foreground branch, 0..1,
            shape ``[N, V, h, w]``.
        suppression_strength (torch.Tensor): Length of the part that background suppression removes from each token,
            relative to the token's length, shape ``[N, V, h, w]``; 0 without suppression.
        similarities (torch.Tensor): Similarity of each token to the abnormal state minus that to the normal state,
            divided by the temperature, shape ``[N, V, h, w]``; positive values are closer to the abnormal state.
        layer_weights (torch.Tensor): Weight of each layer, shape ``[N]``. The patch map is the sigmoid of the
            similarities' sum with these weights.
        patch_map (torch.Tensor): Abnormal probability of each patch by the text, shape ``[h, w]``.
        anomaly_map (torch.Tensor): The model's anomaly map, 0..1, shape ``[H, W]`` of the model's input.
        pred_score (torch.Tensor): The model's score of the image, 0..1, a scalar.
        reference_maps (ReferenceMaps | None): The comparison with good photographs; ``None`` without any.
    """

    layers: tuple[int, ...]
    views: tuple[str, ...]
    foreground_masks: torch.Tensor
    gates: torch.Tensor
    suppression_strength: torch.Tensor
    similarities: torch.Tensor
    layer_weights: torch.Tensor
    patch_map: torch.Tensor
    anomaly_map: torch.Tensor
    pred_score: torch.Tensor
    reference_maps: ReferenceMaps | None = None

    @property
    def most_anomalous(self) -> tuple[int, int]:
        """Row and column of the patch where the anomaly map is highest."""
        return highest_patch(self.anomaly_map, self.patch_map.shape)


@torch.no_grad()
def explain(model: FBClipModel, image: torch.Tensor, region: RegionOfInterest | None = None) -> Explanation:
    """Run the model on one image, and keep the outputs of its parts.

    Args:
        model (FBClipModel): The model.
        image (torch.Tensor): A normalized image, shape ``[1, 3, H, W]``, sides multiples of the patch.
        region (RegionOfInterest | None, optional): See :meth:`FBClipModel.forward`. Defaults to ``None``.

    Returns:
        Explanation: The intermediate maps, and the model's own score and anomaly map.

    Raises:
        ValueError: If the size of the image does not fit the backbone, or its score is not finite.
    """
    with (
        _record(model.mvfbe) as mvfbe_calls,
        _record(model.mvfbe.foreground_mask) as mask_calls,
        _record(model.mvfbe.attention.gate) as gate_calls,
        _record(model.mvfbe.suppression) as suppression_calls,
        _record(model.alignment) as alignment_calls,
        _record(model.decision) as decision_calls,
    ):
        predictions = model(image, region)
    chunks = len(mvfbe_calls)
    (_, grid), _ = mvfbe_calls[0]
    attended = _join_chunks([tokens for ((given,), _) in suppression_calls for tokens in given], chunks)
    suppressed = _join_chunks([tokens for _, result in suppression_calls for tokens in result], chunks)
    embeddings = _join_chunks([embedding for (given, _), _ in alignment_calls for embedding in given], chunks)
    (_, text_features), _ = alignment_calls[0]
    patch_map = torch.cat([probability for _, probability in alignment_calls])[:, 1:].unflatten(1, (1, *grid))
    view_count = len(model.mvfbe.views)

    def to_map(values: torch.Tensor) -> torch.Tensor:
        """Bring values of the patches of all views, ``[V, L]``, to the image's patches, ``[h, w]``."""
        return model.tiling.blend(values.unflatten(1, (1, *grid)))[0, 0].cpu()

    def to_maps(values: list[torch.Tensor]) -> torch.Tensor:
        """Bring values of the tokens, each ``[V, 1 + L]``, to ``[N, V, h, w]``, without the class token."""
        maps = torch.stack([to_map(one[:, 1:]) for one in values])
        return maps.unflatten(0, (-1, view_count))

    return Explanation(
        layers=tuple(model.backbone.feature_layers),
        views=tuple(model.mvfbe.views),
        foreground_masks=torch.stack([to_map(mask) for mask in _join_chunks([mask for _, mask in mask_calls], chunks)]),
        gates=to_maps([gate.squeeze(-1) for gate in _join_chunks([gate for _, gate in gate_calls], chunks)]),
        suppression_strength=to_maps([
            (before - after).norm(dim=-1) / before.norm(dim=-1)
            for before, after in zip(attended, suppressed, strict=True)
        ]),
        similarities=to_maps([
            similarity(embedding, text_features).diff(dim=-1).squeeze(-1) for embedding in embeddings
        ]),
        layer_weights=model.alignment.scale_weights.softmax(dim=0)[: len(model.backbone.feature_layers)].cpu(),
        patch_map=model.tiling.join(patch_map)[0, 0].cpu(),
        anomaly_map=predictions.anomaly_map[0].cpu(),
        pred_score=predictions.pred_score[0].cpu(),
        reference_maps=_compare(model, model.decision, decision_calls) if isinstance(model.decision, FewShot) else None,
    )


def _compare(model: FBClipModel, few_shot: FewShot, calls: list[Call]) -> ReferenceMaps:
    """Collect the comparison with good photographs."""
    matches = [few_shot.match(outputs) for (outputs,), _ in calls]
    deviations = torch.cat([values for _, values in calls])
    distances = torch.cat([match.distance for match in matches]).view_as(deviations)
    rows = torch.cat([match.row for match in matches]).unflatten(1, deviations.shape[-2:])
    joined = model.tiling.join(deviations)
    return ReferenceMaps(
        distances=model.tiling.join(distances)[0, 0].cpu(),
        rows=model.tiling.pick(rows).cpu(),
        deviations=joined[0, 0].cpu(),
        probabilities=few_shot.calibration(joined)[0, 0].cpu(),
    )


def _join_chunks(values: list[torch.Tensor], chunks: int) -> list[torch.Tensor]:
    """Join values that were computed in chunks of an image's views."""
    number = len(values) // chunks
    return [torch.cat(values[index::number]) for index in range(number)]


@contextmanager
def _record(module: nn.Module) -> Generator[list[Call]]:
    """Keep the arguments and the result of every call of a module."""
    calls: list[Call] = []

    def keep(_: nn.Module, arguments: tuple[Any, ...], result: Any) -> None:  # noqa: ANN401 - whatever modules give
        calls.append((arguments, result))

    with module.register_forward_hook(keep):
        yield calls
