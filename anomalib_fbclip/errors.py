# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Errors that a user can mend, and the end of a command: its exit code and one line.

Only the standard library is imported here, so that a missing or broken library ends a command like any other error.
"""

import os
import signal
import sys
import threading
import traceback
from argparse import ArgumentError
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib.util import find_spec
from types import FrameType

NORMAL, ANOMALOUS, FAILED, INTERRUPTED = 0, 1, 2, 130
"""Exit codes: all photographs are normal, at least one is anomalous, something went wrong, the user stopped it."""

WITHOUT_TORCH = {"numpy": "numpy", "PIL": "pillow", "jinja2": "jinja2", "rich": "rich"}
"""Packages, by their modules, that ``fbclip`` needs beside what runs the model."""

OF_THE_LINE = {"watchfiles": "watchfiles", "httpx": "httpx", "paho": "paho-mqtt"}
"""Packages, by their modules, that ``fbclip watch`` needs."""


class PlainError(Exception):
    """An error that a user can mend. The message is one line: what is wrong, and what to do."""


class ImageError(PlainError):
    """An image can't be used; others can."""


class EdgeError(PlainError):
    """An exported model or a device can't be used."""


class CommandError(PlainError):
    """A command can't begin, or has to stop."""


class WeightsUnavailableError(RuntimeError):
    """Weights are not in their cache and could not be fetched.

    The message says which, why, and where to put them by hand; the advice, what else a user of :class:`FBClip` can do.
    """

    def __init__(self, message: str, advice: str = "") -> None:
        super().__init__(f"{message} {advice}".strip())
        self.message = message


def last_line(error: BaseException) -> str:
    """Return the last line of an error's message, without the source locations that libraries print before it."""
    lines = [line.strip() for line in str(error).splitlines() if any(map(str.isalnum, line))]
    return lines[-1] if lines else type(error).__name__


def run_command(run: Callable[[], int], interrupted: str = "interrupted", traceback_option: str | None = None) -> int:
    """Run a command that imports what it needs, and return its exit code; 2 for any exception, also at an import.

    The option shows where an error comes from. Without one, a traceback is shown for errors that a user can't mend.
    """
    with _noting_interrupts() as interrupts:
        try:
            code = run()
            sys.stdout.flush()
        except (KeyboardInterrupt, Exception) as error:  # noqa: BLE001 - whatever it is, a user gets one line
            if interrupts or isinstance(error, KeyboardInterrupt):
                message, code = interrupted, INTERRUPTED
            else:
                message, code = _describe_in_a_line(error, traceback_option), FAILED
        else:
            return code
    print(message, file=sys.stderr)
    _give_up_output()
    return code


@contextmanager
def _noting_interrupts() -> Generator[list[int]]:
    """Note Ctrl-C, which raises ``KeyboardInterrupt`` as always: libraries may turn that into another error."""
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)
        signal.default_int_handler(number, frame)

    is_usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not is_usual or threading.current_thread() is not threading.main_thread():
        yield noted
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _describe_in_a_line(error: Exception, traceback_option: str | None) -> str:
    """Describe any error in a line, with its traceback before it if that is wanted or is all that helps."""
    line = describe_error(error)
    if traceback_option in sys.argv or not (line or traceback_option):
        traceback.print_exc()
    unknown = f"{type(error).__name__}: {last_line(error)}"
    hint = f" ({traceback_option} shows where)" if traceback_option else ""
    return f"error: {line or unknown + hint}"


def describe_error(error: Exception) -> str | None:
    """Say in one line what went wrong and what to do; ``None`` for an error that a user can't mend."""
    if isinstance(error, ModuleNotFoundError) and error.name and not find_spec(error.name.partition(".")[0]):
        return _describe_missing(error.name.partition(".")[0])
    if isinstance(error, BrokenPipeError):
        return "the output was closed: nothing reads it any more."
    if isinstance(error, PlainError | ValueError):
        return last_line(error)
    if isinstance(error, PermissionError) and error.filename is not None:
        return f"{error.filename!r} can't be used: {error.strerror}. Give this user access to it and to its folder."
    if isinstance(error, ArgumentError | OSError):
        return " ".join(str(error).split())
    return None


def _describe_missing(module: str) -> str:
    """Name a module that is not installed and, if it is one of a few that belong together, the others that are not."""
    if module in OF_THE_LINE:
        alone = f"pip install {' '.join(OF_THE_LINE.values())}"
        return f"{OF_THE_LINE[module]} is missing: pip install 'anomalib-fbclip[line]', or, without torch, {alone}"
    missing = [name for name in WITHOUT_TORCH if not find_spec(name)] if module in WITHOUT_TORCH else [module]
    packages = [WITHOUT_TORCH.get(name, name) for name in missing]
    return f"{' and '.join(packages)} {'is' if len(packages) == 1 else 'are'} missing: pip install {' '.join(packages)}"


def _give_up_output() -> None:
    """Keep Python from failing once more at its end because standard output is closed."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
