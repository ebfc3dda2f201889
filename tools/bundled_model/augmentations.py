# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Augmentations of training images: other frames, other light, other cameras."""

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2


def create_augmentations(image_size: int) -> v2.Compose:
    """Create augmentations of images ``[3, H, W]``, 0..1 or 0..255, and masks ``[H, W]``.

    Args:
        image_size (int): Side of the resulting images, 0..1, in pixels.
    """
    return v2.Compose([
        v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
        v2.RandomResizedCrop(image_size, scale=(0.45, 1.0), ratio=(0.8, 1.25)),
        v2.RandomHorizontalFlip(),
        v2.RandomVerticalFlip(),
        v2.RandomApply([v2.ColorJitter(brightness=0.5, contrast=0.5, saturation=0.4, hue=0.1)], p=0.7),
        v2.RandomGrayscale(p=0.2),
        v2.RandomApply([v2.GaussianBlur(5, sigma=(0.3, 2.0))], p=0.3),
        v2.RandomApply([v2.GaussianNoise(sigma=0.03)], p=0.3),
    ])
