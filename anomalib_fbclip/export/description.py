# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""What an exported file says about itself."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomalib.post_processing import PostProcessor

from anomalib_fbclip.contract.metadata import SOURCE_KEYS, THRESHOLD_KEYS

if TYPE_CHECKING:
    import torch

NAMES = ("backbone", "pretrained", "source", "image_size", "patch_size", "k_shot", "version")
THRESHOLDS = ("image_threshold", "pixel_threshold")
LIMITS = ("image_min", "image_max", "pixel_min", "pixel_max")


def describe(metadata: Mapping[str, Any], post_processor: object) -> dict[str, str]:
    """Describe a model in strings.

    Args:
        metadata (Mapping[str, Any]): ``backbone``, ``pretrained``, ``source``, ``image_size``, ``patch_size``,
            ``k_shot`` and ``version``, as far as they are known.
        post_processor (object): The model's post-processor. One of anomalib's has thresholds at which the graph decides
            and, if they were fitted, thresholds and limits of the normalization, of the scores before it. FBClip's says
            where the thresholds come from, too.

    Returns:
        dict[str, str]: What is known, by name. Lists are JSON.
    """
    known = {name: metadata.get(name) for name in NAMES}
    if known["pretrained"]:
        known["pretrained"] = Path(known["pretrained"]).name  # of a file, not where it lies
    description = {
        name: value if isinstance(value, str) else json.dumps(value) for name, value in known.items() if value
    }
    return description | _thresholds_and_limits(post_processor)


def _thresholds_and_limits(post_processor: object) -> dict[str, str]:
    if not isinstance(post_processor, PostProcessor):
        return {}
    names = (*THRESHOLDS, *LIMITS) if post_processor.enable_normalization else THRESHOLDS
    values: dict[str, torch.Tensor] = {name: getattr(post_processor, name) for name in names}
    if post_processor.enable_thresholding:
        decision = (post_processor.normalized_image_threshold, post_processor.normalized_pixel_threshold)
        values |= dict(zip(THRESHOLD_KEYS, decision, strict=True))
    sources = {name: getattr(post_processor, name, None) for name in SOURCE_KEYS}
    return {name: repr(value.item()) for name, value in values.items() if value.isfinite()} | {
        name: source for name, source in sources.items() if source
    }
