# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Screen output of anomalib's command with FBClip: each message once, and one line for a run that fails.

anomalib's ``configure_logger`` writes every message to both standard output and standard error.
"""

import logging
import os
import signal
import sys
import warnings
from pathlib import Path
from types import TracebackType

from anomalib.utils.serialization import anomalib_safe_globals
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from anomalib_fbclip.data.auxiliary import MaskError
from anomalib_fbclip.data.references import ReferencesError
from anomalib_fbclip.errors import FAILED, INTERRUPTED, ImageError, WeightsUnavailableError
from anomalib_fbclip.weights.tensor_files import reading

from .callbacks.checked_data import ClipError
from .trainer_run import is_command_line

DEBUG = "JSONARGPARSE_DEBUG"
"""jsonargparse's environment variable that turns on tracebacks."""

WRONG_FOR_FBCLIP = "ckpt_path is not provided. Model weights will not be loaded."
"""A warning of anomalib that is wrong here: FBClip has weights without a checkpoint."""

EXPECTED_WARNINGS = (
    "Total length of `",
    "The following callbacks returned in `LightningModule.configure_callbacks` will override",
    "This DataLoader will create",
    "'pin_memory' argument is set as true but no accelerator is found",
)
"""Beginnings of warnings about what anomalib and FBClip do on purpose."""

EXPECTED_ERRORS = (OSError, ImportError, ClipError, ImageError, MaskError, ReferencesError)
"""Errors of a run whose message is enough for a user."""


def configure_screen() -> None:
    """Show only messages that a user can act on, if this process is anomalib's command for a model."""
    if Path(sys.argv[0]).stem != "anomalib" or "benchmark" in sys.argv[1:2]:  # the benchmark logs to a file
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_is_for_users)
    handler.setFormatter(_LineFormatter())
    logging.getLogger().handlers = [handler]
    for logger in (logging.getLogger(name) for name in tuple(logging.root.manager.loggerDict)):
        logger.handlers.clear()
        logger.propagate = True
    sys.excepthook = _show_error
    if not sys.warnoptions:  # otherwise the user has chosen
        for category in (FutureWarning, PossibleUserWarning):
            warnings.simplefilter("ignore", category)
        for message in EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", message)


def _is_for_users(record: logging.LogRecord) -> bool:
    """Tell whether a message is shown: all warnings except a wrong one, and FBClip's messages."""
    if record.levelno >= logging.WARNING:
        return record.getMessage() != WRONG_FOR_FBCLIP
    return record.name.startswith("anomalib_fbclip.") or record.getMessage().startswith("Exported model to ")


class _LineFormatter(logging.Formatter):
    """Puts the level before warnings and errors."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a message."""
        text = super().format(record)
        return text if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {text}"


def _show_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Show why the command ends; if a file or an argument is wrong, in one line and with exit code 2."""
    expected = MisconfigurationException | OSError | ValueError | WeightsUnavailableError
    if DEBUG in os.environ or not isinstance(error, expected):
        sys.__excepthook__(kind, error, trace)
        return
    print(f"error: {_pick_reason(error)}", file=sys.stderr)
    raise SystemExit(FAILED)


def _pick_reason(error: BaseException) -> str:
    """Pick the model's own message out of jsonargparse's list of why a value is of no type that it may have."""
    text = str(error)
    reasons = [line[4:] for line in text.splitlines() if line.startswith("  - ") and "- Expected a" not in line]
    return reasons[0] if text.startswith("Does not validate against any") and len(reasons) == 1 else text


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
        if isinstance(exception, KeyboardInterrupt) and trainer.state.fn != TrainerFn.FITTING:
            if trainer.strategy.launcher:
                trainer.strategy.launcher.kill(signal.SIGTERM)  # the other processes
            raise SystemExit(INTERRUPTED) from None
        checkpoint_error = _find_checkpoint_error(trainer, exception)
        error = checkpoint_error or exception
        if (isinstance(error, EXPECTED_ERRORS) or checkpoint_error) and is_command_line(trainer):
            print(f"error: {_one_line(error)}", file=sys.stderr)
            raise SystemExit(FAILED) from None
        if checkpoint_error:
            raise checkpoint_error from None  # a traceback would show torch's advice


def _find_checkpoint_error(trainer: Trainer, exception: BaseException) -> ValueError | None:
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
