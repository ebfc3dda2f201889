# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The backbones that come with the package, weights and adapters included: they need no network."""

from pathlib import Path
from typing import NamedTuple

from . import nano


class EmbeddedBackbone(NamedTuple):
    """A backbone and its adapters in files of the package.

    Attributes:
        config (Path): open_clip model config; the file is named after the backbone.
        tag (str): Name of the CLIP's weights, in the manner of open_clip's tags.
        clip (Path): The CLIP's weights, a file of :func:`~anomalib_fbclip.nano.weights.save_clip`.
        adapters (Path): Trained adapters, a file of :meth:`~anomalib_fbclip.FBClip.save_adapters`.
    """

    config: Path
    tag: str
    clip: Path
    adapters: Path


EMBEDDED = {nano.NAME: EmbeddedBackbone(nano.CONFIG_FILE, nano.TAG, nano.CLIP_FILE, nano.ADAPTERS_FILE)}
"""The embedded backbones by name."""
