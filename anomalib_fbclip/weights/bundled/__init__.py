# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""fbclip-small: a small CLIP built on DINOv2, and its adapters.

``tools/bundled_model`` in the repository trains both. ``MODEL_CARD.md`` gives the training data and results.
"""

from pathlib import Path

NAME = "fbclip-small"
"""Name of the backbone."""

TAG = "dinov2_procedural"
"""Name of the CLIP's weights, like open_clip's tags."""

CONFIG_FILE = Path(__file__).with_name(f"{NAME}.json")
"""The backbone's open_clip model config."""

CLIP_FILE = Path(__file__).with_name("clip.safetensors")
"""Weights of the frozen CLIP."""

ADAPTERS_FILE = Path(__file__).with_name("adapters.safetensors")
"""Trained adapters, a file of :meth:`FBClip.save_adapters`."""
