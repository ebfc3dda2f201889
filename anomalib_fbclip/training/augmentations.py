# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Augmentations of training images: other frames, other light, other cameras."""

import math
from typing import Any

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2


class RandomLight(v2.Transform):
    r"""Changes the contrast of dark and bright places, and lights the image from one side.

    .. math::

        \hat x = x^{\gamma} \left(1 + a (u \cos\varphi + v \sin\varphi)\right)

    with column and row :math:`u, v \in [-1, 1]`. Masks stay as they are.

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
        """Draw how far gamma and slope go, and the direction."""
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


def create_augmentations(image_size: int) -> v2.Compose:
    """Create augmentations of an image and its mask.

    Args:
        image_size (int): Side of the images that come out, in pixels.

    Returns:
        v2.Compose: From images ``[3, H, W]``, 0..1 or 0..255, with masks ``[H, W]``, to images 0..1 and masks.
    """
    return v2.Compose([
        v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
        v2.RandomResizedCrop(image_size, scale=(0.45, 1.0), ratio=(0.8, 1.25)),
        v2.RandomHorizontalFlip(),
        v2.RandomVerticalFlip(),
        v2.RandomApply([v2.RandomRotation((90, 90))]),
        v2.RandomApply([v2.ColorJitter(brightness=0.5, contrast=0.5, saturation=0.4, hue=0.1)], p=0.7),
        v2.RandomApply([RandomLight()], p=0.4),
        v2.RandomGrayscale(p=0.2),
        v2.RandomApply([v2.GaussianBlur(5, sigma=(0.3, 2.0))], p=0.3),
        v2.RandomApply([v2.GaussianNoise(sigma=0.03)], p=0.3),
    ])
