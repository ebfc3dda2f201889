# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Backbones, those of open_clip, of model configs and of this package, and models that are built on them.

What does not fit a backbone raises ``ValueError``, before a CLIP is fetched.
"""

from __future__ import annotations

import difflib
import json
import math
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import open_clip
import torch

from anomalib_fbclip.modeling.alignment import NUM_LAYER_WEIGHTS
from anomalib_fbclip.modeling.build import create_model
from anomalib_fbclip.modeling.clip import ClipBackbone, DeferredText, patch_grid
from anomalib_fbclip.modeling.decision import IMAGE_SCORES
from anomalib_fbclip.modeling.mvfbe import PAPER_SIZE, VIEWS, AttentionSize, create_views
from anomalib_fbclip.modeling.text_fusion import STRATEGY_WEIGHTS, resolve_strategy_weights
from anomalib_fbclip.modeling.tiling import Tiles, WholeImage

from . import bundled
from .clip_files import create_clip

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anomalib_fbclip.modeling.fbclip import FBClipModel

PAPER_IMAGE_SIZE = {"ViT-L-14-336": 518, "ViT-L-14-336-quickgelu": 518}
"""Input sizes of the paper's backbones in pixels. Others use their default."""

PAPER_IMAGE_SCORE = "class_token"
"""The paper's image score, a key of ``IMAGE_SCORES``."""

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Types for the frozen CLIP, by name."""

BUNDLED_LAYERS, BUNDLED_ATTENTION = (4, 6, 8), AttentionSize(num_heads=4, head_dim=32)
"""Feature layers and attention of the bundled backbone. The paper's five layers and 8 x 64 channels would take several
times as long as its small image tower."""

BUNDLED_IMAGE_SCORE = "both"
"""The bundled backbone's image score, a key of ``IMAGE_SCORES``."""

MOST_TILES = 256
"""Largest number of tiles. Each takes as long as the whole image."""


class Widths(NamedTuple):
    """Widths of a CLIP."""

    image: int  # channels C of the image tokens
    text: int  # width T of the text tower
    joint: int  # width D of the joint space of image and text


def resolve_backbone(backbone: str | Path) -> str:
    """Find the name in open_clip of a backbone that FB-CLIP can use.

    It is a ViT with a text tower of open_clip. A model config (``.json``) is registered with open_clip under its file's
    name.
    """
    _add_model_config(bundled.CONFIG_FILE)  # first, so that its name is taken
    name = str(backbone)
    if Path(name).suffix == ".json":
        name = _add_model_config(Path(name))
    config = open_clip.get_model_config(name)
    if config is None:
        near = difflib.get_close_matches(name, open_clip.list_models(), n=3, cutoff=0.4)
        msg = (
            f"Unknown backbone {name!r}: give the name of an open_clip ViT{f', such as {near},' if near else ''} "
            "or the path of an open_clip model config (.json)."
        )
        raise ValueError(msg)
    vision, text = config["vision_cfg"], config["text_cfg"]
    if "timm_model_name" in vision or not isinstance(vision.get("layers", 12), int):
        msg = f"Backbone {name!r} has no vision transformer from open_clip: FB-CLIP needs a ViT, such as ViT-L-14-336."
        raise ValueError(msg)
    if vision.get("attentional_pool", False):
        msg = f"Backbone {name!r} pools its image tokens by attention: FB-CLIP needs a plain ViT, such as ViT-L-14-336."
        raise ValueError(msg)
    if "hf_model_name" in text or "hf_tokenizer_name" in text:
        msg = f"Backbone {name!r} has a text tower of another library: FB-CLIP needs CLIP's, as in ViT-L-14-336."
        raise ValueError(msg)
    return name


def _add_model_config(path: Path) -> str:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"Backbone config {path} can't be read: {error}."
        raise ValueError(msg) from error
    if not isinstance(config, dict) or not {"embed_dim", "vision_cfg", "text_cfg"} <= config.keys():
        msg = f"Backbone config {path} is not an open_clip model config: it needs embed_dim, vision_cfg and text_cfg."
        raise ValueError(msg)
    known = open_clip.get_model_config(path.stem)
    if known is not None and known != config:
        msg = f"Backbone config {path} has the name of another open_clip model, {path.stem!r}: rename the file."
        raise ValueError(msg)
    if known is None:
        open_clip.add_model_config(path)
    return path.stem


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


