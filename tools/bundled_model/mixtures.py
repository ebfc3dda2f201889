# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Synthetic defects without a real counterpart: a region of a surface is exchanged, moved, or disturbed.

They keep a network from learning how defects are drawn.
"""

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from tools.bundled_model.procedural.defects import Defect, irregular
from tools.bundled_model.procedural.fields import Field, blend, color, noise, smoothstep, soften
from tools.bundled_model.procedural.materials import Surface
from tools.bundled_model.procedural.scene import Scene

Texture = Callable[[Generator, int], Surface]
"""Draws a texture of a size in pixels."""

FRAYED = 0.5
"""Share of regions broken up by noise."""

THIN = 0.4
"""Share of strips among the patches."""

SMALLEST_PATCH = 0.05
"""Smallest extent of a patch, as a fraction of the side."""


def mixtures(draw_texture: Texture) -> dict[str, Defect]:
    """Create the defects, by their words in a caption, with a function that draws textures to mix in."""

    def foreign_texture(scene: Scene, rng: Generator, extent: float) -> Scene:
        other = draw_texture(rng, scene.size).albedo
        return _replace(scene, other, rng.uniform(0.4, 1.0) * irregular(scene, rng, extent))

    def patch(scene: Scene, rng: Generator, extent: float) -> Scene:
        other = draw_texture(rng, scene.size).albedo if rng.integers(2) else _moved(scene, rng)
        return _replace(scene, other, rng.uniform(0.5, 1.0) * _rectangle(scene, rng, extent))

    return {
        "foreign texture": foreign_texture,
        "patch": patch,
        "misplaced piece": misplaced_piece,
        "smear": smear,
        "colour shift": colour_shift,
        "erased region": erased_region,
        "grain": grainy_region,
        "distortion": distortion,
    }


def misplaced_piece(scene: Scene, rng: Generator, extent: float) -> Scene:
    """Insert a piece of the surface from another place, sometimes with exchanged colors."""
    moved = _moved(scene, rng)[rng.permutation(3) if rng.integers(2) else [0, 1, 2]]
    return _replace(scene, moved, irregular(scene, rng, extent))


def smear(scene: Scene, rng: Generator, extent: float) -> Scene:
    """Blur a region."""
    radius = rng.uniform(0.02, 0.06)
    smeared = np.stack([soften(channel, radius) for channel in scene.surface.albedo])
    return _replace(scene, np.float32(rng.uniform(0.75, 1.2)) * smeared, irregular(scene, rng, 1.3 * extent))


def colour_shift(scene: Scene, rng: Generator, extent: float) -> Scene:
    """Change the tint or the lightness of a region."""
    level = rng.uniform(0.4, 0.75) if rng.integers(2) else rng.uniform(1.3, 1.8)
    gains = rng.uniform(0.5, 1.6, (3, 1, 1)) if rng.integers(2) else np.full((3, 1, 1), level)
    return _replace(scene, scene.surface.albedo * gains.astype(np.float32), _region(scene, rng, extent))


def erased_region(scene: Scene, rng: Generator, extent: float) -> Scene:
    """Fill a region with the surface's median color or another one."""
    albedo = scene.surface.albedo
    tone = np.median(albedo, axis=(1, 2))[:, None, None] if rng.integers(2) else color(rng, (0.0, 0.9), (0.05, 0.95))
    even = tone + np.float32(0.03) * noise(rng, scene.size, 8)
    return _replace(scene, even.astype(np.float32), _region(scene, rng, extent))


def grainy_region(scene: Scene, rng: Generator, extent: float) -> Scene:
    """Add fine or coarse noise to a region, gray or colored."""
    albedo = scene.surface.albedo
    channels = 1 if rng.integers(2) else 3
    grain = rng.standard_normal((channels, *albedo.shape[1:]), dtype=np.float32) * np.float32(rng.uniform(0.1, 0.4))
    if rng.integers(2):
        grain = 3 * np.stack([soften(channel, 0.006) for channel in grain])
    return _replace(scene, albedo + grain, _region(scene, rng, extent))


def distortion(scene: Scene, rng: Generator, extent: float) -> Scene:
    """Bend the texture of a region."""
    size = scene.size
    reach, waves = rng.uniform(0.02, 0.08) * size, rng.uniform(2, 8)
    rows, columns = (
        np.clip(place + np.rint(reach * noise(rng, size, waves)).astype(int), 0, size - 1)
        for place in np.mgrid[:size, :size]
    )
    return _replace(scene, scene.surface.albedo[:, rows, columns], _region(scene, rng, 1.3 * extent))


def _moved(scene: Scene, rng: Generator) -> Field:
    """Shift the surface's colors by a random distance."""
    shift = rng.integers(scene.size // 8, scene.size // 2, 2) * rng.choice([-1, 1], 2)
    return np.roll(scene.surface.albedo, shift, (1, 2))


def _region(scene: Scene, rng: Generator, extent: float) -> Field:
    """Draw a region, whole or frayed by noise."""
    region = irregular(scene, rng, extent)
    if rng.random() < FRAYED:
        region *= smoothstep(noise(rng, scene.size, rng.uniform(4, 24), octaves=2), -0.1, rng.uniform(0.1, 0.4))
    return region


def _rectangle(scene: Scene, rng: Generator, extent: float) -> Field:
    """Draw an upright rectangle or strip on the object."""
    size = scene.size
    height, width = (max(4, int(max(extent, SMALLEST_PATCH) * size * rng.uniform(0.4, 2))) for _ in range(2))
    if rng.random() < THIN:
        height = max(3, height // 6)
    top, left = (int(rng.integers(max(1, size - side))) for side in (height, width))
    region = np.zeros((size, size), dtype=np.float32)
    region[top : top + height, left : left + width] = 1
    return region * scene.coverage


def _replace(scene: Scene, albedo: Field, weight: Field) -> Scene:
    mixed = blend(scene.surface.albedo, np.clip(albedo, 0, 1).astype(np.float32), weight.astype(np.float32))
    return scene._replace(surface=scene.surface._replace(albedo=mixed))
