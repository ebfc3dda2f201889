# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The end of a failed run of the trainer: one line for the user, and an exit code."""

import signal
import sys
from pathlib import Path

from anomalib.utils.serialization import anomalib_safe_globals
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from anomalib_fbclip.data.labeled_samples import MaskError
from anomalib_fbclip.data.references import ReferencesError
from anomalib_fbclip.errors import FAILED, INTERRUPTED, ImageError
from anomalib_fbclip.weights.tensor_files import reading

from .checked_data import ClipError
from .results_folder import is_command_line

EXPECTED = (OSError, ImportError, ClipError, ImageError, MaskError, ReferencesError)
"""Errors whose message is enough for a user."""


class Interruption(Callback):
    """Ends a run that the user stopped, or that failed because of its input.

    It must be called after the callbacks that write results.
    """

    @staticmethod
    def on_exception(trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Print the reason in one line.

        Raises:
            SystemExit: If the user stopped the run, or this is anomalib's command line.
            ValueError: If the checkpoint can't be read.
        """
        del pl_module
        if isinstance(exception, KeyboardInterrupt) and trainer.state.fn != TrainerFn.FITTING:
            if trainer.strategy.launcher:
                trainer.strategy.launcher.kill(signal.SIGTERM)  # the other processes
            raise SystemExit(INTERRUPTED) from None
        checkpoint_error = _check_checkpoint(trainer, exception)
        error = checkpoint_error or exception
        if (isinstance(error, EXPECTED) or checkpoint_error) and is_command_line(trainer):
            print(f"error: {_one_line(error)}", file=sys.stderr)
            raise SystemExit(FAILED) from None
        if checkpoint_error:
            raise checkpoint_error from None  # a traceback would show torch's advice


def _check_checkpoint(trainer: Trainer, exception: BaseException) -> ValueError | None:
    """Return an error if a run's checkpoint can't be read."""
    if not trainer.ckpt_path or not isinstance(exception, Exception):
        return None
    try:
        check_checkpoint(trainer.ckpt_path)
    except ValueError as error:
        return error
    return None


def _one_line(error: BaseException) -> str:
    """Return an error's message without the traceback that a dataloader's worker adds."""
    last = str(error).strip().splitlines()[-1]
    return last.removeprefix(f"{type(error).__module__}.{type(error).__qualname__}: ")


def check_checkpoint(path: str | Path) -> None:
    """Check, after a run has failed, that anomalib's engine can read a checkpoint without running code from it.

    Raises:
        ValueError: If it can't be read.
    """
    with reading(f"Checkpoint '{path}'"), anomalib_safe_globals():
        TorchCheckpointIO().load_checkpoint(path, weights_only=True)
