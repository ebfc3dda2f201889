# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Losses for training the adapters on an auxiliary dataset."""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from .alignment import similarity
from .decision import IntermediateOutputs
from .precision import to_full

GAMMA = 4.0
"""Exponent of the focal loss."""

DICE_WEIGHT, ENTROPY_WEIGHT, MARGIN_WEIGHT = 0.2, 1.0, 0.5
"""Weights of the dice loss, and of the terms of the semantic consistency regularization."""


class LossParts(NamedTuple):
    """The weighted terms of the training loss, each a scalar.

    Attributes:
        image_focal (torch.Tensor): Focal loss of the image scores.
        pixel_focal (torch.Tensor): Focal loss of the upsampled patch maps.
        pixel_dice (torch.Tensor): Dice loss of the upsampled patch maps.
        consistency (torch.Tensor): Semantic consistency regularization.
    """

    image_focal: torch.Tensor
    pixel_focal: torch.Tensor
    pixel_dice: torch.Tensor
    consistency: torch.Tensor

    @property
    def total(self) -> torch.Tensor:
        """The sum of all terms."""
        return torch.stack(list(self)).sum()


class FBClipLoss(nn.Module):
    r"""Focal loss on scores and maps, dice loss on maps, and the semantic consistency regularization (paper: SCR).

    .. math::
        L = L_{focal}(\hat{s}, s) + L_{focal}(\hat{M}, M) + 0.2 \, L_{dice}(\hat{M}, M) + \lambda_c L_{SCR}

    :math:`\hat{s}` are the scores and :math:`\hat{M}` the patch maps, upsampled to the masks :math:`M`.

    Args:
        consistency_weight (float): Weight :math:`\lambda_c` of the semantic consistency regularization.
    """

    def __init__(self, consistency_weight: float = 0.15) -> None:
        super().__init__()
        self.consistency_weight = consistency_weight

    def forward(self, outputs: IntermediateOutputs, gt_label: torch.Tensor, gt_mask: torch.Tensor) -> LossParts:
        """Compute the loss of a batch.

        Args:
            outputs (IntermediateOutputs): The model's outputs for the batch.
            gt_label (torch.Tensor): Whether an image is anomalous, shape ``[B]``.
            gt_mask (torch.Tensor): Values above 0.5 for anomalous pixels, shape ``[B, H, W]``.

        Returns:
            LossParts: The weighted terms.
        """
        label = gt_label.float()
        mask = (gt_mask > 0.5).float()  # noqa: PLR2004
        # Cross-entropy of probabilities is not safe in half precision: autocast refuses it.
        with torch.autocast(mask.device.type, enabled=False):
            patch_map = outputs.patch_map.float()
            upsampled = F.interpolate(patch_map, size=mask.shape[-2:], mode="bilinear", align_corners=False)
            probability = upsampled.squeeze(1)
            consistency = semantic_consistency(outputs.embeddings[-1], outputs.text_features)
            return LossParts(
                image_focal=focal_loss(outputs.class_score.float(), label),
                pixel_focal=focal_loss(probability, mask),
                pixel_dice=DICE_WEIGHT * dice_loss(probability, mask),
                consistency=self.consistency_weight * consistency.float(),
            )


def focal_loss(probability: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    r"""Compute binary cross-entropy that fades for correct entries, averaged over all entries.

    .. math::
        L_{focal} = -\frac{1}{n} \sum_i (1 - p_i)^4 \log p_i

    :math:`p_i` is the probability of the target.

    Args:
        probability (torch.Tensor): Probabilities, any shape.
        target (torch.Tensor): 0 or 1, the same shape.

    Returns:
        torch.Tensor: The loss, a scalar.

    Example:
        >>> focal_loss(torch.tensor([0.9, 0.5]), torch.tensor([1.0, 0.0]))
        tensor(0.0217)
    """
    cross_entropy = F.binary_cross_entropy(probability, target, reduction="none")
    probability_of_target = torch.where(target == 1, probability, 1 - probability)
    return (cross_entropy * (1 - probability_of_target).pow(GAMMA)).mean()


def dice_loss(probability: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    r"""Compute one minus the soft dice coefficient, averaged over the images.

    .. math::
        L_{dice} = 1 - \frac{2 \sum_i p_i y_i + 1}{\sum_i p_i + \sum_i y_i + 1}

    Args:
        probability (torch.Tensor): Probabilities :math:`p`, shape ``[B, H, W]``.
        target (torch.Tensor): 0 or 1, :math:`y`, shape ``[B, H, W]``.

    Returns:
        torch.Tensor: The loss, a scalar.

    Example:
        >>> dice_loss(torch.ones(1, 2, 2), torch.ones(1, 2, 2))
        tensor(0.)
    """
    intersection = (probability * target).sum(dim=(-2, -1))
    total = probability.sum(dim=(-2, -1)) + target.sum(dim=(-2, -1))
    return 1 - ((2 * intersection + 1) / (total + 1)).mean()


def semantic_consistency(embedding: torch.Tensor, text_features: torch.Tensor) -> torch.Tensor:
    r"""Favor embeddings that are clearly in one state: low entropy, and a margin between the two (paper: SCR).

    With the similarities :math:`s_0, s_1` of the mean token to the normal and the abnormal state, averaged over images:

    .. math::
        L_{SCR} = H(\operatorname{softmax}(s)) + \tfrac{1}{2} \max(0, 1 - |s_1 - s_0|)

    Args:
        embedding (torch.Tensor): Last map in the joint space, shape ``[B, 1 + L, D]``.
        text_features (torch.Tensor): Normalized text features, normal state first, shape ``[2, D]``.

    Returns:
        torch.Tensor: The regularization, a scalar.
    """
    similarities = similarity(to_full(embedding).mean(dim=1), text_features)
    probability = similarities.softmax(dim=-1)
    entropy = -(probability * (probability + 1e-8).log()).sum(dim=-1).mean()
    margin = F.relu(1 - similarities.diff(dim=-1).abs()).mean()
    return ENTROPY_WEIGHT * entropy + MARGIN_WEIGHT * margin
