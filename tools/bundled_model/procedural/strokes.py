# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Random lines and prints, along which defects are drawn."""

import numpy as np
from numpy.random import Generator

from tools.bundled_model.procedural.fields import Field
from tools.bundled_model.procedural.outlines import Outline, disc, rectangle, ribbon


def curve(rng: Generator, center: Field, length: float, bend: float) -> Outline:
    """Draw a smooth curve through a point, with a bend in radians."""
    t = np.linspace(-1, 1, 28)
    heading = rng.uniform(0, 2 * np.pi) + rng.normal(0, bend / 2) * t + rng.normal(0, bend / 2) * np.sin(3 * t)
    steps = np.stack([np.cos(heading), np.sin(heading)], axis=1) * length / len(t)
    line = np.cumsum(steps, axis=0)
    return (line - line[len(t) // 2] + center).astype(np.float32)


def jagged(rng: Generator, start: Field, heading: float, length: float) -> Outline:
    """Draw a jagged line from a point."""
    count = 12
    headings = heading + rng.normal(0, 0.5, count)
    steps = np.stack([np.cos(headings), np.sin(headings)], axis=1) * length / count
    return (start + np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)])).astype(np.float32)


def unit_vector(angle: float) -> Field:
    """Return the vector of length 1 at an angle."""
    return np.array([np.cos(angle), np.sin(angle)], dtype=np.float32)


def rotation(angle: float) -> Field:
    """Return the matrix that rotates points, which are rows, by an angle."""
    return np.stack([unit_vector(angle), unit_vector(angle + np.pi / 2)])


def characters(rng: Generator) -> list[Outline]:
    """Draw characters of segments, as on a digital clock."""
    corners = [((0, y), (1, y)) for y in range(3)] + [((x, y), (x, y + 1)) for x in range(2) for y in range(2)]
    segments = np.array(corners, dtype=np.float32)
    return [
        ribbon(segments[index] + np.array([1.7 * place, 0], dtype=np.float32), 0.3)
        for place in range(int(rng.integers(1, 5)))
        for index in rng.choice(len(segments), int(rng.integers(3, 7)), replace=False)
    ]


def bars(rng: Generator) -> list[Outline]:
    """Draw the bars of a bar code."""
    return [rectangle(rng.uniform(0.1, 0.4), 2.0, (0.6 * place, 1.0)) for place in range(int(rng.integers(4, 9)))]


def stamp(rng: Generator) -> list[Outline]:
    """Draw a ring with a bar in it."""
    ring = disc(1.2)
    return [ribbon(np.concatenate([ring, ring[:1]]), 0.3), rectangle(rng.uniform(0.8, 1.6), 0.3)]
