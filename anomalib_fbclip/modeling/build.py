# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""FB-CLIP as the paper builds it, and its ablations."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import nn

from .alignment import TextAlignment
from .anomaly_map import AnomalyMapGenerator
from .clip import ClipBackbone
from .decision import ImageScore, class_token_score
from .fbclip import FBClipModel
from .mvfbe import (
    PAPER_SIZE,
    AttentionSize,
    BackgroundSuppression,
    ForegroundBackgroundAttention,
    MultiViewDisentanglement,
    SoftForegroundMask,
)
from .prompt_learner import PromptLearner, tokenize_states
from .text_fusion import AttentionStrategy, EndOfTextStrategy, GlobalStrategy, TextFusion
from .tiling import WholeImage


def create_model(
    backbone: ClipBackbone,
    tokenizer: Callable[[list[str]], torch.Tensor],
    views: Mapping[str, nn.Module],
    strategy_weights: Mapping[str, float],
    attention_size: AttentionSize = PAPER_SIZE,
    background_suppression: bool = True,
    image_score: ImageScore = class_token_score,
    tiling: WholeImage | None = None,
    score_area: int | None = None,
    seed: int = 0,
) -> FBClipModel:
    """Create an FB-CLIP with untrained adapters.

    Args:
        backbone (ClipBackbone): Frozen CLIP.
        tokenizer (Callable[[list[str]], torch.Tensor]): The CLIP's tokenizer, called when prompts are first encoded.
        views (Mapping[str, nn.Module]): Views by name, in the order of their maps.
        strategy_weights (Mapping[str, float]): Weight of each text strategy.
        attention_size (AttentionSize): Size of the foreground-background attention's branches.
        background_suppression (bool): Whether the background is suppressed.
        image_score (ImageScore): Computes an image's score.
        tiling (WholeImage | None): Cuts images into views. ``None``: one view, the whole image.
        score_area (int | None): See :class:`AnomalyMapGenerator`.
        seed (int): Seed of the adapters' initial values.

    Raises:
        ValueError: If a text strategy is unknown, or all weights are 0.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FBClipModel(
            backbone=backbone,
            prompt_learner=PromptLearner(partial(tokenize_states, tokenizer), backbone.text_width),
            text_fusion=TextFusion(
                strategies={
                    "global": GlobalStrategy(),
                    "attention": AttentionStrategy(backbone.text_width, backbone.embedding_width),
                    "end_of_text": EndOfTextStrategy(),
                },
                weights=strategy_weights,
            ),
            mvfbe=MultiViewDisentanglement(
                foreground_mask=SoftForegroundMask(),
                views=views,
                attention=ForegroundBackgroundAttention(backbone.width, attention_size),
                suppression=BackgroundSuppression() if background_suppression else nn.Identity(),
            ),
            alignment=TextAlignment(views_per_layer=len(views)),
            anomaly_map_generator=AnomalyMapGenerator(score_area),
            image_score=image_score,
            tiling=tiling,
        )
