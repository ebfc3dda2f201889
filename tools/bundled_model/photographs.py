# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Real texture for procedural images: freely licensed photographs from installed packages, and others.

``MODEL_CARD.md`` names their sources and licenses.
"""

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from PIL import Image

from anomalib_fbclip.images import photographs
from tools.bundled_model.procedural.fields import Field
from tools.bundled_model.procedural.materials import Surface


class PhotographsUnavailableError(RuntimeError):
    """A package with photographs is not installed."""


class Photograph(NamedTuple):
    """A photograph of a package or a folder.

    Attributes:
        package (str | None): Its package; ``None`` if it is not in one.
        path (str): Path in the package's folder, or of the file.
        noun (str): Name of its texture in captions.
    """

    package: str | None
    path: str
    noun: str


TRAINING_PHOTOGRAPHS = (
    Photograph("skimage", "data/astronaut.png", "portrait"),
    Photograph("skimage", "data/brick.png", "brick"),
    Photograph("skimage", "data/camera.png", "lawn"),
    Photograph("skimage", "data/cell.png", "gel"),
    Photograph("skimage", "data/chelsea.png", "fur"),
    Photograph("skimage", "data/clock_motion.png", "glass"),
    Photograph("skimage", "data/grass.png", "grass"),
    Photograph("skimage", "data/hubble_deep_field.jpg", "speckled"),
    Photograph("skimage", "data/ihc.png", "tissue"),
    Photograph("skimage", "data/moon.png", "crater"),
    Photograph("skimage", "data/retina.jpg", "veined"),
    Photograph("skimage", "data/rocket.jpg", "sky"),
    Photograph("sklearn", "datasets/images/china.jpg", "temple"),
    Photograph("sklearn", "datasets/images/flower.jpg", "petal"),
)
"""Photographs to train on."""

VALIDATION_PHOTOGRAPHS = (
    Photograph("skimage", "data/coffee.png", "coffee"),
    Photograph("skimage", "data/coins.png", "coin"),
    Photograph("skimage", "data/gravel.png", "gravel"),
)
"""Photographs for validation. Nothing is trained on them."""

GRAY, EXCHANGED = 0.3, 0.3
"""Share of gray photographs among whole ones, and of exchanged channels among the others."""


@lru_cache(maxsize=64)
def read_photograph(photograph: Photograph) -> Image.Image:
    """Read a photograph as RGB, reduced by a whole factor to a shorter side of 640 pixels or more.

    Raises:
        PhotographsUnavailableError: If its package is not installed, or lacks the file.
    """
    if photograph.package is None:
        return _reduce(Image.fromarray(photographs.read_photograph(Path(photograph.path), upright=False)))
    spec = find_spec(photograph.package)
    path = Path(spec.origin).parent / photograph.path if spec and spec.origin else None
    if path is None or not path.is_file():
        msg = f"Package {photograph.package} has no {photograph.path}: pip install 'scikit-image>=0.24' scikit-learn."
        raise PhotographsUnavailableError(msg)
    with Image.open(path) as image:
        return _reduce(image.convert("RGB"))


def _reduce(image: Image.Image) -> Image.Image:
    factor = min(image.size) // 640
    return image.reduce(factor) if factor > 1 else image


def photographed_surface(photograph: Photograph, rng: Generator, size: int) -> Surface:
    """Cut a surface out of a photograph, at a random scale and position, with changed colors.

    Bright places are a little higher or lower than dark ones.

    Args:
        photograph (Photograph): The photograph.
        rng (Generator): Random stream.
        size (int): Side of the surface in pixels.
    """
    albedo = _recolor(_crop(photograph, rng, size, smallest=0.15), rng)
    height = np.float32(rng.uniform(-0.01, 0.01)) * albedo.mean(axis=0)
    return Surface(albedo, height, np.full((size, size), rng.uniform(0, 0.3), dtype=np.float32))


def whole_surface(photograph: Photograph, rng: Generator, size: int) -> Surface:
    """Turn a photograph, or a large part of it, into a surface without relief or gloss, with slightly changed colors.

    Args:
        photograph (Photograph): The photograph.
        rng (Generator): Random stream.
        size (int): Side of the surface in pixels.
    """
    albedo = _crop(photograph, rng, size, smallest=0.3)
    if rng.random() < GRAY:
        albedo = np.repeat(albedo.mean(axis=0, keepdims=True), 3, axis=0)
    elif rng.random() < EXCHANGED:
        albedo = albedo[rng.permutation(3)]
    albedo = np.clip(np.float32(rng.uniform(0.7, 1.2)) * albedo ** np.float32(rng.uniform(0.7, 1.4)), 0, 1)
    flat = np.zeros((size, size), dtype=np.float32)
    return Surface(albedo, flat, flat)


def _crop(photograph: Photograph, rng: Generator, size: int, smallest: float) -> Field:
    """Cut a square out of a photograph, turned by quarters and sometimes mirrored: ``[3, size, size]``, 0..1."""
    image = read_photograph(photograph)
    side = int(min(image.size) * rng.uniform(smallest, 1.0))
    left, top = (int(rng.integers(extent - side + 1)) for extent in image.size)
    crop = image.resize((size, size), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
    colors = np.rot90(np.asarray(crop, dtype=np.float32) / np.float32(255), int(rng.integers(4))).transpose(2, 0, 1)
    return np.ascontiguousarray(colors[:, :, ::-1] if rng.integers(2) else colors)


def _recolor(albedo: Field, rng: Generator) -> Field:
    """Change contrast and brightness, exchange or mix the channels."""
    channels = albedo[rng.permutation(3)]
    gray = channels.mean(axis=0, keepdims=True)
    mixed = gray + np.float32(rng.uniform(0, 1.2)) * (channels - gray)
    tint = rng.uniform(0.7, 1.2, (3, 1, 1)).astype(np.float32)
    level, contrast = rng.uniform(0.25, 0.7), rng.uniform(0.4, 1.2)
    return np.clip(level * tint + contrast * (mixed - gray.mean()), 0.02, 0.98).astype(np.float32)
