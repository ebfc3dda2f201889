# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Training images of fbclip-small: procedural scenes, half of them with texture from photographs, and photographs.

Sizes, places, shapes and markings vary far more than in the test categories, so that the network does not learn how
images are drawn. Each image has words for its regions, which the text tower learns.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from tools.bundled_model.mixtures import mixtures
from tools.bundled_model.photographs import TRAINING_PHOTOGRAPHS, Photograph, photographed_surface, whole_surface
from tools.bundled_model.procedural import (
    DEFECTS,
    MATERIALS,
    OBJECTS,
    TRAINING_DEFECTS,
    TRAINING_MATERIALS,
    TRAINING_OBJECTS,
    InvisibleDefectError,
    photograph,
)
from tools.bundled_model.procedural.bodies import Object, Part
from tools.bundled_model.procedural.captions import describe, with_article
from tools.bundled_model.procedural.defects import Defect
from tools.bundled_model.procedural.fields import blend, color, stream
from tools.bundled_model.procedural.materials import Surface
from tools.bundled_model.procedural.outlines import Pose
from tools.bundled_model.procedural.scene import Scene, lay, plain_background
from tools.bundled_model.shapes import draw_markings, draw_shape

BACKGROUND, OBJECT, DEFECT = range(3)
"""Regions of an image, as values of ``TrainingImage.regions``."""

PHOTOGRAPHED = 0.5
"""Share of the scenes with texture from photographs."""

WHOLE = 0.3
"""Share of photographs shown unchanged or nearly so."""

SURFACES = 0.4
"""Share of surfaces among the scenes."""

NAMED = 0.5
"""Share of named kinds among the objects; the others are random shapes."""

MARKED = 0.3
"""Share of surfaces with random markings."""

NEIGHBORED = 0.15
"""Share of objects with another one beside them."""

SCALES = 0.18, 0.42
"""Smallest and largest scale of an object: half its size, as a fraction of the side."""

SURFACE_REACH = 0.75
"""Ratio of the extent of defects on surfaces to that on the largest objects."""

MIXED = 0.5
"""Share of mixtures among the defects."""

GIVEN = 0.4
"""Share of given defects, if there are any."""

MOST_DEFECTS = 4
"""Largest number of defects in an image. A network learns more from an image with several."""


class TrainingImage(NamedTuple):
    """An image with its regions and words.

    Attributes:
        image (NDArray[np.uint8]): Red, green and blue ``[size, size, 3]``.
        regions (NDArray[np.uint8]): Background, object or defect ``[size, size]``.
        texts (tuple[str, str, str]): Words of each region.
        normal_caption (str): Caption without the defect, for crops that do not show it.
        caption (str): Caption.
    """

    image: NDArray[np.uint8]
    regions: NDArray[np.uint8]
    texts: tuple[str, str, str]
    normal_caption: str
    caption: str


class Subject(NamedTuple):
    """The subject of a photograph.

    Attributes:
        scene (Scene): The scene without defect.
        noun (str): Its name.
        background (str): Name of its background.
        reach (float): Factor of the extent of its defects.
    """

    scene: Scene
    noun: str
    background: str
    reach: float


def draw_training_image(
    seed: int,
    size: int,
    photographs: Sequence[Photograph] = TRAINING_PHOTOGRAPHS,
    defect_kinds: Sequence[str] = TRAINING_DEFECTS,
    photographed: float = PHOTOGRAPHED,
    given: Mapping[str, Defect] = MappingProxyType({}),
) -> TrainingImage:
    """Draw an image of kinds that are not held out. Half of the images have a defect.

    Args:
        seed (int): Seed, not negative.
        size (int): Side of the image in pixels, at least 32.
        photographs (Sequence[Photograph], optional): Photographs to use as texture. Defaults to
            ``TRAINING_PHOTOGRAPHS``.
        defect_kinds (Sequence[str], optional): Defects, keys of ``procedural.DEFECTS``, besides mixtures. Defaults to
            ``TRAINING_DEFECTS``.
        photographed (float, optional): Share of the scenes with texture from photographs. Defaults to ``PHOTOGRAPHED``.
        given (Mapping[str, Defect], optional): Further defects, such as real ones, by their words in a caption.
            Defaults to none.
    """
    rng = stream(seed, "training image")
    mixed = mixtures(lambda stream, side: _draw_texture(stream, side, photographs)[0])
    kinds = list(mixed) if rng.random() < MIXED else list(defect_kinds)
    if given and rng.random() < GIVEN:
        kinds = list(given)
    defect = str(rng.choice(kinds)) if rng.integers(2) else None
    while True:
        subject = _draw_subject(rng, size, photographs, photographed)
        defects = {kind: repeat(draw, subject.reach) for kind, draw in {**DEFECTS, **mixed, **given}.items()}
        with suppress(InvisibleDefectError):  # try another subject
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


