# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Camera: exposure, white balance, blur of lens and compression, and sensor noise."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from tools.bundled_model.procedural.fields import Field


@dataclass(frozen=True)
class Camera:
    """A camera and its settings.

    Attributes:
        gains (Field): Exposure and white balance ``[3]``.
        contrast (float): Exponent of the tone curve.
        blur (float): Standard deviation of the lens's blur in pixels, below 0.8.
        chroma_subsampling (bool): Whether colors have half the resolution, as in a JPEG file.
        noise (NDArray[np.int16]): Sensor noise ``[size, size, 3]`` in levels of 255.
    """

    gains: Field
    contrast: float
    blur: float
    chroma_subsampling: bool
    noise: NDArray[np.int16]

    @classmethod
    def draw(cls, rng: Generator, size: int) -> "Camera":
        """Draw a camera for photographs of a size."""
        noise = rng.standard_normal((size, size, 1), dtype=np.float32) * np.float32(255 * rng.uniform(0.003, 0.018))
        return cls(
            gains=(rng.uniform(0.9, 1.1) * rng.normal(1, 0.02, 3)).astype(np.float32),
            contrast=rng.uniform(0.85, 1.15),
            blur=rng.uniform(0.1, 0.75),
            chroma_subsampling=bool(rng.integers(2)),
            noise=np.repeat(np.rint(noise).astype(np.int16), 3, axis=2),
        )

    def photograph(self, colors: Field) -> NDArray[np.uint8]:
        """Take a photograph of colors ``[3, size, size]``: red, green and blue ``[size, size, 3]``."""
        levels = colors * np.float32(255)
        levels += np.float32(0.5)
        np.clip(levels, 0, 255, out=levels)
        channels = [Image.fromarray(channel) for channel in levels.astype(np.uint8)]
        image = Image.merge("RGB", channels).point(self._tone_curves())
        image = image.filter(self._lens())
        if self.chroma_subsampling:
            luma, *chroma = image.convert("YCbCr").split()
            chroma = [channel.reduce(2).resize(image.size, Image.Resampling.BILINEAR) for channel in chroma]
            image = Image.merge("YCbCr", (luma, *chroma)).convert("RGB")
        noisy = self.noise + np.asarray(image)
        np.clip(noisy, 0, 255, out=noisy)
        return noisy.astype(np.uint8)

    def _tone_curves(self) -> list[int]:
        """Return the output level of each input level of red, green and blue."""
        levels = np.clip(np.arange(256) / 255 * self.gains[:, None], 0, 1) ** self.contrast
        return np.rint(levels * 255).astype(int).ravel().tolist()

    def _lens(self) -> ImageFilter.Kernel:
        """Create a blur over 3 x 3 pixels."""
        side = self.blur**2 / 2
        weights = np.outer(*2 * [np.array([side, 1 - 2 * side, side])])
        return ImageFilter.Kernel((3, 3), weights.ravel().tolist(), scale=1)
