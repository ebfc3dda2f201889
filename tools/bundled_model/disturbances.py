# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Disturbances of a line's camera and lamps, to measure the accuracy that they cost."""

import math
from typing import Any

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

SIZE = 448
"""Side of the disturbed images in pixels."""


class RandomLight(v2.Transform):
    r"""Changes the contrast of dark and bright places, and lights the image from one side.

    .. math::

        \hat x = x^{\gamma} \left(1 + a (u \cos\varphi + v \sin\varphi)\right)

    with column and row :math:`u, v \in [-1, 1]`. Masks are not changed.

    Args:
        gamma (float, optional): Largest :math:`|\ln\gamma|`. Defaults to ``0.5``.
        slope (float, optional): Largest :math:`a`. Defaults to ``0.4``.
    """

    def __init__(self, gamma: float = 0.5, slope: float = 0.4) -> None:
        super().__init__()
        self.gamma = gamma
        self.slope = slope

    @staticmethod
    def make_params(flat_inputs: list[Any]) -> dict[str, float]:
        """Draw the strengths of gamma and slope, and the direction."""
        del flat_inputs
        exponent, slope, turn = torch.rand(3).tolist()
        return {"exponent": 2 * exponent - 1, "slope": slope, "angle": 2 * math.pi * turn}

    def transform(self, inpt: Any, params: dict[str, float]) -> Any:  # noqa: ANN401 - as torchvision declares it
        """Change an image ``[3, H, W]``, 0..1."""
        if not isinstance(inpt, tv_tensors.Image):
            return inpt
        rows, columns = (torch.linspace(-1, 1, side) for side in inpt.shape[-2:])
        direction = math.cos(params["angle"]) * columns + math.sin(params["angle"]) * rows[:, None]
        gamma = math.exp(self.gamma * params["exponent"])
        lit = inpt**gamma * (1 + self.slope * params["slope"] * direction)
        return tv_tensors.wrap(lit.clamp(0, 1), like=inpt)


def create_disturbances() -> dict[str, v2.Compose]:
    """Create disturbances of images ``[3, H, W]``, 0..1, and masks ``[H, W]``, by name, with torch's random numbers."""
    disturbances: dict[str, v2.Transform] = {
        "blur, 1 px": v2.GaussianBlur(7, sigma=1.0),
        "blur, 3 px": v2.GaussianBlur(19, sigma=3.0),
        "noise, 0.05": v2.GaussianNoise(sigma=0.05),
        "noise, 0.15": v2.GaussianNoise(sigma=0.15),
        "brightness and contrast, up to 20 %": v2.ColorJitter(brightness=0.2, contrast=0.2),
        "brightness and contrast, up to 60 %": v2.ColorJitter(brightness=0.6, contrast=0.6),
        "light from one side": RandomLight(gamma=0.7, slope=0.6),
        "turned up to 10 degrees, moved up to 5 %": v2.RandomAffine(10, translate=(0.05, 0.05), scale=(0.95, 1.05)),
    }
    resize = v2.Resize((SIZE, SIZE), antialias=True)
    return {name: v2.Compose([resize, disturbance]) for name, disturbance in disturbances.items()}
