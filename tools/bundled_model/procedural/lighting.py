# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Light: direction, shading of the relief, highlights, shadows and fall-off."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from tools.bundled_model.procedural.fields import Field, coordinates, soften
from tools.bundled_model.procedural.scene import Scene


@dataclass(frozen=True)
class Light:
    """A lamp and ambient light.

    Attributes:
        azimuth (float): Direction of the lamp in radians.
        elevation (float): Height of the lamp above the ground in radians.
        ambient (float): Share of ambient light, from 0 to 1.
        falloff (float): Darkening of the side away from the lamp, from 0 to 1.
        vignette (float): Darkening of the corners, from 0 to 1.
    """

    azimuth: float
    elevation: float
    ambient: float
    falloff: float
    vignette: float

    @classmethod
    def draw(cls, rng: Generator) -> "Light":
        """Draw a light."""
        return cls(
            azimuth=rng.uniform(0, 2 * np.pi),
            elevation=rng.uniform(0.6, 1.2),
            ambient=rng.uniform(0.35, 0.65),
            falloff=rng.uniform(0.0, 0.35),
            vignette=rng.uniform(0.0, 0.25),
        )

    def illuminate(self, scene: Scene) -> Field:  # noqa: PLR0914
        """Light a scene.

        Returns:
            Field: Colors ``[3, size, size]``; highlights may be above 1.
        """
        albedo, height, gloss = scene.compose()
        to_x, to_y = np.cos(self.azimuth) * np.cos(self.elevation), np.sin(self.azimuth) * np.cos(self.elevation)
        to_z = np.sin(self.elevation)

        slope_x, slope_y = _slopes(height)
        inverse = 1 / np.sqrt(1 + slope_x * slope_x + slope_y * slope_y)
        facing = (np.float32(to_z) - np.float32(to_x) * slope_x - np.float32(to_y) * slope_y) * inverse
        diffuse = np.maximum(facing, 0)
        diffuse *= np.float32(1 / to_z)
        if scene.background is not None:
            diffuse *= 1 - np.float32(scene.shadow) * self._cast_shadow(scene.coverage)

        x, y = coordinates(scene.size)
        x, y = x - 0.5, y - 0.5
        slant = np.float32(np.cos(self.azimuth)) * x + np.float32(np.sin(self.azimuth)) * y
        evenness = (1 + np.float32(self.falloff) * slant) * (1 - np.float32(2 * self.vignette) * (x * x + y * y))
        irradiance = (np.float32(self.ambient) + np.float32(1 - self.ambient) * diffuse) * evenness

        # The half-way vector between the lamp and a camera straight above.
        length = np.sqrt(to_x**2 + to_y**2 + (to_z + 1) ** 2)
        half = np.float32(to_x / length), np.float32(to_y / length), np.float32((to_z + 1) / length)
        mirror = np.maximum(half[2] - half[0] * slope_x - half[1] * slope_y, 0) * inverse
        for _ in range(5):
            mirror *= mirror
        highlight = np.float32(0.55) * gloss * mirror
        colors = albedo * irradiance
        colors += highlight
        return colors

    def _cast_shadow(self, coverage: Field) -> Field:
        size = len(coverage)
        length = 0.025 / np.tan(self.elevation) + 0.008
        shift_x, shift_y = (round(-size * length * f(self.azimuth)) for f in (np.cos, np.sin))
        return soften(np.roll(coverage, (shift_y, shift_x), (0, 1)), 0.012) * (1 - coverage)


def _slopes(height: Field) -> tuple[Field, Field]:
    """Compute the relief's slopes along x and y."""
    size = np.float32(len(height))
    slope_x, slope_y = np.zeros_like(height), np.zeros_like(height)
    slope_x[:, 1:-1] = (height[:, 2:] - height[:, :-2]) * (size / 2)
    slope_y[1:-1] = (height[2:] - height[:-2]) * (size / 2)
    return slope_x, slope_y
