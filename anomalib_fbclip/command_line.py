# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""anomalib's command line for commands that name FBClip: the same commands, without what a user can't act on.

Each message is one line, on standard error, and once. An error is one line that says what to do. With
``JSONARGPARSE_DEBUG=1`` in the environment it is raised, so that Python shows where it comes from.
"""

import argparse
import difflib
import inspect
import logging
import os
import re
import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import NoReturn, TypeVar

from anomalib.cli.cli import AnomalibCLI
from anomalib.data import AnomalibDataModule
from anomalib.models.components import AnomalibModule
from jsonargparse import ArgumentParser, DefaultHelpFormatter
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.warnings import PossibleUserWarning

from .contract.commands import FAILED
from .contract.records import printable
from .lightning_model import FBClip

DEBUG = "JSONARGPARSE_DEBUG"
"""Environment variable with which errors are raised; jsonargparse has it for its own."""

EXPECTED = (MisconfigurationException, OSError, RuntimeError, ValueError)
"""Errors that tell a user what is wrong: files, weights, arguments and data."""

SPEAKERS = ("anomalib", "anomalib_fbclip")
"""Packages whose information is shown. Of all others, warnings are."""

SILENT = (
    "anomalib.callbacks",
    "anomalib.callbacks.timer",  # its throughput includes the pictures and the metrics
    "anomalib.engine.engine",
    "anomalib.models.components.base.anomalib_module",
    "anomalib_fbclip.checkpoints.clip_files",
)
"""Their parts that only say that a step begins, or how long it took."""

EXPORTED = "Exported model to "
"""What anomalib's only information on the root logger begins with."""

WITH_HANDLERS = (
    "lightning",
    "lightning.fabric",
    "lightning.pytorch",
    "lightning_fabric",
    "pytorch_lightning",
    "torchmetrics",
    "huggingface_hub",
)
"""Loggers that write to the screen by themselves."""

WRONG_FOR_FBCLIP = "ckpt_path is not provided. Model weights will not be loaded."
"""What anomalib warns of. FBClip has its weights without a checkpoint."""

LIBRARIES_OWN = (
    r"Total length of `(list|DataLoader)` across ranks is zero",
    r"The following callbacks returned in `LightningModule.configure_callbacks` will override",
    r"This DataLoader will create \d+ worker processes",
    r"'pin_memory' argument is set as true but no accelerator is found",
)
"""Warnings about what anomalib and FBClip do on purpose."""

STRUCTURE = ("Parser key", "Does not validate", "Subtypes:", "Errors:", "Given value", "Problem with")
"""What lines of jsonargparse's errors begin with that hold others together."""

Instance = TypeVar("Instance")


def main() -> None:
    """Run a command."""
    configure_screen()
    with errors_in_one_line():
        FBClipCLI()


class FBClipCLI(AnomalibCLI):
    """anomalib's command line with errors of one line."""

    @staticmethod
    def init_parser(**kwargs) -> ArgumentParser:
        """Create a parser. See :meth:`anomalib.cli.cli.AnomalibCLI.init_parser`."""
        parser = AnomalibCLI.init_parser(**kwargs)
        parser.__class__ = Parser
        parser.error = _fail  # type: ignore[method-assign] # a subclass would be made again for each class's arguments
        for class_type in (AnomalibModule, AnomalibDataModule):
            parser.add_instantiator(_instantiate, class_type)
        return parser


class HelpFormatter(DefaultHelpFormatter):
    """jsonargparse's help of a class, without the marks of docstrings."""

    def _get_help_string(self, action: argparse.Action) -> str:
        return without_marks(super()._get_help_string(action))


class Parser(ArgumentParser):
    """A parser like which jsonargparse makes those that show the help of a class."""

    def __init__(self, *args, formatter_class: type[DefaultHelpFormatter] = HelpFormatter, **kwargs) -> None:
        super().__init__(*args, formatter_class=formatter_class, **kwargs)


def without_marks(text: str) -> str:
    """Write a docstring's words as the help of an argument, which says by itself what the default is.

    Args:
        text (str): The words, and after them the type and the default in parentheses.

    Returns:
        str: The same without the marks of reStructuredText, and with the default said once.

    Example:
        >>> without_marks("Rate of :class:`~torch.optim.Adam`. Defaults to ``5e-5``. (type: float, default: 5e-05)")
        'Rate of Adam. (type: float, default: 5e-05)'
    """
    text = re.sub(r"\s*Defaults\s+to\s(?:(?!Defaults\s+to).)*\.(?=\s*\(type)", "", text, flags=re.DOTALL)
    text = text.replace("``None``", "null")  # as it is written in a command line
    text = re.sub(r":\w+:`(?:~[\w.]*\.)?([\w.]+)`", r"\1", text)
    return re.sub(r'``"?([^`"]*)"?``', r"\1", text)