def _draw_subject(rng: Generator, size: int, photographs: Sequence[Photograph], photographed: float) -> Subject:
    if rng.random() < WHOLE:
        return _draw_whole(rng, size, photographs)
    if rng.random() < photographed:
        surface, material = _draw_photographed(rng, size, photographs)
    else:
        surface, material = _draw_material(rng, size)
    if rng.random() < SURFACES:
        return _draw_surface(rng, surface, material)
    background, ground = _draw_background(rng, size, photographs)
    name = str(rng.choice(TRAINING_OBJECTS)) if rng.random() < NAMED else None
    scale = float(np.exp(rng.uniform(*np.log(SCALES))))
    part = _draw_part(rng, OBJECTS[name] if name else draw_shape, size, scale)
    scene = lay(part, surface, background, rng.uniform(0, 0.8))
    return Subject(scene, f"{material} {name or 'object'}", ground, scale / SCALES[1])


def _draw_whole(rng: Generator, size: int, photographs: Sequence[Photograph]) -> Subject:
    origin = photographs[int(rng.integers(len(photographs)))]
    scene = Scene(whole_surface(origin, rng, size), None, np.ones((size, size), dtype=np.float32), 0.0)
    return Subject(scene, origin.noun, "plain", SURFACE_REACH)


def _draw_surface(rng: Generator, surface: Surface, material: str) -> Subject:
    size = len(surface.height)
    if rng.random() < MARKED:
        pose = Pose(size, (0.5, 0.5), rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 0.8))
        for layer in draw_markings(rng, pose):
            surface = surface._replace(albedo=blend(surface.albedo, layer.color, layer.coverage))
    scene = Scene(surface, None, np.ones((size, size), dtype=np.float32), 0.0)
    return Subject(scene, f"{material} surface", "plain", SURFACE_REACH)


def _draw_part(rng: Generator, draw: Object, size: int, scale: float) -> Part:
    """Draw an object anywhere in the image and, sometimes, another of its kind, which may be cut off at the edge."""
    room = max(0.0, 0.48 - scale)
    x, y = 0.5 + rng.uniform(-room, room, 2)
    angle = rng.uniform(0, 2 * np.pi)
    part = draw(rng, rng, Pose(size, (x, y), angle, scale))
    if rng.random() >= NEIGHBORED:
        return part
    direction, distance = rng.uniform(0, 2 * np.pi), 2.2 * scale
    center = x + distance * np.cos(direction), y + distance * np.sin(direction)
    neighbor = draw(rng, rng, Pose(size, center, rng.uniform(0, 2 * np.pi), scale))
    return Part(
        np.maximum(part.coverage, neighbor.coverage),
        np.maximum(part.height, neighbor.height),
        part.layers + neighbor.layers,
    )


def _draw_background(rng: Generator, size: int, photographs: Sequence[Photograph]) -> tuple[Surface, str]:
    """Draw a background, and return its name, too."""
    if rng.integers(2):
        even = plain_background(rng, rng, size)
        tint = color(rng, saturation=(0.0, 0.9), value=(0.6, 1.0))
        return even._replace(albedo=even.albedo * tint), "plain"
    return _draw_texture(rng, size, photographs)


def _draw_texture(rng: Generator, size: int, photographs: Sequence[Photograph]) -> tuple[Surface, str]:
    """Draw a material or a photographed texture, and return its name, too."""
    return _draw_photographed(rng, size, photographs) if rng.integers(2) else _draw_material(rng, size)


def _draw_photographed(rng: Generator, size: int, photographs: Sequence[Photograph]) -> tuple[Surface, str]:
    origin = photographs[int(rng.integers(len(photographs)))]
    return photographed_surface(origin, rng, size), origin.noun


def _draw_material(rng: Generator, size: int) -> tuple[Surface, str]:
    material = str(rng.choice(TRAINING_MATERIALS))
    return MATERIALS[material](rng, rng, size), material


def repeat(defect: Defect, reach: float) -> Defect:
    """Make a defect appear one to ``MOST_DEFECTS`` times, with a factor for its extent."""

    def repeated(scene: Scene, rng: Generator, extent: float) -> Scene:
        for _ in range(int(rng.integers(1, MOST_DEFECTS + 1))):
            scene = defect(scene, rng, reach * extent)
        return scene

    return repeated