def resolve_image_size(backbone: str, image_size: int | Sequence[int] | None) -> tuple[int, int]:
    """Find height and width of a backbone's input in pixels; by default those of the paper, or else of the backbone."""
    vision = open_clip.get_model_config(backbone)["vision_cfg"]
    if image_size is None:
        image_size = PAPER_IMAGE_SIZE.get(backbone, vision.get("image_size", 224))
    size = _to_pair(image_size)
    patch_grid(size, _to_pair(vision.get("patch_size", 16)))
    return size


def resolve_tiling(
    backbone: str, image_size: int | Sequence[int] | None, tiles: int | Sequence[int] | None
) -> WholeImage:
    """Choose the tiling of images for a backbone: tiles per side, or rows and columns, or only the whole image."""
    view_size = resolve_image_size(backbone, image_size)
    count = (1, 1) if tiles is None else (tiles, tiles) if isinstance(tiles, int) else (*tiles,)
    if len(count) != 2 or min(count) < 1:  # noqa: PLR2004
        msg = f"Tiles {tiles!r} are neither a number nor (rows, columns): give whole numbers of 1 or more."
        raise ValueError(msg)
    if (number := count[0] * count[1]) > MOST_TILES:
        msg = f"{count[1]} x {count[0]} are {number} tiles: take {MOST_TILES} at most."
        raise ValueError(msg)
    if count == (1, 1):
        return WholeImage(view_size)
    vision = open_clip.get_model_config(backbone)["vision_cfg"]
    return Tiles(count, view_size, _to_pair(vision.get("patch_size", 16)))


def _to_pair(size: int | Sequence[int]) -> tuple[int, int]:
    pair = (size, size) if isinstance(size, int) else (*size,)
    if len(pair) != 2 or min(pair) < 1:  # noqa: PLR2004
        msg = f"Image size {size!r} is neither a side nor (height, width) in whole pixels."
        raise ValueError(msg)
    return pair


def resolve_feature_layers(backbone: str, feature_layers: Sequence[int] | None, max_layers: int) -> tuple[int, ...]:
    """Find the blocks of the image tower that are used, counted from 1, in rising order.

    By default they are those of the bundled backbone or, for others, the first, the last, and those at each quarter of
    the depth (1, 6, 12, 18, 24 of 24).
    """
    depth = open_clip.get_model_config(backbone)["vision_cfg"].get("layers", 12)
    if feature_layers is None and backbone == bundled.NAME:
        return BUNDLED_LAYERS
    if feature_layers is None:
        return tuple(sorted({max(math.ceil(depth * quarter / 4), 1) for quarter in range(5)}))
    layers = tuple(feature_layers)
    rising = all(first < second for first, second in pairwise(layers))
    if not layers or len(layers) > max_layers or not rising or layers[0] < 1 or layers[-1] > depth:
        msg = (
            f"Feature layers {list(layers)} do not fit backbone {backbone!r}: give 1 to {max_layers} of the layers 1 "
            f"to {depth}, in rising order."
        )
        raise ValueError(msg)
    return layers


def resolve_image_score(backbone: str, image_score: str | None) -> str:
    """Choose the kind of image score, a key of ``IMAGE_SCORES``; by default the backbone's."""
    if image_score is None:
        return BUNDLED_IMAGE_SCORE if backbone == bundled.NAME else PAPER_IMAGE_SCORE
    if image_score not in IMAGE_SCORES:
        msg = f"Unknown image score {image_score!r}: choose one of {list(IMAGE_SCORES)}."
        raise ValueError(msg)
    return image_score


def resolve_precision(precision: str) -> torch.dtype:
    """Find the type for the frozen CLIP by its name, one of :data:`PRECISIONS`."""
    if precision not in PRECISIONS:
        msg = f"Backbone precision {precision!r} can't be used: choose one of {list(PRECISIONS)}."
        raise ValueError(msg)
    return PRECISIONS[precision]


def resolve_widths(backbone: str) -> Widths:
    """Find the widths of a backbone."""
    config = open_clip.get_model_config(backbone)
    return Widths(
        image=config["vision_cfg"].get("width", 768),
        text=config["text_cfg"].get("width", 512),
        joint=config["embed_dim"],
    )
