# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""From the intermediate outputs of the model to its prediction, and the paper's way there: by the text alone."""

from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

ImageScore = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]
"""From the class token's abnormal probability ``[B]``, the anomaly map ``[B, H, W]`` and the area that its score goes
by to image scores ``[B]``."""

TOP_SHARE = 0.01
"""Share of an area whose mean is the image's score."""


def top_mean(anomaly_map: torch.Tensor, area: int) -> torch.Tensor:
    """Average the highest pixels of maps ``[B, H, W]``, as many as a hundredth of an area has, shape ``[B]``.

    Args:
        anomaly_map (torch.Tensor): The maps.
        area (int): Pixels of the area. With that of a tile, a small place decides in a large map, too.

    Returns:
        torch.Tensor: The means.

    Example:
        >>> top_mean(torch.arange(200.0).reshape(1, 10, 20), area=200)
        tensor([198.5000])
    """
    return anomaly_map.flatten(1).topk(max(round(TOP_SHARE * area), 1), dim=1).values.mean(dim=1)


def class_token_score(class_score: torch.Tensor, anomaly_map: torch.Tensor, area: int) -> torch.Tensor:
    """Take the class token's probability, as the paper does."""
    del anomaly_map, area
    return class_score


def map_score(class_score: torch.Tensor, anomaly_map: torch.Tensor, area: int) -> torch.Tensor:
    """Take the mean of the map's highest pixels."""
    del class_score
    return top_mean(anomaly_map, area)


def mean_score(class_score: torch.Tensor, anomaly_map: torch.Tensor, area: int) -> torch.Tensor:
    """Take the mean of both."""
    return (class_score + top_mean(anomaly_map, area)) / 2


IMAGE_SCORES: dict[str, ImageScore] = {"class_token": class_token_score, "map": map_score, "both": mean_score}
"""Scores by name."""


class IntermediateOutputs(NamedTuple):
    """Intermediate outputs for the anomaly map and the loss.

    Attributes:
        class_score (torch.Tensor): Abnormal probability of each image's class token, shape ``[B]``, 0..1.
        patch_map (torch.Tensor): Abnormal probability of each patch, shape ``[B, 1, h, w]``, 0..1.
        embeddings (list[torch.Tensor]): Maps in the joint space, layer by layer and in each view by view, each
            ``[B, 1 + L, D]``.
        text_features (torch.Tensor): The text features that they were compared with, shape ``[2, D]``.
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


class Decision(nn.Module):
    """Decides how anomalous images are, in two steps: patches first, then pixels and images.

    Between the two, the model brings the patches' values to the size of the image.
    """

    @property
    def k_shot(self) -> int:
        """Number of reference images that it comes from."""
        return 0

    def tensors(self) -> dict[str, torch.Tensor]:
        """All that it knows of reference images, by name."""
        return dict(self.named_buffers())

    @abstractmethod
    def forward(self, outputs: IntermediateOutputs) -> torch.Tensor:
        """Tell how anomalous each patch is.

        Args:
            outputs (IntermediateOutputs): What the model found in the images.

        Returns:
            torch.Tensor: A value of each patch, shape ``[B, 1, h, w]``, higher for more anomalous ones.
        """

    @abstractmethod
    def predict(self, class_score: torch.Tensor | None, pixel_values: torch.Tensor, area: int) -> ModelOutput:
        """Make the prediction.

        Args:
            class_score (torch.Tensor | None): Abnormal probability of each image's class token, shape ``[B]``;
                ``None`` with a region of interest, because the class token sees all of the image.
            pixel_values (torch.Tensor): What :meth:`forward` gave, upsampled and smoothed, shape ``[B, H, W]``.
            area (int): Pixels of the area that the score of the map goes by.

        Returns:
            ModelOutput: Scores and anomaly maps.
        """


class ZeroShot(Decision):
    """Decides by the text, as the paper does.

    Args:
        image_score (ImageScore): From the class token's probability and the anomaly map to the image's score.
    """

    def __init__(self, image_score: ImageScore) -> None:
        super().__init__()
        self.image_score = image_score

    @staticmethod
    def forward(outputs: IntermediateOutputs) -> torch.Tensor:
        """Take the text's probabilities. See :meth:`Decision.forward`."""
        return outputs.patch_map

    def predict(self, class_score: torch.Tensor | None, pixel_values: torch.Tensor, area: int) -> ModelOutput:
        """Take the map as it is, and score the image. See :meth:`Decision.predict`."""
        if class_score is None:
            return ModelOutput(top_mean(pixel_values, area), pixel_values)
        return ModelOutput(self.image_score(class_score, pixel_values, area), pixel_values)
