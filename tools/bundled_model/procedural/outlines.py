# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Outlines in the coordinates of an object, and the pose that draws them into an image.

An object is about two units wide, and centered at the origin.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

from tools.bundled_model.procedural.fields import Field, coordinates

Outline = Field
"""Corners of a polygon, ``[corners, 2]``."""

SUPERSAMPLING = 2


def regular(corners: int, radius: float, center: tuple[float, float] = (0, 0), angle: float = 0) -> Outline:
    """Return a regular polygon. Many corners make a disc."""
    angles = np.arange(corners) * (2 * np.pi / corners) + angle
    return (np.stack([np.cos(angles), np.sin(angles)], axis=1) * radius + center).astype(np.float32)


def disc(radius: float, center: tuple[float, float] = (0, 0)) -> Outline:
    """Return a circle."""
    return regular(56, radius, center)


def rectangle(width: float, height: float, center: tuple[float, float] = (0, 0), corner: float = 0) -> Outline:
    """Return a rectangle with corners of the radius ``corner``."""
    angles = np.arange(4)[:, None] * (np.pi / 2) + np.linspace(0, np.pi / 2, 7 if corner else 1)
    arcs = np.stack([np.cos(angles), np.sin(angles)], axis=2) * corner
    signs = np.array([(1, 1), (-1, 1), (-1, -1), (1, -1)])[:, None]
    middles = signs * (np.array([width, height]) / 2 - corner)
    return ((arcs + middles).reshape(-1, 2) + center).astype(np.float32)


def blob(rng: Generator, radius: float, wobble: float, center: tuple[float, float] = (0, 0)) -> Outline:
    """Draw a closed curve with a radius that varies by the fraction ``wobble``."""
    angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    waves = sum(rng.normal(0, wobble / k) * np.cos(k * angles + rng.uniform(0, 2 * np.pi)) for k in range(2, 7))
    radii = radius * np.clip(1 + waves, 0.3, 2)
    return (np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None] + center).astype(np.float32)


def ribbon(line: Outline, width: float | Field) -> Outline:
    """Return the outline of a line with a width, or with a width for each point."""
    tangent = np.gradient(line, axis=0)
    tangent /= np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-6)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1) * (np.broadcast_to(width, len(line)) / 2)[:, None]
    return np.concatenate([line + normal, (line - normal)[::-1]]).astype(np.float32)


def fill(size: int, outlines: Sequence[Outline]) -> Field:
    """Draw polygons, with corners as fractions of the image's side: coverage ``[size, size]`` with smooth edges."""
    side = size * SUPERSAMPLING
    image = Image.new("L", (side, side))
    draw = ImageDraw.Draw(image)
    for outline in outlines:
        draw.polygon((outline * side).ravel().tolist(), fill=255)
    return np.asarray(image.reduce(SUPERSAMPLING), dtype=np.float32) / np.float32(255)


@dataclass(frozen=True)
class Pose:
    """Position of an object in the image.

    Attributes:
        size (int): Side of the image in pixels.
        center (tuple[float, float]): Position of the object's origin, x and y from 0 to 1.
        angle (float): Rotation in radians.
        scale (float): Length of the object's unit as a fraction of the side.
    """

    size: int
    center: tuple[float, float]
    angle: float
    scale: float

    def draw(self, *outlines: Outline) -> Field:
        """Draw outlines in the object's coordinates: coverage ``[size, size]``."""
        cos, sin = np.cos(self.angle) * self.scale, np.sin(self.angle) * self.scale
        rotation = np.array([[cos, sin], [-sin, cos]], dtype=np.float32)
        offset = np.array(self.center, dtype=np.float32)
        return fill(self.size, [outline @ rotation + offset for outline in outlines])

    def coordinates(self) -> tuple[Field, Field]:
        """Return the object's coordinates of each pixel."""
        x, y = coordinates(self.size)
        x, y = (
            (x - np.float32(self.center[0])) / np.float32(self.scale),
            (y - np.float32(self.center[1])) / np.float32(self.scale),
        )
        cos, sin = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        return x * cos + y * sin, y * cos - x * sin


class Layer(NamedTuple):
    """A detail of an object in another color.

    Attributes:
        coverage (Field): Its coverage ``[size, size]``, from 0 to 1.
        color (Field): Red, green and blue ``[3, 1, 1]``, from 0 to 1.
        height (float): Its height above the object as a fraction of the side; negative if it is sunk.
    """

    coverage: Field
    color: Field
    height: float = 0.0
