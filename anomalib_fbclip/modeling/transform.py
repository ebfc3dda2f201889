# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""What CLIP wants its images to look like."""

from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torchvision.transforms.v2 import Compose, InterpolationMode, Normalize, Resize

from .resize import AntialiasedResize


def create_transform(image_size: tuple[int, int]) -> Compose:
    """Create the transform of images: the whole image, resized, with CLIP's mean and standard deviation.

    Args:
        image_size (tuple[int, int]): Height and width in pixels.

    Returns:
        Compose: The transform, of RGB values 0..1, shape ``[..., 3, H, W]``.
    """
    return Compose([
        Resize(image_size, interpolation=InterpolationMode.BICUBIC, antialias=True),
        Normalize(mean=OPENAI_DATASET_MEAN, std=OPENAI_DATASET_STD),
    ])


def create_exported_transform(image_size: tuple[int, int]) -> Compose:
    """Create the same transform as an exported graph has it. Good photographs go through it.

    Args:
        image_size (tuple[int, int]): Height and width in pixels.

    Returns:
        Compose: The transform, of RGB values 0..1, shape ``[B, 3, H, W]``.
    """
    return Compose([
        AntialiasedResize(image_size, InterpolationMode.BICUBIC),
        Normalize(mean=OPENAI_DATASET_MEAN, std=OPENAI_DATASET_STD),
    ])
