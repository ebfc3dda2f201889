# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Screen output of anomalib's command with FBClip: each message once, and no traceback for a user's mistake.

anomalib's ``configure_logger`` writes every message to both standard output and standard error.
"""

import logging
import os
import sys
import warnings
from pathlib import Path
from types import TracebackType

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.warnings import PossibleUserWarning

from anomalib_fbclip.errors import FAILED, WeightsUnavailableError

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


def configure_screen() -> None:
    """Show only messages that a user can act on, if this process is anomalib's command for a model."""
    if Path(sys.argv[0]).stem != "anomalib" or "benchmark" in sys.argv[1:2]:  # the benchmark logs to a file
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(is_for_users)
    handler.setFormatter(LineFormatter())
    logging.getLogger().handlers = [handler]
    for logger in (logging.getLogger(name) for name in tuple(logging.root.manager.loggerDict)):
        logger.handlers.clear()
        logger.propagate = True
    sys.excepthook = show_error
    if not sys.warnoptions:  # otherwise the user has chosen
        for category in (FutureWarning, PossibleUserWarning):
            warnings.simplefilter("ignore", category)
        for message in EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", message)


def is_for_users(record: logging.LogRecord) -> bool:
    """Tell whether a message is shown: all warnings except a wrong one, and FBClip's messages."""
    if record.levelno >= logging.WARNING:
        return record.getMessage() != WRONG_FOR_FBCLIP
    return record.name.startswith("anomalib_fbclip.") or record.getMessage().startswith("Exported model to ")


class LineFormatter(logging.Formatter):
    """Puts the level before warnings and errors."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a message."""
        text = super().format(record)
        return text if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {text}"


def show_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Show why the command ends; if a file or an argument is wrong, in one line and with exit code 2."""
    expected = MisconfigurationException | OSError | ValueError | WeightsUnavailableError
    if DEBUG in os.environ or not isinstance(error, expected):
        sys.__excepthook__(kind, error, trace)
        return
    print(f"error: {describe(error)}", file=sys.stderr)
    raise SystemExit(FAILED)


def describe(error: BaseException) -> str:
    """Pick the model's own message out of jsonargparse's list of why a value is of no type that it may have."""
    text = str(error)
    reasons = [line[4:] for line in text.splitlines() if line.startswith("  - ") and "- Expected a" not in line]
    return reasons[0] if text.startswith("Does not validate against any") and len(reasons) == 1 else text
