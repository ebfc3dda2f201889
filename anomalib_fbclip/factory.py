# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""FB-CLIP as the paper builds it, and its ablations."""

from collections.abc import Mapping, Sequence

import open_clip
import torch
from torch import nn

from .alignment import SemanticConsistency, TextAlignment
from .anomaly_map import AnomalyMapGenerator
from .backbone import ClipBackbone
from .disentanglement import VIEWS, BackgroundSuppression, ForegroundBackgroundAttention, SoftForegroundMask
from .prompt_learner import PromptLearner, tokenize_states
from .text_fusion import STRATEGY_WEIGHTS, AttentionStrategy, EndOfTextStrategy, GlobalStrategy, TextFusion
from .torch_model import FBClipModel

LAYER_WEIGHTS = 6
"""Number of learned layer weights, which is the number of layers that can be merged."""


def create_model(
    backbone: ClipBackbone,
    tokenizer: open_clip.SimpleTokenizer,
    views: Sequence[str] = tuple(VIEWS),
    text_strategies: Mapping[str, float] | None = None,
    background_suppression: bool = True,
    seed: int = 0,
) -> FBClipModel:
    """Create an FB-CLIP with untrained adapters.

    Args:
        backbone (ClipBackbone): Frozen CLIP.
        tokenizer (open_clip.SimpleTokenizer): The CLIP's tokenizer.
        views (Sequence[str]): Names of the views, in the order of their maps.
        text_strategies (Mapping[str, float] | None): Weight of each text strategy. ``None``: the paper's.
        background_suppression (bool): Whether the background is suppressed.
        seed (int): Seed of the adapters' initial values.

    Returns:
        FBClipModel: The model.

    Raises:
        ValueError: If a view or a text strategy is unknown, or none is chosen.
    """
    if not views or len(set(views)) < len(views) or not set(views) <= VIEWS.keys():
        msg = f"Views {list(views)} can't be used: choose one or several, each once, among {list(VIEWS)}."
        raise ValueError(msg)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FBClipModel(
            backbone=backbone,
            prompt_learner=PromptLearner(tokenize_states(tokenizer), backbone.text_width),
            text_fusion=TextFusion(
                strategies={
                    "global": GlobalStrategy(),
                    "attention": AttentionStrategy(backbone.text_width, backbone.embedding_width),
                    "end_of_text": EndOfTextStrategy(),
                },
                weights=STRATEGY_WEIGHTS if text_strategies is None else text_strategies,
            ),
            foreground_mask=SoftForegroundMask(),
            views={name: VIEWS[name]() for name in views},
            attention=ForegroundBackgroundAttention(backbone.width),
            suppression=BackgroundSuppression() if background_suppression else nn.Identity(),
            alignment=TextAlignment(views_per_layer=len(views), layer_weights=LAYER_WEIGHTS),
            consistency=SemanticConsistency(),
            anomaly_map_generator=AnomalyMapGenerator(),
        )
