# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Semantic alignment: image tokens against the two states of the text (paper: SCR and the anomaly score)."""

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from .precision import full_precision, to_full

TEMPERATURE = 0.07
"""Temperature of all cosine similarities between image and text."""


class TextAlignment(nn.Module):
    """Compares every token of every map with the text and merges the maps by learned weights of their layers.

    Args:
        views_per_layer (int): Maps that each layer gives, in a row.
        layer_weights (int): Number of learned weights. The reference has 6, of which it uses 5; all take part in the
            softmax.
    """

    def __init__(self, views_per_layer: int = 3, layer_weights: int = 6) -> None:
        super().__init__()
        self.views_per_layer = views_per_layer
        self.scale_weights = nn.Parameter(torch.full((layer_weights,), 1 / layer_weights))

    def forward(self, embeddings: list[torch.Tensor], text_features: torch.Tensor) -> torch.Tensor:
        """Compute the probability of each token to be abnormal.

        Args:
            embeddings (list[torch.Tensor]): Maps in the joint space, layer by layer, each ``[B, 1 + L, D]``.
            text_features (torch.Tensor): Normalised text features, normal state first, shape ``[2, D]``.

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


class SemanticConsistency(nn.Module):
    """Regularises the image embedding to take sides: low entropy over the states, and a margin between them.

    Args:
        entropy_weight (float): Weight of the entropy.
        margin_weight (float): Weight of the margin's hinge.
    """

    def __init__(self, entropy_weight: float = 1.0, margin_weight: float = 0.5) -> None:
        super().__init__()
        self.entropy_weight = entropy_weight
        self.margin_weight = margin_weight

    def forward(self, embedding: torch.Tensor, text_features: torch.Tensor) -> torch.Tensor:
        """Compute the regularisation of a batch.

        Args:
            embedding (torch.Tensor): Last map in the joint space, shape ``[B, 1 + L, D]``.
            text_features (torch.Tensor): Normalised text features, normal state first, shape ``[2, D]``.

        Returns:
            torch.Tensor: The loss, a scalar, not yet weighted.
        """
        similarities = similarity(to_full(embedding).mean(dim=1), text_features)
        probability = similarities.softmax(dim=-1)
        entropy = -(probability * (probability + 1e-8).log()).sum(dim=-1).mean()
        margin = F.relu(1 - similarities.diff(dim=-1).abs()).mean()
        return self.entropy_weight * entropy + self.margin_weight * margin


def similarity(embedding: torch.Tensor, text_features: torch.Tensor) -> torch.Tensor:
    """Cosine similarity over temperature between ``[..., D]`` and the ``[2, D]`` text features, ``[..., 2]``."""
    with full_precision(embedding.device):
        embedding, text_features = to_full(embedding), to_full(text_features)
        # Two products are divided by the length, instead of all of the embedding.
        length = embedding.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        return embedding @ text_features.mT / (TEMPERATURE * length)
