# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Building a model around the CLIP of a backbone."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import open_clip

from anomalib_fbclip.modeling.alignment import NUM_LAYER_WEIGHTS
from anomalib_fbclip.modeling.build import create_model
from anomalib_fbclip.modeling.clip import ClipBackbone, DeferredText
from anomalib_fbclip.modeling.decision import IMAGE_SCORES
from anomalib_fbclip.modeling.mvfbe import PAPER_SIZE, VIEWS, create_views
from anomalib_fbclip.modeling.text_fusion import STRATEGY_WEIGHTS, resolve_strategy_weights

from . import bundled
from .clip_files import create_clip
from .registry import (
    BUNDLED_ATTENTION,
    resolve_feature_layers,
    resolve_image_score,
    resolve_image_size,
    resolve_precision,
    resolve_widths,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

    from anomalib_fbclip.modeling.fbclip import FBClipModel
    from anomalib_fbclip.modeling.tiling import WholeImage


def build_model(
    backbone: str,
    pretrained: str | None,
    feature_layers: Sequence[int] | None = None,
    views: Sequence[str] = tuple(VIEWS),
    text_strategies: Mapping[str, float] | None = None,
    background_suppression: bool = True,
    image_score: str | None = None,
    precision: str = "float32",
    seed: int = 0,
    tiling: WholeImage | None = None,
) -> FBClipModel:
    """Build a model with untrained adapters. Arguments are checked before the CLIP is fetched.

    The text tower and the tokenizer are loaded only when prompts are encoded; a model with given text features never
    needs them. ``None`` stands for a default: feature layers and image score of the backbone, the paper's weights of
    the text strategies, no tiles. An argument that does not fit the backbone is a ``ValueError``. For ``pretrained``,
    see :func:`create_clip`.
    """
    strategies = STRATEGY_WEIGHTS if text_strategies is None else text_strategies
    return create_model(
        views=create_views(views),
        strategy_weights=resolve_strategy_weights(strategies, STRATEGY_WEIGHTS),
        attention_size=BUNDLED_ATTENTION if backbone == bundled.NAME else PAPER_SIZE,
        background_suppression=background_suppression,
        image_score=IMAGE_SCORES[resolve_image_score(backbone, image_score)],
        seed=seed,
        tiling=tiling,
        score_area=math.prod(resolve_image_size(backbone, None)),
        tokenizer=partial(_tokenize, backbone),
        backbone=ClipBackbone(
            feature_layers=resolve_feature_layers(backbone, feature_layers, max_layers=NUM_LAYER_WEIGHTS),
            precision=resolve_precision(precision),
            clip=create_clip(backbone, pretrained, towers="image"),
            deferred_text=DeferredText(
                resolve_widths(backbone).text, partial(create_clip, backbone, pretrained, towers="text")
            ),
        ),
    )


def _tokenize(backbone: str, texts: list[str]) -> torch.Tensor:
    return open_clip.get_tokenizer(backbone)(texts)
