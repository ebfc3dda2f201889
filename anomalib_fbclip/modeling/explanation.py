# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""What lies between an image and its anomaly map: the intermediate maps of :class:`FBClipModel`."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torchvision.transforms.v2.functional import to_dtype, to_image

from anomalib_fbclip.contract.photographs import read_photograph

from .alignment import similarity
from .fbclip import FBClipModel

ImageSource = str | Path | Image.Image | NDArray | torch.Tensor
"""A file, an image of Pillow, RGB values ``[H, W, 3]`` in an array, or ``[3, H, W]`` in a tensor."""

DIMENSIONS = CHANNELS = 3


class Explanation(NamedTuple):
    """How FB-CLIP comes to its answer for one image. All maps are on the CPU.

    There are N layers and V views of each, and the patches of the image form a grid of ``h x w``.

    Attributes:
        layers (tuple[int, ...]): The layers, counted from 1.
        views (tuple[str, ...]): Names of the views.
        foreground_masks (torch.Tensor): Soft foreground mask of each layer, of 1 (foreground) and ½,
            shape ``[N, h, w]``.
        gates (torch.Tensor): Share of each token that the attention gives to its foreground branch, 0..1,
            shape ``[N, V, h, w]``.
        removals (torch.Tensor): Length of what background suppression takes from each token, in lengths of the token,
            shape ``[N, V, h, w]``; 0 where it is switched off.
        similarities (torch.Tensor): Similarity of each token to the abnormal state less that to the normal state, over
            the temperature, before the maps are merged, shape ``[N, V, h, w]``; above 0, it is more like the abnormal.
        layer_weights (torch.Tensor): Weight of each layer, shape ``[N]``. The sigmoid of all similarities' sum with
            these weights is the patch map.
        patch_map (torch.Tensor): Abnormal probability of each patch, shape ``[h, w]``.
        anomaly_map (torch.Tensor): The model's anomaly map, 0..1, shape ``[H, W]`` of the model's input.
        pred_score (torch.Tensor): The model's score of the image, 0..1, a scalar.
    """

    layers: tuple[int, ...]
    views: tuple[str, ...]
    foreground_masks: torch.Tensor
    gates: torch.Tensor
    removals: torch.Tensor
    similarities: torch.Tensor
    layer_weights: torch.Tensor
    patch_map: torch.Tensor
    anomaly_map: torch.Tensor
    pred_score: torch.Tensor


@torch.no_grad()
def explain(model: FBClipModel, image: torch.Tensor) -> Explanation:
    """Run the model on one image and keep what its parts give.

    Args:
        model (FBClipModel): The model.
        image (torch.Tensor): A normalised image, shape ``[1, 3, H, W]``, sides multiples of the patch.

    Returns:
        Explanation: The intermediate maps, and the model's own score and anomaly map.

    Raises:
        ValueError: If the size of the image does not fit the backbone, or it gives a score that is not finite.
    """
    with (
        _record(model.mvfbe) as mvfbe_calls,
        _record(model.mvfbe.foreground_mask) as mask_calls,
        _record(model.mvfbe.attention.gate) as gate_calls,
        _record(model.mvfbe.suppression) as suppression_calls,
        _record(model.alignment) as alignment_calls,
    ):
        predictions = model(image)
    (((_, grid), _),) = mvfbe_calls
    (((attended,), suppressed),) = suppression_calls
    (((embeddings, text_features), probability),) = alignment_calls
    view_count = len(model.mvfbe.views)

    def to_maps(values: list[torch.Tensor]) -> torch.Tensor:
        """Bring values of each layer and view, each ``[1, 1 + L]``, to ``[N, V, h, w]``, without the class token."""
        patches = torch.cat(values)[:, 1:]
        return patches.unflatten(1, grid).unflatten(0, (-1, view_count)).cpu()

    return Explanation(
        layers=tuple(model.backbone.feature_layers),
        views=tuple(model.mvfbe.views),
        foreground_masks=torch.cat([mask for _, mask in mask_calls]).unflatten(1, grid).cpu(),
        gates=to_maps([gate.squeeze(-1) for _, gate in gate_calls]),
        removals=to_maps([
            (before - after).norm(dim=-1) / before.norm(dim=-1)
            for before, after in zip(attended, suppressed, strict=True)
        ]),
        similarities=to_maps([
            similarity(embedding, text_features).diff(dim=-1).squeeze(-1) for embedding in embeddings
        ]),
        layer_weights=model.alignment.scale_weights.softmax(dim=0)[: len(mask_calls)].cpu(),
        patch_map=probability[0, 1:].unflatten(0, grid).cpu(),
        anomaly_map=predictions.anomaly_map[0].cpu(),
        pred_score=predictions.pred_score[0].cpu(),
    )


@contextmanager
def _record(module: nn.Module) -> Generator[list[tuple[tuple[Any, ...], Any]]]:
    """Keep the arguments and the result of every call of a module."""
    calls: list[tuple[tuple[Any, ...], Any]] = []
    with module.register_forward_hook(lambda _, arguments, result: calls.append((arguments, result))):
        yield calls


def load_image(source: ImageSource, minimum_side: int = 1) -> torch.Tensor:
    """Get an image from where it is.

    Args:
        source (ImageSource): The image. A file or an image of Pillow is turned upright as its EXIF data say. In an
            array or a tensor, floating-point values lie in 0..1, and whole numbers fill their type's range.
        minimum_side (int, optional): Pixels that each side of a file or an image of Pillow must have. Defaults to
            ``1``.

    Returns:
        torch.Tensor: RGB values 0..1, shape ``[3, H, W]``.

    Raises:
        ImageError: If a file or an image of Pillow can't be read, the range of its values is not known, or it is too
            small.
        ValueError: If the values are none of an RGB image.
    """
    if isinstance(source, str | Path | Image.Image):
        source = read_photograph(source, upright=True, minimum_side=minimum_side)
    if source.ndim == DIMENSIONS:
        image = to_dtype(to_image(source), torch.float32, scale=True)
        if len(image) == CHANNELS and image.numel() and image.min() >= 0 and image.max() <= 1:
            return image
    msg = (
        "An image is a path, an image of Pillow, or RGB values: an array [H, W, 3] or a tensor [3, H, W] of whole "
        f"numbers or of fractions 0..1; not {source.dtype} {list(source.shape)}."
    )
    raise ValueError(msg)
