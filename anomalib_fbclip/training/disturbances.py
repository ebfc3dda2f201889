# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Disturbances that a line's camera and lamps have, to measure what they cost."""

from torchvision.transforms import v2

from .augmentations import RandomLight

SIZE = 448
"""Side of the images that are disturbed, in pixels."""


def create_disturbances() -> dict[str, v2.Compose]:
    """Give disturbances by name, each of images ``[3, H, W]``, 0..1, and of their masks ``[H, W]``.

    Returns:
        dict[str, v2.Compose]: The disturbances; random ones take torch's random numbers.
    """
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
