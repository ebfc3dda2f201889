# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Full precision for masks, norms and probabilities, whatever the precision of the model around."""

from contextlib import AbstractContextManager, nullcontext

import torch


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Switch autocast off, if it is on: only then is there something to switch in an exported graph, too.

    Args:
        device (torch.device): Where the tensors are.

    Returns:
        AbstractContextManager[object]: A context without autocast.
    """
    return torch.autocast(device.type, enabled=False) if torch.is_autocast_enabled(device.type) else nullcontext()


def to_dtype(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Convert values to a type. Those that have it stay as they are, without a node in an exported graph."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def to_full(tensor: torch.Tensor) -> torch.Tensor:
    """Convert values of 16 bits to float32, and leave others as they are."""
    return tensor.float() if tensor.dtype.itemsize < torch.float32.itemsize else tensor
