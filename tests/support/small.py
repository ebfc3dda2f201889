# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""A small backbone with random, fixed weights, and adapters for it: no pretrained CLIP can be had in a test."""

import json
from pathlib import Path

from anomalib_fbclip import FBClip

CONFIG = {
    "embed_dim": 32,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 56, "layers": 4, "width": 64, "head_width": 32, "patch_size": 14},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


def write_backbone(folder: Path, name: str = "fbclip-test-small", **changes: object) -> str:
    """Write the model config of the small backbone, with other entries where given, and return its path."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps({**CONFIG, **changes}))
    return str(path)


def write_adapters(folder: Path, backbone: str, source: str = "auxiliary") -> Path:
    """Write adapters for the small backbone that pass as trained, and return their path."""
    path = folder / "adapters.safetensors"
    model = FBClip(backbone=backbone, weights=None, seed=7)
    model.source = source
    model.save_adapters(path)
    return path
