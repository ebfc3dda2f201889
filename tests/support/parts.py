# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Parts that are inspected, and the command as a user types it."""

import subprocess
from collections.abc import Callable

import numpy as np
from PIL import Image

Run = Callable[..., subprocess.CompletedProcess[str]]


def draw_part(seed: int, *, defective: bool = False) -> Image.Image:
    """A gray part with a little noise, and a bright spot if it is defective."""
    stream = np.random.default_rng(seed)
    pixels = np.full((100, 140, 3), 90) + stream.integers(0, 12, (100, 140, 3))
    if defective:
        pixels[30:60, 50:90] = (250, 230, 40)
    return Image.fromarray(pixels.astype(np.uint8))
