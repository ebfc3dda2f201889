# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Random shapes and markings, which keep a network from learning how objects are drawn."""

import numpy as np
from numpy.random import Generator

from tools.bundled_model.procedural.bodies import Part
from tools.bundled_model.procedural.fields import color, smoothstep, soften
from tools.bundled_model.procedural.outlines import Layer, Outline, Pose, blob, disc, rectangle, regular, ribbon

COMPOUND, PIERCED = 0.3, 0.25
"""Share of objects with several outlines, and of objects with holes."""

MOST_LAYERS = 3
"""Largest number of layers of markings on an object."""

FEWEST_SPOTS, MOST_SPOTS = 6, 30
"""Number of spots in a layer: more than the defects of an image."""


def draw_shape(design: Generator, variation: Generator, pose: Pose) -> Part:
    """Draw a random object: one to three overlapping outlines, with or without holes, arched or flat."""
    del variation  # each object is drawn once
    outlines = [_outline(design, 1.0, (0.0, 0.0))]
    if design.random() < COMPOUND:
        around = design.uniform(-0.6, 0.6, (int(design.integers(1, 3)), 2))
        outlines += [_outline(design, design.uniform(0.3, 0.6), (float(x), float(y))) for x, y in around]
    coverage = pose.draw(*outlines)
    if design.random() < PIERCED:
        coverage *= 1 - pose.draw(*_spots(design, int(design.integers(1, 6)), 0.06, 0.2))
    radius = design.uniform(0.03, 0.6) * pose.scale
    height = np.float32(1.2 * radius) * smoothstep(soften(coverage, radius), 0.3, 1.0) * coverage
    return Part(coverage, height, draw_markings(design, pose))


def draw_markings(rng: Generator, pose: Pose) -> tuple[Layer, ...]:
    """Draw up to three layers of print, grains or inlays in different colors. They are not defects."""
    draws = (_many_spots, _stripes, _rings, _part)
    layers = []
    for _ in range(int(rng.integers(MOST_LAYERS + 1))):
        marks = pose.draw(*draws[int(rng.integers(len(draws)))](rng))
        tone = color(rng, saturation=(0.0, 0.9), value=(0.05, 0.95))
        layers.append(Layer(np.float32(rng.uniform(0.3, 1.0)) * marks, tone, rng.uniform(-0.01, 0.01) * pose.scale))
    return tuple(layers)


def _outline(rng: Generator, radius: float, center: tuple[float, float]) -> Outline:
    outline = {
        "disc": lambda: disc(radius),
        "blob": lambda: blob(rng, 0.9 * radius, rng.uniform(0.02, 0.25)),
        "polygon": lambda: regular(int(rng.integers(3, 9)), radius),
        "rectangle": lambda: rectangle(1.6 * radius, 1.6 * radius, corner=radius * rng.uniform(0.01, 0.6)),
    }[str(rng.choice(["disc", "blob", "polygon", "rectangle"]))]()
    angle, narrowness = rng.uniform(0, 2 * np.pi), rng.uniform(0.35, 1.0)
    cos, sin = np.cos(angle), np.sin(angle)
    stretch = np.array([[cos, sin], [-narrowness * sin, narrowness * cos]])
    return (outline @ stretch + center).astype(np.float32)


def _spots(rng: Generator, count: int, smallest: float, largest: float) -> list[Outline]:
    radii, centers = rng.uniform(smallest, largest, count), rng.uniform(-1, 1, (count, 2))
    return [blob(rng, radius, 0.15, (float(x), float(y))) for radius, (x, y) in zip(radii, centers, strict=True)]


def _many_spots(rng: Generator) -> list[Outline]:
    largest = rng.uniform(0.04, 0.16)
    return _spots(rng, int(rng.integers(FEWEST_SPOTS, MOST_SPOTS)), 0.5 * largest, largest)


def _stripes(rng: Generator) -> list[Outline]:
    count, share, angle = int(rng.integers(3, 12)), rng.uniform(0.15, 0.6), rng.uniform(0, np.pi)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    places = 2.4 * (np.arange(count) + 0.5) / count - 1.2
    return [(rectangle(2.8, 2.4 * share / count, (0, float(place))) @ turn).astype(np.float32) for place in places]


def _rings(rng: Generator) -> list[Outline]:
    width = rng.uniform(0.03, 0.15)
    circles = [disc(float(radius)) for radius in rng.uniform(0.2, 0.95, int(rng.integers(1, 4)))]
    return [ribbon(np.concatenate([circle, circle[:1]]), width) for circle in circles]


def _part(rng: Generator) -> list[Outline]:
    """Draw one large part of the object, such as a label or the other half of a capsule."""
    x, y = rng.uniform(-0.7, 0.7, 2)
    return [_outline(rng, rng.uniform(0.5, 1.0), (float(x), float(y)))]
