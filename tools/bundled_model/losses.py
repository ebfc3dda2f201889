# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Losses of the locked-image tuning, and the regions of patches."""

import torch
from torch.nn import functional as F  # noqa: N812

from anomalib_fbclip.modeling.alignment import similarity
from tools.bundled_model.images import DEFECT

AMBIGUOUS = -1
"""Region of a patch that a defect only touches."""

TOUCHED, COVERED = 0.02, 0.2
"""Shares of a patch: a patch is normal if a defect covers at most the first, and a defect from the second on."""


def caption_loss(pooled: torch.Tensor, caption_features: torch.Tensor) -> torch.Tensor:
    """Match images and captions, as CLIP does.

    Args:
        pooled (torch.Tensor): Embedded images ``[B, D]``.
        caption_features (torch.Tensor): Their captions ``[B, D]``, normalized.

    Returns:
        torch.Tensor: The loss, a scalar.
    """
    logits = similarity(pooled, caption_features)
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.mT, own)) / 2


def region_loss(
    embeddings: torch.Tensor,
    regions: torch.Tensor,
    of_region: torch.Tensor,
    word_features: torch.Tensor,
) -> torch.Tensor:
    """Match patches and the words of their regions, among all words in the batch.

    Args:
        embeddings (torch.Tensor): Embedded patches ``[B, L, D]``.
        regions (torch.Tensor): Region of each patch ``[B, L]``.
        of_region (torch.Tensor): Index of the words of each image's regions ``[B, 3]``.
        word_features (torch.Tensor): The words ``[W, D]``, normalized.

    Returns:
        torch.Tensor: The loss, a scalar.
    """
    target = of_region.gather(1, regions.clamp(min=0))
    losses = F.cross_entropy(similarity(embeddings, word_features).mT, target, reduction="none")
    return balanced_mean(losses, regions)


def state_loss(embeddings: torch.Tensor, regions: torch.Tensor, state_features: torch.Tensor) -> torch.Tensor:
    """Separate defective patches from others by the words of the two states.

    Args:
        embeddings (torch.Tensor): Embedded patches ``[B, L, D]``.
        regions (torch.Tensor): Region of each patch ``[B, L]``.
        state_features (torch.Tensor): Words of the normal and of the abnormal state ``[2, D]``, normalized.

    Returns:
        torch.Tensor: The loss, a scalar.
    """
    target = (regions == DEFECT).long()
    return balanced_mean(F.cross_entropy(similarity(embeddings, state_features).mT, target, reduction="none"), regions)


def image_state_loss(pooled: torch.Tensor, regions: torch.Tensor, state_features: torch.Tensor) -> torch.Tensor:
    """Separate defective images from others by the words of the two states.

    Args:
        pooled (torch.Tensor): Embedded images ``[B, D]``.
        regions (torch.Tensor): Background, object or defect of each pixel ``[B, H, W]``.
        state_features (torch.Tensor): Words of the normal and of the abnormal state ``[2, D]``, normalized.

    Returns:
        torch.Tensor: The loss, a scalar.
    """
    anomalous = (regions == DEFECT).flatten(1).any(dim=1).long()
    return F.cross_entropy(similarity(pooled, state_features), anomalous)


def patch_regions(regions: torch.Tensor, patch_size: tuple[int, int]) -> torch.Tensor:
    """Find the region of each patch.

    Args:
        regions (torch.Tensor): Background, object or defect ``[B, H, W]``.
        patch_size (tuple[int, int]): Height and width of a patch in pixels.

    Returns:
        torch.Tensor: Region of each patch, or ``AMBIGUOUS``, shape ``[B, L]``.
    """
    shares = F.avg_pool2d(F.one_hot(regions.long(), 3).permute(0, 3, 1, 2).float(), patch_size).flatten(2)
    result = shares[:, :DEFECT].argmax(dim=1)
    result[shares[:, DEFECT] > TOUCHED] = AMBIGUOUS
    result[shares[:, DEFECT] >= COVERED] = DEFECT
    return result


def balanced_mean(losses: torch.Tensor, regions: torch.Tensor) -> torch.Tensor:
    """Average losses with equal weights for background, object and defect, whatever their sizes.

    Args:
        losses (torch.Tensor): Loss of each patch, any shape.
        regions (torch.Tensor): Region of each patch, the same shape; ambiguous ones are left out.

    Returns:
        torch.Tensor: The average, a scalar.
    """
    means = [losses[regions == region].mean() for region in range(3) if (regions == region).any()]
    return torch.stack(means).mean()
