# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Images to train fbclip-nano on: procedural scenes, half of them with texture from photographs.

The image tower has to tell regions apart by words, so each image comes with the words of its regions.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from anomalib_fbclip.procedural import (
    DEFECTS,
    MATERIALS,
    TRAINING_DEFECTS,
    TRAINING_MATERIALS,
    TRAINING_OBJECTS,
    InvisibleDefectError,
    draw_training_product,
    photograph,
)
from anomalib_fbclip.procedural.captions import describe, with_article
from anomalib_fbclip.procedural.defects import Defect, irregular
from anomalib_fbclip.procedural.fields import blend, soften, stream
from anomalib_fbclip.procedural.materials import Surface
from anomalib_fbclip.procedural.sample import make_scene
from anomalib_fbclip.procedural.scene import Scene, make_object, plain_background

from .photographs import TRAINING_PHOTOGRAPHS, Photograph, photographed_surface

BACKGROUND, OBJECT, DEFECT = range(3)
"""Regions of an image, as values of ``TrainingImage.regions``."""

PHOTOGRAPHED = 0.5
"""Share of the scenes with texture from photographs."""

SURFACES = 0.5
"""Share of surfaces among those."""

MIXED = 0.4
"""Share of mixed textures among the defects."""

MOST_DEFECTS = 4
"""Most defects of an image: a network learns more from an image with several."""


class TrainingImage(NamedTuple):
    """An image, its regions, and what it shows in words.

    Attributes:
        image (NDArray[np.uint8]): Red, green and blue ``[size, size, 3]``.
        regions (NDArray[np.uint8]): Background, object or defect ``[size, size]``.
        texts (tuple[str, str, str]): What each region shows.
        normal_caption (str): What the image shows where the defect is cut off.
        caption (str): What the image shows.
    """

    image: NDArray[np.uint8]
    regions: NDArray[np.uint8]
    texts: tuple[str, str, str]
    normal_caption: str
    caption: str


class Subject(NamedTuple):
    """What is photographed.

    Attributes:
        scene (Scene): It, without defect.
        noun (str): What it is called.
        background (str): What it lies on.
    """

    scene: Scene
    noun: str
    background: str


def draw_training_image(
    seed: int,
    size: int,
    photographs: Sequence[Photograph] = TRAINING_PHOTOGRAPHS,
    defect_kinds: Sequence[str] = TRAINING_DEFECTS,
    photographed: float = PHOTOGRAPHED,
) -> TrainingImage:
    """Draw an image of something that is not held out, every second time with a defect.

    Args:
        seed (int): Seed, not negative.
        size (int): Side of the image in pixels, at least 32.
        photographs (Sequence[Photograph], optional): Photographs whose texture is used.
            Defaults to ``TRAINING_PHOTOGRAPHS``.
        defect_kinds (Sequence[str], optional): Defects, keys of ``procedural.DEFECTS``; there are also mixed textures.
            Defaults to ``TRAINING_DEFECTS``.
        photographed (float, optional): Share of the scenes with texture from photographs.
            Defaults to ``PHOTOGRAPHED``.

    Returns:
        TrainingImage: The image.
    """
    rng = stream(seed, "training image")
    mixed = mixtures(photographs)
    defects = {kind: repeat(defect) for kind, defect in {**DEFECTS, **mixed}.items()}
    kinds = list(mixed) if rng.random() < MIXED else list(defect_kinds)
    defect = str(rng.choice(kinds)) if rng.integers(2) else None
    while True:
        draw = _draw_photographed if rng.random() < photographed else _draw_procedural
        subject = draw(rng, size, photographs)
        with suppress(InvisibleDefectError):  # another subject shows it
            image, mask = photograph(subject.scene, seed, defect, defects)
            break
    regions = np.where(subject.scene.coverage > 0.5, OBJECT, BACKGROUND)  # noqa: PLR2004
    return TrainingImage(
        image=image,
        regions=np.where(mask, DEFECT, regions).astype(np.uint8),
        texts=(
            f"{subject.background} background.",
            f"{subject.noun} without defect.",
            f"{subject.noun} with {with_article(defect or 'defect')}.",
        ),
        normal_caption=describe(subject.noun, None, rng),
        caption=describe(subject.noun, defect, rng),
    )


