# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The backbones that come with the package, weights and adapters included: they need no network."""

from pathlib import Path
from typing import NamedTuple

from . import nano
from .disentanglement import AttentionSize


class EmbeddedBackbone(NamedTuple):
    """A backbone and its adapters in files of the package.

    Attributes:
        config (Path): open_clip model config; the file is named after the backbone.
        tag (str): Name of the CLIP's weights, in the manner of open_clip's tags.
        clip (Path): The CLIP's weights, a file of :func:`~anomalib_fbclip.nano.weights.save_clip`.
        adapters (Path): Trained adapters, a file of :meth:`~anomalib_fbclip.FBClip.save_adapters`.
        feature_layers (tuple[int, ...]): Blocks of the image tower that are read, counted from 1 and rising.
        attention_size (AttentionSize): Size of the foreground-background attention's branches.
    """

    config: Path
    tag: str
    clip: Path
    adapters: Path
    feature_layers: tuple[int, ...]
    attention_size: AttentionSize


EMBEDDED = {
    nano.NAME: EmbeddedBackbone(
        config=nano.CONFIG_FILE,
        tag=nano.TAG,
        clip=nano.CLIP_FILE,
        adapters=nano.ADAPTERS_FILE,
        # The paper's five layers and 8 x 64 channels would cost several times what so small an image tower does.
        feature_layers=(2, 4, 6),
        attention_size=AttentionSize(heads=4, head_width=32),
    ),
}
"""The embedded backbones by name."""
