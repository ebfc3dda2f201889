# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Semantic alignment: image tokens compared with the text of the normal and abnormal states (paper: anomaly score)."""

import torch
from torch import nn

from .precision import full_precision, to_full

TEMPERATURE = 0.07
"""Temperature of the cosine similarities between image and text."""

NUM_LAYER_WEIGHTS = 6
"""Number of learned layer weights, and largest number of layers. The reference uses 5 of them, after a softmax over all
6."""


class TextAlignment(nn.Module):
    r"""Compares every token of every map with the text, and merges the maps with a learned weight for each layer.

    For token :math:`z_k` of map :math:`k`, of layer :math:`l(k)`, and text features :math:`t_0` (normal) and
    :math:`t_1` (abnormal):

    .. math::
        p = \operatorname{softmax}_{0, 1}\Bigl(\sum_k w_{l(k)} \frac{\cos(z_k, t)}{0.07}\Bigr)_1, \quad
        w = \operatorname{softmax}(\text{scale weights})

    The class token's probability is the image's score; those of the patches are the patch map.

    Args:
        views_per_layer (int): Number of consecutive maps of one layer.

    Example:
        >>> from torch.nn.functional import normalize
        >>> alignment = TextAlignment(views_per_layer=3)
        >>> maps = [torch.randn(2, 1 + 49, 16) for _ in range(15)]
        >>> alignment(maps, normalize(torch.randn(2, 16), dim=-1)).shape
        torch.Size([2, 50])
    """

    def __init__(self, views_per_layer: int) -> None:
        super().__init__()
        self.views_per_layer = views_per_layer
        self.scale_weights = nn.Parameter(torch.full((NUM_LAYER_WEIGHTS,), 1 / NUM_LAYER_WEIGHTS))

    def forward(self, embeddings: list[torch.Tensor], text_features: torch.Tensor) -> torch.Tensor:
        """Compute the probability that each token is abnormal.

        Args:
            embeddings (list[torch.Tensor]): Maps in the joint space, layer by layer, each ``[B, 1 + L, D]``.
            text_features (torch.Tensor): Normalized text features, normal state first, shape ``[2, D]``.

        Returns:
            torch.Tensor: Abnormal probability of each token, class token first, shape ``[B, 1 + L]``, 0..1.
        """
        with full_precision(text_features.device):
            layer_weights = to_full(self.scale_weights).softmax(dim=0)
            logits = torch.stack([
                layer_weights[index // self.views_per_layer] * similarity(embedding, text_features)
                for index, embedding in enumerate(embeddings)
            ]).sum(dim=0)
            return logits.softmax(dim=-1)[..., 1]


def similarity(embedding: torch.Tensor, text_features: torch.Tensor) -> torch.Tensor:
    """Cosine similarity over temperature between ``[..., D]`` and the ``[2, D]`` text features, ``[..., 2]``."""
    with full_precision(embedding.device):
        embedding, text_features = to_full(embedding), to_full(text_features)
        # Dividing two products by the length is cheaper than dividing the embedding.
        length = embedding.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        return embedding @ text_features.mT / (TEMPERATURE * length)
