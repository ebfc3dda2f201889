# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Decisions: from the model's intermediate outputs to its prediction. The paper's decision uses only the text."""

from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from .anomaly_map import MapValues

ImageScore = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Computes image scores ``[B]`` from the class token's abnormal probability ``[B]`` and the map's score ``[B]``."""

TOP_SHARE = 0.01
"""Share of the area that :func:`top_mean` averages."""

TOP_PATCHES = 2
"""Number of patches that :func:`top_patches` averages."""


def top_mean(anomaly_map: torch.Tensor, area: int) -> torch.Tensor:
    """Average the highest pixels of each map: a hundredth of an area.

    Args:
        anomaly_map (torch.Tensor): The maps, shape ``[B, H, W]``.
        area (int): The area in pixels.

    Returns:
        torch.Tensor: The means, shape ``[B]``.

    Example:
        >>> top_mean(torch.arange(200.0).reshape(1, 10, 20), area=200)
        tensor([198.5000])
    """
    return anomaly_map.flatten(1).topk(max(round(TOP_SHARE * area), 1), dim=1).values.mean(dim=1)


def top_patches(patch_map: torch.Tensor, inside: torch.Tensor | None = None) -> torch.Tensor:
    """Average the two highest patches of each map: a defect may be no larger than one, and smoothing would drown it.

    Args:
        patch_map (torch.Tensor): The maps, shape ``[B, 1, h, w]``.
        inside (torch.Tensor | None, optional): The patches that count, bool ``[1, 1, h, w]``. ``None``: all. Defaults
            to ``None``.

    Returns:
        torch.Tensor: The means, shape ``[B]``.

    Example:
        >>> top_patches(torch.arange(12.0).reshape(1, 1, 3, 4))
        tensor([10.5000])
    """
    values = patch_map.flatten(1)
    if inside is not None:
        values = values[:, inside.flatten().nonzero().flatten()]
    return values.topk(min(TOP_PATCHES, values.shape[1]), dim=1).values.mean(dim=1)


def class_token_score(class_score: torch.Tensor, map_score: torch.Tensor) -> torch.Tensor:
    """Return the class token's probability, as the paper does."""
    del map_score
    return class_score


def highest_score(class_score: torch.Tensor, map_score: torch.Tensor) -> torch.Tensor:
    """Return the mean of the map's highest values."""
    del class_score
    return map_score


def mean_score(class_score: torch.Tensor, map_score: torch.Tensor) -> torch.Tensor:
    """Return the mean of both."""
    return (class_score + map_score) / 2


IMAGE_SCORES: dict[str, ImageScore] = {"class_token": class_token_score, "map": highest_score, "both": mean_score}
"""Scores by name."""


class IntermediateOutputs(NamedTuple):
    """Intermediate outputs for the anomaly map and the loss.

    Attributes:
        class_score (torch.Tensor): Abnormal probability of each image's class token, shape ``[B]``, 0..1.
        patch_map (torch.Tensor): Abnormal probability of each patch, shape ``[B, 1, h, w]``, 0..1.
        embeddings (list[torch.Tensor]): Maps in the joint space, for each view of each layer, each ``[B, 1 + L, D]``.
        text_features (torch.Tensor): The text features, shape ``[2, D]``.
        layer_tokens (list[torch.Tensor]): Tokens of the chosen layers of the frozen CLIP, each ``[B, 1 + L, C]``.
    """

    class_score: torch.Tensor
    patch_map: torch.Tensor
    embeddings: list[torch.Tensor]
    text_features: torch.Tensor
    layer_tokens: list[torch.Tensor]


class ModelOutput(NamedTuple):
    """The model's predictions of a batch of images.

    Attributes:
        pred_score (torch.Tensor): Abnormal probability of each image, shape ``[B]``, 0..1.
        anomaly_map (torch.Tensor): Abnormal probability of each pixel, shape ``[B, H, W]``, 0..1.
    """

    pred_score: torch.Tensor
    anomaly_map: torch.Tensor

    def limited_to(self, pixels: torch.Tensor) -> "ModelOutput":
        """Set the maps to 0 outside some pixels, bool ``[H, W]``."""
        # Not a product: it could be -0, and an anomaly map has no negative values.
        return self._replace(anomaly_map=torch.where(pixels, self.anomaly_map, 0.0))

    def require_finite(self) -> None:
        """Raise a ``ValueError`` that names the images without a finite score."""
        if torch.compiler.is_compiling() or self.pred_score.isfinite().all():
            return
        faulty = (~self.pred_score.isfinite()).nonzero().flatten().tolist()
        msg = (
            f"Images {faulty} of the batch give no finite score: they have NaN, infinite or extreme values. Normalize "
            "them with CLIP's mean and standard deviation, as FBClip's pre-processor does."
        )
        raise ValueError(msg)


class Decision(nn.Module):
    """Decides how anomalous images are, in two steps: patches first, then pixels and images.

    Between the two, the model brings the patches' values to the size of the image.
    """

    @property
    def k_shot(self) -> int:
        """Number of reference images."""
        return 0

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the tensors from reference images, by name."""
        return dict(self.named_buffers())

    @abstractmethod
    def forward(self, outputs: IntermediateOutputs) -> torch.Tensor:
        """Compute how anomalous each patch is.

        Args:
            outputs (IntermediateOutputs): The model's outputs for the images.

        Returns:
            torch.Tensor: Value of each patch, shape ``[B, 1, h, w]``; higher is more anomalous.
        """

    @abstractmethod
    def predict(self, class_score: torch.Tensor | None, values: MapValues) -> ModelOutput:
        """Make the prediction.

        Args:
            class_score (torch.Tensor | None): Abnormal probability of each image's class token, shape ``[B]``;
                ``None`` with a region of interest, because the class token sees the whole image.
            values (MapValues): Results of :meth:`forward`, joined from all views.

        Returns:
            ModelOutput: Scores and anomaly maps.
        """


class ZeroShot(Decision):
    """Decides by the text, as the paper does.

    Args:
        image_score (ImageScore): Computes an image's score.
    """

    def __init__(self, image_score: ImageScore) -> None:
        super().__init__()
        self.image_score = image_score

    @staticmethod
    def forward(outputs: IntermediateOutputs) -> torch.Tensor:
        """Return the text's probabilities. See :meth:`Decision.forward`."""
        return outputs.patch_map

    def predict(self, class_score: torch.Tensor | None, values: MapValues) -> ModelOutput:
        """Score the image, and leave the map unchanged. See :meth:`Decision.predict`."""
        map_score = top_mean(values.pixels, values.area)
        score = map_score if class_score is None else self.image_score(class_score, map_score)
        return ModelOutput(score, values.pixels)
