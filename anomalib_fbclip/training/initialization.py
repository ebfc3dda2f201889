# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Initial weights for a CLIP with little training data."""

import open_clip
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

NOISE_VARIANCE = 0.01
"""What is added to the variance of patches before they are whitened: less is mostly a camera's noise."""


@torch.no_grad()
def initialize(clip: open_clip.CLIP, sample: torch.Tensor) -> None:
    """Initialize a CLIP that has little training data.

    Patches are whitened, so that fine texture counts as much as color; patches that are near each other get positions
    that are alike; the image tower's attention starts near the identity (Trockman and Kolter, Mimetic Initialization of
    Self-Attention Layers, 2023); and tokens get embeddings that outweigh the padding.

    Args:
        clip (open_clip.CLIP): The CLIP, changed in place. Its patches have as many values as its image tokens.
        sample (torch.Tensor): Images, normalized, shape ``[N, 3, H, W]``.
    """
    visual = clip.visual
    visual.conv1.weight.copy_(0.5 * whitening(sample, visual.conv1.kernel_size).view_as(visual.conv1.weight))
    visual.positional_embedding[1:] = 0.7 * waves(visual.grid_size, visual.conv1.out_channels)
    for block in visual.transformer.resblocks:
        _imitate_trained_attention(block.attn)
    clip.token_embedding.weight.normal_(std=0.1)


def whitening(images: torch.Tensor, patch_size: tuple[int, int]) -> torch.Tensor:
    """Find the linear map that makes the values of patches uncorrelated and, but for noise, of variance 1.

    Args:
        images (torch.Tensor): Images, shape ``[N, 3, H, W]``.
        patch_size (tuple[int, int]): Height and width of a patch in pixels.

    Returns:
        torch.Tensor: A row for each new value, a column for each value of a patch, the least variable first.
    """
    patches = F.unfold(images, patch_size, stride=patch_size).mT.flatten(0, 1)
    variances, directions = torch.linalg.eigh(patches.mT @ patches / len(patches))
    return (directions / (variances + NOISE_VARIANCE).sqrt()).mT


def waves(grid: tuple[int, int], width: int) -> torch.Tensor:
    """Give each patch of a grid sines and cosines of its row and of its column, shape ``[L, width]``."""
    rows, columns = grid
    frequencies = 100 ** -torch.linspace(0, 1, width // 4)
    row = torch.arange(rows).repeat_interleave(columns).outer(frequencies)
    column = torch.arange(columns).repeat(rows).outer(frequencies)
    return torch.cat([row.sin(), row.cos(), column.sin(), column.cos()], dim=1)


def _imitate_trained_attention(attention: nn.MultiheadAttention) -> None:
    """Start as trained layers are: each head compares tokens as they are, and a token's own value is taken off."""
    width, head_width = attention.embed_dim, attention.head_dim
    pairs = [
        _factors(0.7 * torch.randn(width, width) / width**0.5 + 0.7 * torch.eye(width), head_width)
        for _ in range(attention.num_heads)
    ]
    output, value = _factors(0.4 * torch.randn(width, width) / width**0.5 - 0.4 * torch.eye(width), width)
    queries, keys = (torch.cat(factors) for factors in zip(*((query.mT, key) for query, key in pairs), strict=True))
    attention.in_proj_weight.copy_(torch.cat([queries, keys, value]))
    attention.out_proj.weight.copy_(output)


def _factors(matrix: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Split a matrix into two of the given rank, whose product comes nearest to it."""
    left, scale, right = torch.linalg.svd(matrix)
    root = scale[:rank].sqrt()
    return left[:, :rank] * root, root.unsqueeze(1) * right[:rank]
