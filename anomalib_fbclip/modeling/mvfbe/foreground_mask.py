# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The soft foreground mask: separates the object's patches from those of the background (paper: MVFBE)."""

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from anomalib_fbclip.modeling.precision import full_precision, to_dtype, to_full

from .linear_maps import split_tokens

NEIGHBORHOOD = 3
"""Number of patches along the flattened sequence, with whose mean a patch is compared for its local saliency."""

SMOOTHING = 5
"""Width of the box filter over the scores, in patches along the flattened sequence."""


CUE_WEIGHT, CHANGE_WEIGHT = 0.3, 0.1
"""Weight of each of the first three cues, and of the change since the previous chosen layer."""

THRESHOLD = 0.5
"""Score above which a patch is foreground."""


class SoftForegroundMask(nn.Module):
    r"""Marks each patch as foreground (1) or as probable background (½).

    The score of a patch :math:`x_i` averages four cues, each scaled to 0..1 over the image's patches: its distance from
    its neighbors, from the image's mean patch, from the class token's direction :math:`c`, and from itself in the
    previous chosen layer, :math:`q_i`. The score is smoothed along the sequence, and compared with a threshold.

    .. math::
        s_i &= 0.3 \, \overline{\lVert x_i - \tfrac{1}{3} (x_{i-1} + x_i + x_{i+1}) \rVert}
            + 0.3 \, \overline{\lVert x_i - \tfrac{1}{L} \textstyle\sum_j x_j \rVert}
            + 0.3 \, \overline{1 - \cos(x_i, c)}
            + 0.1 \, \overline{\lVert x_i - q_i \rVert} \\
        f_i &= 1 \text{ if } \operatorname{smooth}(s)_i > 0.5 \text{ else } \tfrac{1}{2}

    The bar is the scaling to 0..1.

    Example:
        >>> mask = SoftForegroundMask()
        >>> mask(torch.randn(2, 1 + 49, 32)).shape
        torch.Size([2, 49])
    """

    def forward(self, tokens: torch.Tensor, previous_tokens: torch.Tensor | None = None) -> torch.Tensor:
        """Compute the mask of one layer.

        Args:
            tokens (torch.Tensor): Tokens of the layer, class token first. Shape ``[B, 1 + L, C]``, L at least 3.
            previous_tokens (torch.Tensor | None): Tokens of the previous chosen layer; ``None`` for the first layer.

        Returns:
            torch.Tensor: Foreground mask of values 1 and ½, shape ``[B, L]``. The background mask is 1 minus it.
        """
        # Rounding would sometimes move a score across the threshold.
        with full_precision(tokens.device):
            score = self.smooth(self.score(tokens, previous_tokens))
            return to_dtype(torch.where(score > THRESHOLD, 1.0, 0.5), tokens.dtype)

    @staticmethod
    def score(tokens: torch.Tensor, previous_tokens: torch.Tensor | None = None) -> torch.Tensor:
        """Combine the four cues into a score of each patch, 0..1, shape ``[B, L]``."""
        tokens = to_full(tokens)
        class_token, patches = split_tokens(tokens)
        padded = F.pad(patches, (0, 0, 1, 1))
        before, after = (padded.narrow(1, start, patches.shape[1]) for start in (0, 2))
        local = (patches - (before + patches + after) / NEIGHBORHOOD).norm(dim=-1)
        center = (patches - patches.mean(dim=1, keepdim=True)).norm(dim=-1)
        disagreement = 1 - F.cosine_similarity(patches, class_token, dim=-1)
        score = (
            CUE_WEIGHT * min_max_normalize(local)
            + CUE_WEIGHT * min_max_normalize(center)
            + CUE_WEIGHT * min_max_normalize(disagreement)
        )
        if previous_tokens is None:
            return score
        change = (patches - split_tokens(to_full(previous_tokens))[1]).norm(dim=-1)
        return score + CHANGE_WEIGHT * min_max_normalize(change)

    @staticmethod
    def smooth(score: torch.Tensor) -> torch.Tensor:
        """Average each score with its neighbors in the sequence, mirrored at its ends."""
        padded = F.pad(score.unsqueeze(1), (SMOOTHING // 2, SMOOTHING // 2), mode="reflect")
        return F.avg_pool1d(padded, SMOOTHING, stride=1).squeeze(1)


def min_max_normalize(values: torch.Tensor) -> torch.Tensor:
    """Scale each row of ``[B, L]`` to 0..1; a constant row becomes 0."""
    low, high = values.amin(dim=1, keepdim=True), values.amax(dim=1, keepdim=True)
    return (values - low) / (high - low).clamp(min=1e-6)
