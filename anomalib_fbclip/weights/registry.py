# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The available backbones: open_clip's, those of a model config, and the bundled ones."""

from __future__ import annotations

import difflib
import json
import math
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import open_clip
import torch
from open_clip.pretrained import list_pretrained_tags_by_model

from anomalib_fbclip.modeling.clip import patch_grid
from anomalib_fbclip.modeling.decision import IMAGE_SCORES
from anomalib_fbclip.modeling.mvfbe import PAPER_SIZE, AttentionSize
from anomalib_fbclip.modeling.tiling import Tiles, WholeImage

from . import bundled

if TYPE_CHECKING:
    from collections.abc import Sequence

PAPER_IMAGE_SIZE = {"ViT-L-14-336": 518, "ViT-L-14-336-quickgelu": 518}
"""Input sizes in pixels at which the paper runs its backbones; all others run at their own."""

PAPER_IMAGE_SCORE = "class_token"
"""The paper's score of an image, a key of ``IMAGE_SCORES``."""

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Types in which the frozen CLIP can be kept, by name."""

NEEDS_NO_NETWORK = f"--model.backbone {bundled.NAME} needs no network."
"""Advice where weights can't be downloaded."""

MOST_TILES = 256
"""Tiles of an image, at most: each is as much work as the whole image."""

OPENAI = "openai"
"""open_clip's tag of the weights that CLIP's authors trained, with QuickGELU."""


class Widths(NamedTuple):
    """Widths of a CLIP.

    Attributes:
        image (int): Channels C of the image tokens.
        text (int): Width T of the text tower.
        joint (int): Width D of the joint space of image and text.
    """

    image: int
    text: int
    joint: int


class BundledBackbone(NamedTuple):
    """A backbone and its adapters in files of the package.

    Attributes:
        config (Path): open_clip model config; the file is named after the backbone.
        tag (str): Name of the CLIP's weights, in the manner of open_clip's tags.
        clip (Path): The CLIP's weights, a file of :func:`~anomalib_fbclip.weights.compact_clip.save_clip`.
        adapters (Path): Trained adapters, a file of :meth:`~anomalib_fbclip.FBClip.save_adapters`.
        feature_layers (tuple[int, ...]): Blocks of the image tower that are read, counted from 1 and rising.
        attention_size (AttentionSize): Size of the foreground-background attention's branches.
        image_score (str): What an image's score is, a key of ``IMAGE_SCORES``.
    """

    config: Path
    tag: str
    clip: Path
    adapters: Path
    feature_layers: tuple[int, ...]
    attention_size: AttentionSize
    image_score: str


BUNDLED = {
    bundled.NAME: BundledBackbone(
        config=bundled.CONFIG_FILE,
        tag=bundled.TAG,
        clip=bundled.CLIP_FILE,
        adapters=bundled.ADAPTERS_FILE,
        # The paper's five layers and 8 x 64 channels would cost several times what so small an image tower does.
        feature_layers=(4, 6, 8),
        attention_size=AttentionSize(num_heads=4, head_dim=32),
        image_score="both",
    ),
}
"""The bundled backbones by name."""


def resolve_backbone(backbone: str | Path) -> str:
    """Find the open_clip name of a backbone.

    Args:
        backbone (str | Path): Name of an open_clip model or of a bundled backbone, or the path of a model config
            (``.json``), which is then added to open_clip's models under its file's name.

    Returns:
        str: Name of a model that open_clip knows and whose towers FB-CLIP can use.

    Raises:
        ValueError: If the model is unknown, or is not a ViT with a text tower of open_clip.
    """
    # First, so that their names are known to open_clip and taken.
    for backbone_of_package in BUNDLED.values():
        _add_model_config(backbone_of_package.config)
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
        msg = f"Backbone {name!r} has no vision transformer of open_clip: FB-CLIP needs a ViT, such as ViT-L-14-336."
        raise ValueError(msg)
    if vision.get("attentional_pool", False):
        msg = f"Backbone {name!r} pools its image tokens by attention: FB-CLIP needs a plain ViT, such as ViT-L-14-336."
        raise ValueError(msg)
    if "hf_model_name" in text or "hf_tokenizer_name" in text:
        msg = f"Backbone {name!r} has a text tower of another library: FB-CLIP needs CLIP's own, as in ViT-L-14-336."
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


def resolve_image_size(backbone: str, image_size: int | Sequence[int] | None) -> tuple[int, int]:
    """Find the input size of a backbone.

    Args:
        backbone (str): Name of an open_clip model.
        image_size (int | Sequence[int] | None): Side, or height and width, in pixels. ``None``: the paper's size for
            the paper's backbone, and its own for every other.

    Returns:
        tuple[int, int]: Height and width in pixels.

    Raises:
        ValueError: If the size is not a multiple of the backbone's patch.
    """
    vision = open_clip.get_model_config(backbone)["vision_cfg"]
    if image_size is None:
        image_size = PAPER_IMAGE_SIZE.get(backbone, vision.get("image_size", 224))
    size = _to_pair(image_size)
    patch_grid(size, _to_pair(vision.get("patch_size", 16)))
    return size


