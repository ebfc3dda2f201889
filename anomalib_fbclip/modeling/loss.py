# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The losses with which the adapters are trained on an auxiliary dataset."""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812


class LossParts(NamedTuple):
    """The terms of the training loss, each a scalar that is already weighted.

    Attributes:
        image_focal (torch.Tensor): Focal loss of the image scores.
        pixel_focal (torch.Tensor): Focal loss of the upsampled patch maps.
        pixel_dice (torch.Tensor): Dice loss of the upsampled patch maps.
        consistency (torch.Tensor): Semantic consistency regularisation.
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
    """Focal loss on scores and maps, dice loss on maps, and the semantic consistency regularisation.

    Args:
        dice_weight (float): Weight of the dice loss.
        consistency_weight (float): Weight of the semantic consistency regularisation.
    """

    def __init__(self, dice_weight: float = 0.2, consistency_weight: float = 0.15) -> None:
        super().__init__()
        self.dice_weight = dice_weight
        self.consistency_weight = consistency_weight

    def forward(
        self,
        pred_score: torch.Tensor,
        patch_map: torch.Tensor,
        consistency: torch.Tensor,
        gt_label: torch.Tensor,
        gt_mask: torch.Tensor,
    ) -> LossParts:
        """Compute the loss of a batch.

        Args:
            pred_score (torch.Tensor): Abnormal probability of each image, shape ``[B]``.
            patch_map (torch.Tensor): Abnormal probability of each patch, shape ``[B, 1, h, w]``.
            consistency (torch.Tensor): Semantic consistency regularisation, a scalar, not yet weighted.
            gt_label (torch.Tensor): Whether an image is anomalous, shape ``[B]``.
            gt_mask (torch.Tensor): Anomalous pixels, values above 0.5, shape ``[B, H, W]``.

        Returns:
            LossParts: The weighted terms.
        """
        label = gt_label.float()
        mask = (gt_mask > 0.5).float()  # noqa: PLR2004
        # Cross-entropy of probabilities is not safe in half precision: autocast refuses it.
        with torch.autocast(patch_map.device.type, enabled=False):
            upsampled = F.interpolate(patch_map.float(), size=mask.shape[-2:], mode="bilinear", align_corners=False)
            probability = upsampled.squeeze(1)
            return LossParts(
                image_focal=focal_loss(pred_score.float(), label),
                pixel_focal=focal_loss(probability, mask),
                pixel_dice=self.dice_weight * dice_loss(probability, mask),
                consistency=self.consistency_weight * consistency.float(),
            )


def focal_loss(probability: torch.Tensor, target: torch.Tensor, gamma: float = 4.0) -> torch.Tensor:
    """Binary cross-entropy that fades for what is already right, averaged over all entries.

    Args:
        probability (torch.Tensor): Probabilities, any shape.
        target (torch.Tensor): 0 or 1, the same shape.
        gamma (float): How fast the loss fades.

    Returns:
        torch.Tensor: The loss, a scalar.
    """
    cross_entropy = F.binary_cross_entropy(probability, target, reduction="none")
    probability_of_target = torch.where(target == 1, probability, 1 - probability)
    return (cross_entropy * (1 - probability_of_target).pow(gamma)).mean()


def dice_loss(probability: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """One minus the soft dice coefficient, averaged over the images.

    Args:
        probability (torch.Tensor): Probabilities, shape ``[B, H, W]``.
        target (torch.Tensor): 0 or 1, shape ``[B, H, W]``.

    Returns:
        torch.Tensor: The loss, a scalar.
    """
    intersection = (probability * target).sum(dim=(-2, -1))
    total = probability.sum(dim=(-2, -1)) + target.sum(dim=(-2, -1))
    return 1 - ((2 * intersection + 1) / (total + 1)).mean()
