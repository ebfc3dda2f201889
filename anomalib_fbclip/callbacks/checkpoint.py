# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Checkpoints that can't be read."""

from pathlib import Path

from anomalib.utils.serialization import anomalib_safe_globals
from lightning.fabric.plugins import TorchCheckpointIO

from anomalib_fbclip.checkpoints.reading import reading


def check_checkpoint(path: str | Path) -> None:
    """Check that anomalib's engine can read a checkpoint, without running code from it.

    It is for when a run with a checkpoint has failed: to read it again tells whether the checkpoint is the reason.

    Args:
        path (str | Path): The checkpoint.

    Raises:
        ValueError: If it can't be read.
    """
    with reading(f"Checkpoint '{path}'"), anomalib_safe_globals():
        TorchCheckpointIO().load_checkpoint(path, weights_only=True)