def resolve_tiling(
    backbone: str, image_size: int | Sequence[int] | None, tiles: int | Sequence[int] | None
) -> WholeImage:
    """Find what a backbone looks at.

    Args:
        backbone (str): Name of an open_clip model.
        image_size (int | Sequence[int] | None): As in :func:`resolve_image_size`.
        tiles (int | Sequence[int] | None): Tiles to each side, or rows and columns of them. ``None`` or 1: the whole
            image alone.

    Returns:
        WholeImage: What cuts the images; it knows their size.

    Raises:
        ValueError: If it is not a number of tiles, or too many of them, or the size is not a multiple of the backbone's
            patch.
    """
    view_size = resolve_image_size(backbone, image_size)
    count = (1, 1) if tiles is None else (tiles, tiles) if isinstance(tiles, int) else (*tiles,)
    if len(count) != 2 or min(count) < 1:  # noqa: PLR2004
        msg = f"Tiles {tiles!r} are neither a number nor (rows, columns): give whole numbers of 1 or more."
        raise ValueError(msg)
    if count[0] * count[1] > MOST_TILES:
        number = count[0] * count[1]
        msg = f"{count[1]} x {count[0]} are {number} tiles: take {MOST_TILES} at most, or look for larger defects."
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


def resolve_feature_layers(
    backbone: str,
    feature_layers: Sequence[int] | None,
    max_layers: int,
) -> tuple[int, ...]:
    """Find the blocks of the image tower that are read.

    Args:
        backbone (str): Name of an open_clip model.
        feature_layers (Sequence[int] | None): Blocks, counted from 1. ``None``: those that a bundled backbone comes
            with; of others the first, the last, and those at each quarter of the depth (1, 6, 12, 18, 24 of 24).
        max_layers (int): How many layers can be merged.

    Returns:
        tuple[int, ...]: Blocks, rising.

    Raises:
        ValueError: If a block lies outside the depth, the blocks don't rise, or there are too many or none.
    """
    depth = open_clip.get_model_config(backbone)["vision_cfg"].get("layers", 12)
    if feature_layers is None and backbone in BUNDLED:
        return BUNDLED[backbone].feature_layers
    if feature_layers is None:
        return tuple(sorted({max(math.ceil(depth * quarter / 4), 1) for quarter in range(5)}))
    layers = tuple(feature_layers)
    rising = all(first < second for first, second in pairwise(layers))
    if not layers or len(layers) > max_layers or not rising or layers[0] < 1 or layers[-1] > depth:
        msg = (
            f"Feature layers {list(layers)} do not fit backbone {backbone!r}: give 1 to {max_layers} layers, rising, "
            f"from 1 to {depth}."
        )
        raise ValueError(msg)
    return layers


def resolve_image_score(backbone: str, image_score: str | None) -> str:
    """Find what an image's score is.

    Args:
        backbone (str): Name of the backbone.
        image_score (str | None): A key of ``IMAGE_SCORES``. ``None``: the paper's, or that of a bundled backbone.

    Returns:
        str: A key of ``IMAGE_SCORES``.

    Raises:
        ValueError: If there is no such score.
    """
    if image_score is None:
        return BUNDLED[backbone].image_score if backbone in BUNDLED else PAPER_IMAGE_SCORE
    if image_score not in IMAGE_SCORES:
        msg = f"Unknown image score {image_score!r}: choose one of {list(IMAGE_SCORES)}."
        raise ValueError(msg)
    return image_score


def resolve_attention_size(backbone: str) -> AttentionSize:
    """Find the size of the foreground-background attention: a bundled backbone's own, otherwise the paper's.

    Args:
        backbone (str): Name of an open_clip model.

    Returns:
        AttentionSize: Number and width of the heads.
    """
    return BUNDLED[backbone].attention_size if backbone in BUNDLED else PAPER_SIZE


def resolve_precision(precision: str) -> torch.dtype:
    """Find the type in which the frozen CLIP is kept.

    Args:
        precision (str): Name of the type.

    Returns:
        torch.dtype: The type.

    Raises:
        ValueError: If the CLIP can't be kept in it.
    """
    if precision not in PRECISIONS:
        msg = f"Backbone precision {precision!r} can't be used: choose one of {list(PRECISIONS)}."
        raise ValueError(msg)
    return PRECISIONS[precision]


def resolve_widths(backbone: str) -> Widths:
    """Find the widths of a backbone.

    Args:
        backbone (str): Name of an open_clip model.

    Returns:
        Widths: Widths of its image tower, of its text tower, and of their joint space.
    """
    config = open_clip.get_model_config(backbone)
    return Widths(
        image=config["vision_cfg"].get("width", 768),
        text=config["text_cfg"].get("width", 512),
        joint=config["embed_dim"],
    )


def default_pretrained(backbone: str) -> str | None:
    """Find the tag of a backbone's usual weights; ``None`` if there are none."""
    tags = pretrained_tags(backbone)
    return OPENAI if OPENAI in tags else next(iter(tags), None)


def resolve_pretrained(backbone: str, trained_with: str | None) -> str | None:
    """Find the weights of a CLIP: those that adapters were trained with, or the usual ones where these are not here."""
    is_here = trained_with is not None and (trained_with in pretrained_tags(backbone) or Path(trained_with).is_file())
    return trained_with if is_here else default_pretrained(backbone)


def pretrained_tags(backbone: str) -> list[str]:
    """Names of the weights available for a backbone: its own for a bundled one, otherwise open_clip's."""
    return [BUNDLED[backbone].tag] if backbone in BUNDLED else list_pretrained_tags_by_model(backbone)
