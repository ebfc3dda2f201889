# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""fbclip-small: a small CLIP around a DINOv2, and adapters, that come with the package.

``tools/bundled_model`` in the repository trains both again; ``MODEL_CARD.md`` says from what, and how well they do.
"""

from pathlib import Path

NAME = "fbclip-small"
"""Name of the backbone."""

TAG = "dinov2_procedural"
"""Name of the backbone's weights, in the manner of open_clip's tags."""

CONFIG_FILE = Path(__file__).with_name(f"{NAME}.json")
"""The backbone's open_clip model config."""

CLIP_FILE = Path(__file__).with_name("clip.safetensors")
"""Weights of the frozen CLIP."""

ADAPTERS_FILE = Path(__file__).with_name("adapters.safetensors")
"""Trained adapters, a file of :meth:`FBClip.save_adapters`."""