def _draw_procedural(rng: Generator, size: int, photographs: Sequence[Photograph]) -> Subject:
    del photographs
    product = draw_training_product(rng)
    scene = make_scene(product, int(rng.integers(2**31)), size)
    return Subject(scene, f"{product.material} {product.object or 'surface'}", product.background or "plain")


def _draw_photographed(rng: Generator, size: int, photographs: Sequence[Photograph]) -> Subject:
    origin = photographs[int(rng.integers(len(photographs)))]
    surface = photographed_surface(origin, rng, size)
    if rng.random() < SURFACES:
        scene = Scene(surface, None, np.ones((size, size), dtype=np.float32), 0.0)
        return Subject(scene, f"{origin.noun} surface", "plain")
    background, ground = _draw_background(rng, size, photographs)
    shape = str(rng.choice(TRAINING_OBJECTS))
    return Subject(make_object(shape, surface, background, rng, rng), f"{origin.noun} {shape}", ground)


def _draw_background(rng: Generator, size: int, photographs: Sequence[Photograph]) -> tuple[Surface, str]:
    """Draw a background, and what it is called."""
    if rng.integers(2):
        return plain_background(rng, rng, size), "plain"
    return _draw_texture(rng, size, photographs)


def _draw_texture(rng: Generator, size: int, photographs: Sequence[Photograph]) -> tuple[Surface, str]:
    """Draw a material or a photographed texture, and what it is called."""
    if rng.integers(2):
        origin = photographs[int(rng.integers(len(photographs)))]
        return photographed_surface(origin, rng, size), origin.noun
    material = str(rng.choice(TRAINING_MATERIALS))
    return MATERIALS[material](rng, rng, size), material


def repeat(defect: Defect) -> Defect:
    """Give a defect that comes one to ``MOST_DEFECTS`` times."""

    def repeated(scene: Scene, rng: Generator, extent: float) -> Scene:
        for _ in range(int(rng.integers(1, MOST_DEFECTS + 1))):
            scene = defect(scene, rng, extent)
        return scene

    return repeated


def mixtures(photographs: Sequence[Photograph]) -> dict[str, Defect]:
    """Give defects that no drawing has: they keep a network from learning how defects are drawn.

    Args:
        photographs (Sequence[Photograph]): Photographs whose texture is used.

    Returns:
        dict[str, Defect]: A region of another texture, of another place, and smeared, by the words of a caption.
    """

    def foreign_texture(scene: Scene, rng: Generator, extent: float) -> Scene:
        other, _ = _draw_texture(rng, scene.size, photographs)
        return _replace(scene, other.albedo, rng.uniform(0.4, 1.0) * irregular(scene, rng, extent))

    def misplaced_piece(scene: Scene, rng: Generator, extent: float) -> Scene:
        shift = rng.integers(scene.size // 8, scene.size // 2, 2) * rng.choice([-1, 1], 2)
        moved = np.roll(scene.surface.albedo, shift, (1, 2))[rng.permutation(3) if rng.integers(2) else [0, 1, 2]]
        return _replace(scene, moved, irregular(scene, rng, extent))

    def smear(scene: Scene, rng: Generator, extent: float) -> Scene:
        radius = rng.uniform(0.02, 0.06)
        smeared = np.stack([soften(channel, radius) for channel in scene.surface.albedo])
        tone = np.float32(rng.uniform(0.75, 1.2))
        return _replace(scene, np.clip(tone * smeared, 0, 1), irregular(scene, rng, 1.3 * extent))

    return {"foreign texture": foreign_texture, "misplaced piece": misplaced_piece, "smear": smear}


def _replace(scene: Scene, albedo: NDArray[np.float32], weight: NDArray[np.float32]) -> Scene:
    surface = scene.surface
    mixed = blend(surface.albedo, albedo, weight.astype(np.float32))
    return scene._replace(surface=surface._replace(albedo=mixed))