def configure_screen() -> None:
    """Have each message shown once, in one line, if it is one for users."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter())
    handler.addFilter(is_for_users)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    for name in WITH_HANDLERS:
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    if sys.warnoptions:  # the user has said which warnings to show
        return
    for category in (FutureWarning, DeprecationWarning, PossibleUserWarning):
        warnings.simplefilter("ignore", category)
    for message in LIBRARIES_OWN:
        warnings.filterwarnings("ignore", f".*{message}")


def is_for_users(record: logging.LogRecord) -> bool:
    """Tell whether a message is shown."""
    if record.levelno >= logging.WARNING:
        return record.getMessage() != WRONG_FOR_FBCLIP
    is_of_speakers = record.name.partition(".")[0] in SPEAKERS and record.name not in SILENT
    return is_of_speakers or (record.name == "root" and record.getMessage().startswith(EXPORTED))


class LineFormatter(logging.Formatter):
    """Writes information as it is, and says of warnings and errors that they are."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a message."""
        text = super().format(record)
        return text if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {text}"


@contextmanager
def errors_in_one_line() -> Generator[None]:
    """End the process with one line where something goes wrong that a user is told of.

    Yields:
        None: Nothing.

    Raises:
        SystemExit: With code 2.
    """
    try:
        yield
    except EXPECTED as error:
        if DEBUG in os.environ or not str(error).strip():
            raise
        # A plain RuntimeError may be anything, so its place may matter.
        where = f" ({DEBUG}=1 shows where)" if type(error) is RuntimeError else ""
        _stop(f"{printable(' '.join(str(error).split()))}{where}")


def _stop(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(FAILED) from None


def _instantiate(class_type: type[Instance], *args, **kwargs) -> Instance:
    """Create a model or a datamodule; jsonargparse would wrap its error in others."""
    with errors_in_one_line():
        return class_type(*args, **kwargs)


def _fail(message: str, ex: Exception | None = None) -> NoReturn:
    """Take the place of a parser's ``error``."""
    if DEBUG in os.environ:
        raise ex or ValueError(message)
    _stop(shorten(message))


def shorten(message: str) -> str:
    """Say in one line what jsonargparse says in many: which argument is wrong, and why.

    Args:
        message (str): An error of jsonargparse.

    Returns:
        str: One line.

    Example:
        >>> shorten("Option 'predict.data' is required but not provided or its value is None.")
        '--data is missing.'
    """
    missing = re.match(r"Option '\w+\.([\w.]+)' is required", message)
    if missing:
        return f"--{missing[1]} is missing."
    option = "--" + ".".join(re.findall(r'Parser key "([\w.]+)"', message))
    unknown = re.search(r"Option '([\w.]+)' is not accepted", message)
    if unknown:
        return _describe_unknown(option, unknown[1])
    lines = message.splitlines()
    if len(lines) == 1 or option == "--":
        return " ".join(message.split())
    nowhere = re.search(r"Expected a dot import path string: (.*)", message)
    if nowhere:
        return f"{option} {nowhere[1]} is neither the name of a class nor a config file."
    return f"{option}: {_find_reason(lines)}"


def _describe_unknown(option: str, name: str) -> str:
    known = list(inspect.signature(FBClip).parameters) if option == "--model" else []
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {option}.{near[0]}?" if near else f"See {option}.help."
    return f"{option}.{name} is no argument. {hint}"


def _find_reason(lines: list[str]) -> str:
    """Find the reasons that are nested most deeply, and the value that they are about."""
    reasons = [line for line in lines if not line.lstrip(" -").startswith(STRUCTURE) and "NoneType" not in line]
    deepest = max(reasons, key=_indentation, default=lines[0])
    same = [line.lstrip(" -") for line in reasons if _indentation(line) == _indentation(deepest)]
    reason = re.sub(r"Not of type \w+: |typing\.|<class '(\w+)'>", r"\1", " or ".join(same) or deepest)
    reason = reason.replace("Expected a int", "Expected an int")
    values = [line.strip().removeprefix("Given value: ") for line in lines if line.lstrip().startswith("Given value: ")]
    return f"{reason}, not {values[0]}" if len(values) > 1 else reason.replace(". Got value: ", ", not ")


def _indentation(line: str) -> int:
    return len(line) - len(line.lstrip())
