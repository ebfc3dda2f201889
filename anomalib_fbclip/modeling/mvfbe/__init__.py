# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Multi-view foreground-background disentanglement: mask, views, attention and suppression (paper: MVFBE)."""

from .attention import (
    PAPER_SIZE,
    AttentionBranch,
    AttentionSize,
    AttentionWeights,
    ForegroundBackgroundAttention,
    ProjectedView,
    project,
    variance,
)
from .foreground_mask import SoftForegroundMask
from .suppression import BackgroundSuppression
from .views import VIEWS, IdentityView, MixingView, SemanticView, SpatialView, create_views

__all__ = [
    "PAPER_SIZE",
    "VIEWS",
    "AttentionBranch",
    "AttentionSize",
    "AttentionWeights",
    "BackgroundSuppression",
    "ForegroundBackgroundAttention",
    "IdentityView",
    "MixingView",
    "ProjectedView",
    "SemanticView",
    "SoftForegroundMask",
    "SpatialView",
    "create_views",
    "project",
    "variance",
]
