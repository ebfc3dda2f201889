# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Bodies of objects: coverage of the image, and height above the ground."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from tools.bundled_model.procedural.fields import Field, smoothstep, soften
from tools.bundled_model.procedural.outlines import Layer, Outline, Pose


class Part(NamedTuple):
    """An object in the image.

    Attributes:
        coverage (Field): Coverage by the object ``[size, size]``, from 0 to 1.
        height (Field): Its height above the ground ``[size, size]``, as a fraction of the side.
        layers (tuple[Layer, ...]): Details in other colors than the material's, from bottom to top.
    """

    coverage: Field
    height: Field
    layers: tuple[Layer, ...] = ()


Object = Callable[[Generator, Generator, Pose], Part]


def bevel(coverage: Field, pose: Pose, width: float) -> Field:
    """Round the edges of a flat body; the width is in units of the object."""
    radius = width * pose.scale
    return np.float32(1.4 * radius) * smoothstep(soften(coverage, radius), 0.4, 1.0) * coverage


def dome(coverage: Field, pose: Pose, radius_x: float, radius_y: float, height: float) -> Field:
    """Arch a body like an ellipsoid; lengths are in units of the object."""
    u, v = pose.coordinates()
    inside = 1 - (u / radius_x) ** 2 - (v / radius_y) ** 2
    return np.float32(height * pose.scale) * np.sqrt(np.clip(inside, 0.03, 1)) * coverage


def flat(pose: Pose, *outlines: Outline, holes: tuple[Outline, ...] = (), edge: float = 0.06) -> tuple[Field, Field]:
    """Return coverage and height of a flat body with holes; the width of its round edge is in units of the object."""
    coverage = pose.draw(*outlines)
    if holes:
        coverage *= 1 - pose.draw(*holes)
    return coverage, bevel(coverage, pose, edge)
