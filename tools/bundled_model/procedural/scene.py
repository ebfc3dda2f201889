# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Scenes: a surface, or an object on a background, before light and camera."""

from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from tools.bundled_model.procedural.bodies import Part
from tools.bundled_model.procedural.fields import Field, blend, color, noise
from tools.bundled_model.procedural.materials import MATERIALS, Surface
from tools.bundled_model.procedural.objects import OBJECTS
from tools.bundled_model.procedural.outlines import Pose


class Scene(NamedTuple):
    """The scene before the camera.

    Attributes:
        surface (Surface): The object, or the surface that fills the image.
        background (Surface | None): Background of an object; ``None`` for a surface.
        coverage (Field): Coverage by the object ``[size, size]``, from 0 to 1; 1 everywhere for a surface.
        shadow (float): Strength of the object's shadow on the background, from 0 to 1.
    """

    surface: Surface
    background: Surface | None
    coverage: Field
    shadow: float

    @property
    def size(self) -> int:
        """Side of the image in pixels."""
        return len(self.coverage)

    def compose(self) -> Surface:
        """Put the object onto the background."""
        if self.background is None:
            return self.surface
        albedo = blend(self.background.albedo, self.surface.albedo, self.coverage)
        height = self.background.height + self.coverage * (self.surface.height - self.background.height)
        gloss = self.background.gloss + self.coverage * (self.surface.gloss - self.background.gloss)
        return Surface(albedo, height, gloss)


def plain_background(design: Generator, variation: Generator, size: int) -> Surface:
    """Draw an even background: paper, a cloth or a light table."""
    base = color(design, saturation=(0.0, 0.25), value=(0.05, 0.95)) * np.float32(1 + variation.normal(0, 0.03))
    uneven = noise(variation, size, 2)
    albedo = np.clip(base * (1 + np.float32(0.03) * uneven), 0, 1)
    return Surface(albedo, np.zeros((size, size), dtype=np.float32), np.zeros((size, size), dtype=np.float32))


def make_surface(material: str, design: Generator, variation: Generator, size: int) -> Scene:
    """Make a scene of a material that fills the image."""
    surface = MATERIALS[material](design, variation, size)
    return Scene(surface, None, np.ones((size, size), dtype=np.float32), 0.0)


def make_object(
    name: str,
    surface: Surface,
    background: Surface,
    design: Generator,
    variation: Generator,
) -> Scene:
    """Make a scene of an object on a background, in a random pose.

    Args:
        name (str): Object, a key of ``OBJECTS``.
        surface (Surface): Its material.
        background (Surface): The background.
        design (Generator): Random stream of the product.
        variation (Generator): Random stream of the image.
    """
    size = len(surface.height)
    x, y = 0.5 + variation.uniform(-0.04, 0.04, 2)
    scale = design.uniform(0.30, 0.40) * variation.uniform(0.95, 1.05)
    pose = Pose(size, (float(x), float(y)), variation.uniform(0, 2 * np.pi), scale)
    part = OBJECTS[name](design, variation, pose)
    return lay(part, surface, background, variation.uniform(0.2, 0.7))


def lay(part: Part, surface: Surface, background: Surface, shadow: float) -> Scene:
    """Lay a part on a background.

    Args:
        part (Part): The part.
        surface (Surface): Its material.
        background (Surface): The background.
        shadow (float): Strength of its shadow, from 0 to 1.
    """
    albedo, height = surface.albedo, surface.height + part.height
    for layer in part.layers:
        albedo = blend(albedo, layer.color, layer.coverage)
        height += np.float32(layer.height) * layer.coverage
    return Scene(Surface(albedo, height, surface.gloss), background, part.coverage, shadow)
