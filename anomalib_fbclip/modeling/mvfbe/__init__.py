# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Multi-view foreground-background enhancement: mask, views, attention and suppression (paper: MVFBE)."""

from .attention import PAPER_SIZE, AttentionBranch, AttentionSize, ForegroundBackgroundAttention
from .foreground_mask import SoftForegroundMask
from .fused import FusedAttention
from .mvfbe import MultiViewDisentanglement
from .suppression import BackgroundSuppression
from .views import VIEWS, IdentityView, SemanticView, SpatialView, create_views

__all__ = [
    "PAPER_SIZE",
    "VIEWS",
    "AttentionBranch",
    "AttentionSize",
    "BackgroundSuppression",
    "ForegroundBackgroundAttention",
    "FusedAttention",
    "IdentityView",
    "MultiViewDisentanglement",
    "SemanticView",
    "SoftForegroundMask",
    "SpatialView",
    "create_views",
]
