# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Full precision for masks, norms and probabilities, whatever the model's precision."""

from contextlib import AbstractContextManager, nullcontext

import torch


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Switch autocast off on a device. If it is off already, this adds nothing to an exported graph."""
    return torch.autocast(device.type, enabled=False) if torch.is_autocast_enabled(device.type) else nullcontext()


def to_dtype(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Convert values to a type. If they have it already, this adds nothing to an exported graph."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def to_full(tensor: torch.Tensor) -> torch.Tensor:
    """Convert 16-bit values to float32."""
    return tensor.float() if tensor.dtype.itemsize < torch.float32.itemsize else tensor
