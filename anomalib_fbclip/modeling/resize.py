# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""CLIP's normalization of images, and resizing that gives the same pixels in an exported graph.

Neither ONNX Runtime nor OpenVINO has torch's antialiased resize with dynamic sizes. Resizing one side is linear, so it
is a product with a matrix that depends only on the image's size. Any runtime can compute that.
"""

from collections.abc import Callable

import torch
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import nn
from torchvision.transforms.v2 import Compose, InterpolationMode, Normalize, Resize


def create_transform(image_size: tuple[int, int]) -> Compose:
    """Create the transform of RGB values 0..1, ``[..., 3, H, W]``: resizing, and CLIP's mean and standard deviation."""
    return Compose([
        Resize(image_size, interpolation=InterpolationMode.BICUBIC, antialias=True),
        Normalize(mean=OPENAI_DATASET_MEAN, std=OPENAI_DATASET_STD),
    ])


def create_exported_transform(image_size: tuple[int, int]) -> Compose:
    """Create the same transform in the form of an exported graph, which good photographs go through."""
    return Compose([
        AntialiasedResize(image_size, InterpolationMode.BICUBIC),
        Normalize(mean=OPENAI_DATASET_MEAN, std=OPENAI_DATASET_STD),
    ])


class AntialiasedResize(nn.Module):
    """Resizes images as ``Resize(..., antialias=True)`` does, by a product with two matrices.

    Args:
        size (tuple[int, int]): Height and width of the result in pixels.
        interpolation (InterpolationMode): ``BILINEAR`` or ``BICUBIC``.

    Example:
        >>> resize = AntialiasedResize((224, 224), InterpolationMode.BICUBIC)
        >>> resize(torch.rand(1, 3, 576, 768)).shape
        torch.Size([1, 3, 224, 224])
    """

    def __init__(self, size: tuple[int, int], interpolation: InterpolationMode) -> None:
        super().__init__()
        self.size = size
        self.interpolation = interpolation

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Resize images of floating-point values, shape ``[..., H, W]``, to ``[..., height, width]``."""
        # Flat: a fixed size makes the matrices constant, and OpenVINO 2026.4 then mistakes the channels of a following
        # normalization for rows or columns, and refuses the graph. All operands have three dimensions from the start:
        # where one is added, OpenVINO may compute in 16 bits even what is marked as precise.
        return self.multiply(images.flatten(0, -3)).unflatten(0, images.shape[:-2])

    def multiply(self, images: torch.Tensor) -> torch.Tensor:
        """Multiply with the matrices of both sides."""
        kernel = KERNELS[self.interpolation]
        vertical, horizontal = (
            resize_matrix(side, resized_side, kernel, images.device).to(images.dtype)
            for side, resized_side in zip(images.shape[-2:], self.size, strict=True)
        )
        return vertical @ (images @ horizontal.mT)


class NormalizedResize(AntialiasedResize):
    """Resizes normalized images. See :class:`AntialiasedResize`."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Resize images, shape ``[B, C, H, W]``, to ``[B, C, height, width]``."""
        # Not flat: an 8-bit graph has a normalization before this, and OpenVINO 2026.4 would mistake the rows for
        # channels, and refuse the graph.
        return self.multiply(images)


def resize_matrix(
    side: int,
    resized_side: int,
    kernel: Callable[[torch.Tensor], torch.Tensor],
    device: torch.device | None = None,
) -> torch.Tensor:
    """Compute the matrix that resizes one side of an image with antialiasing.

    Each pixel of the result averages the pixels around its center, weighted by the kernel, which is stretched if the
    side shrinks. Tensor operations compute the matrix, so that an exported graph does so for any image size.

    Args:
        side (int): Pixels of the side; may be symbolic.
        resized_side (int): Pixels of the side after the resize.
        kernel (Callable[[torch.Tensor], torch.Tensor]): Weight by the distance in pixels.
        device (torch.device | None): Device of the result.

    Returns:
        torch.Tensor: Matrix of shape ``[1, resized_side, side]`` whose rows sum to 1.
    """
    # No differences or quotients: OpenVINO may compute them in 16 bits even where they are marked as precise.
    scale = torch.scalar_tensor(side, device=device) / resized_side
    negative_scale = torch.scalar_tensor(side, device=device) / -resized_side
    negative_centers = (torch.arange(resized_side, device=device)[None, :, None] + 0.5) * negative_scale
    distances = (torch.arange(side, device=device) + negative_centers + 0.5) * _inverse(scale.clamp(min=1))
    weights = kernel(distances)
    return weights * _inverse(weights.sum(dim=-1, keepdim=True))


def _inverse(values: torch.Tensor) -> torch.Tensor:
    """Divide 1 by positive values."""
    return values.pow(-0.5).square()


def triangle(distance: torch.Tensor) -> torch.Tensor:
    """Weigh pixels by their distance, as a bilinear resize does."""
    return (1 - distance.abs()).clamp(min=0)


def cubic(distance: torch.Tensor) -> torch.Tensor:
    """Weigh pixels by their distance, as an antialiased bicubic resize does: Keys' kernel with a = -½."""
    distance = distance.abs()
    near = (1.5 * distance - 2.5) * distance.square() + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))  # noqa: PLR2004


KERNELS: dict[InterpolationMode, Callable[[torch.Tensor], torch.Tensor]] = {
    InterpolationMode.BILINEAR: triangle,
    InterpolationMode.BICUBIC: cubic,
}
"""Kernels of torch's antialiased resizes."""
