# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""What is computed in full precision, whatever the precision of the model around: masks, norms and probabilities."""

from contextlib import AbstractContextManager, nullcontext

import torch

ALTERNATIVES = {
    "16-true": "16-mixed, or --model.backbone_precision float16 to save memory",
    "bf16-true": "bf16-mixed, or --model.backbone_precision bfloat16 to save memory",
    "64-true": "32-true",
}
"""Precisions of the trainer in which the whole module is converted, thresholds included, and what to take instead."""


class PrecisionError(ValueError):
    """A precision of the trainer can't be used. The message is one line: which one, why, and what to take instead."""


def check_precision(precision: str) -> None:
    """Check that a precision of the trainer leaves thresholds, masks and scores as they are.

    Args:
        precision (str): Precision of the trainer, as lightning names it.

    Raises:
        PrecisionError: If the trainer would convert the whole module to it.
    """
    if precision in ALTERNATIVES:
        msg = (
            f"Trainer precision {precision!r} converts FBClip's thresholds and masks, too, and with them the verdicts: "
            f"take {ALTERNATIVES[precision]}."
        )
        raise PrecisionError(msg)


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Switch autocast off, if it is on: only then is there something to switch in an exported graph, too.

    Args:
        device (torch.device): Where the tensors are.

    Returns:
        AbstractContextManager[object]: A context without autocast.
    """
    return torch.autocast(device.type, enabled=False) if torch.is_autocast_enabled(device.type) else nullcontext()


def to_full(tensor: torch.Tensor) -> torch.Tensor:
    """Convert values of 16 bits to float32, and leave others as they are."""
    return tensor.float() if tensor.dtype.itemsize < torch.float32.itemsize else tensor
