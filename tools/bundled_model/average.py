# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Averages the adapters of several seeds into one file.

With adapters of the training command::

    python -m tools.bundled_model.average --adapters "[0.safetensors, 1.safetensors]" --output mean.safetensors

Only adapters with the same initial values can be averaged; the training command's have them.
"""

import sys
from pathlib import Path

import torch
from jsonargparse import auto_cli

from anomalib_fbclip import FBClip
from anomalib_fbclip.weights.adapters import Adapters, load_adapters
from anomalib_fbclip.weights.bundled import NAME, TAG


def average(adapters: list[Path], output: Path, pretrained: Path | None = None) -> None:
    """Average adapters with equal weights.

    Args:
        adapters: Files of adapters for the same CLIP.
        output: File for their mean, with the suffix ``.safetensors``.
        pretrained: Weights of their CLIP (default: the package's).
    """
    read = [Adapters.read(path) for path in adapters]
    model = FBClip(NAME, pretrained=pretrained, weights=adapters[0])
    for one in read:
        one.check_signature(model.model.backbone.signature)
    mean = {name: torch.stack([one.adapters[name] for one in read]).mean(dim=0) for name in read[0].adapters}
    load_adapters(model.model, mean, "The mean")
    model.model.forget_outdated_text_features()
    model.pretrained = TAG
    model.save_adapters(output)


if __name__ == "__main__":
    try:
        auto_cli(average, as_positional=False)
    except (OSError, ValueError) as error:
        sys.exit(f"Error: {error}")
