# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Screen output of anomalib's command with FBClip: each message once, and no traceback of a user's mistake.

anomalib's ``configure_logger`` writes every message both to standard output and to standard error.
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
"""Environment variable that asks for the traceback; it is jsonargparse's."""

WRONG_FOR_FBCLIP = "ckpt_path is not provided. Model weights will not be loaded."
"""Warning of anomalib that does not apply: FBClip has its weights without a checkpoint."""

EXPECTED_WARNINGS = (
    "Total length of `",
    "The following callbacks returned in `LightningModule.configure_callbacks` will override",
    "This DataLoader will create",
    "'pin_memory' argument is set as true but no accelerator is found",
)
"""Beginnings of warnings about what anomalib and FBClip do on purpose."""


def configure_screen() -> None:
    """Show what a user can act on, if this process is anomalib's command for a model. Programs log as they like."""
    if Path(sys.argv[0]).stem != "anomalib" or "benchmark" in sys.argv[1:2]:  # which logs to a file, for all models
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(is_for_users)
    handler.setFormatter(LineFormatter())
    logging.getLogger().handlers = [handler]
    for logger in (logging.getLogger(name) for name in tuple(logging.root.manager.loggerDict)):
        logger.handlers.clear()
        logger.propagate = True
    sys.excepthook = show_error
    if not sys.warnoptions:  # otherwise the user has said which warnings to show
        for category in (FutureWarning, PossibleUserWarning):
            warnings.simplefilter("ignore", category)
        for message in EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", message)


def is_for_users(record: logging.LogRecord) -> bool:
    """Tell whether a message is shown: warnings, but for a wrong one, and what FBClip says."""
    if record.levelno >= logging.WARNING:
        return record.getMessage() != WRONG_FOR_FBCLIP
    return record.name.startswith("anomalib_fbclip.") or record.getMessage().startswith("Exported model to ")


class LineFormatter(logging.Formatter):
    """Writes information as it is, and says of warnings and errors that they are."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a message."""
        text = super().format(record)
        return text if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {text}"


def show_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Show why the command ends: without a traceback, and with exit code 2, where a file or an argument is wrong."""
    expected = MisconfigurationException | OSError | ValueError | WeightsUnavailableError
    if DEBUG in os.environ or not isinstance(error, expected):
        sys.__excepthook__(kind, error, trace)
        return
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(FAILED)
