# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Screen output of an inspection: a line for each photograph, and the progress. Logs of libraries go to a file."""

import logging
import sys
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from anomalib_fbclip.images.image_files import printable
from anomalib_fbclip.results.records import Record

LOG_NAME = "fbclip.log"

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

STYLES = {"anomalous": "bold red", "normal": "green", "unknown": "bold magenta", "error": "bold yellow"}


class Terminal(Console):
    """A console that raises an error if the output is closed."""

    def on_broken_pipe(self) -> None:  # noqa: PLR6301 - Rich's
        """Raise the error that is being handled."""
        raise  # noqa: PLE0704 - called while the error is handled


class Screen:
    """Shows lines on standard output, with colors and a progress bar on a terminal.

    With ``as_json``, records are shown as JSON lines, and other lines go to standard error.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._console = Terminal(stderr=as_json, highlight=False, markup=False, emoji=False, soft_wrap=True)

    def tell(self, *lines: str) -> None:
        """Show lines."""
        for line in lines:
            self._console.print(Text(line))

    def show(self, record: Record) -> None:
        """Show a photograph's row of the table."""
        if self._as_json:
            sys.stdout.write(record.to_json())
            sys.stdout.flush()
        else:
            self._console.print(to_line(record))

    @contextmanager
    def progress(self, what: str, total: int | None, passes: int = 1) -> Generator[Callable[..., None]]:
        """Show a progress bar on a terminal, for some passes over a number of photographs, if that is known.

        What it yields is called after each photograph of each pass, or with the share of a photograph.
        """
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        # On the lines' console, if it is a terminal, lines stay above the bar.
        console = self._console if self._console.is_terminal else Console(stderr=True)
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task(what, total=total)
            yield lambda share=1.0: progress.advance(task, share / passes)


def to_line(record: Record) -> Text:
    """Format a row of the table as a line: the verdict, the score and the file, or the error."""
    if record.error is not None:
        return Text.assemble(("error      ", STYLES["error"]), "       ", printable(record.error))
    verdict = record.verdict or "no verdict"
    return Text.assemble(
        (f"{verdict:<11}", STYLES.get(verdict, "")),
        f"{record.score:.3f}  ",
        printable(record.path or ""),
        "" if record.product is None else f"  ({printable(record.product)})",
        "" if record.same_as is None else f"  (same as the good photograph {printable(record.same_as)})",
    )


def count_verdicts(counts: Counter[str]) -> str:
    """Format the number of photographs by verdict."""
    unknown = f", {counts['unknown']} unlike all products" if counts["unknown"] else ""
    errors = f", {counts['error']} could not be read" if counts["error"] else ""
    total = count(sum(counts.values()), "photograph")
    return f"{total}: {counts['anomalous']} anomalous, {counts['normal']} normal{unknown}{errors}"


def count(number: int, noun: str) -> str:
    """Format a number and a noun, such as ``2 photographs``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


@contextmanager
def logging_to(folder: Path | None, *, verbose: bool) -> Generator[None]:
    """Send log messages and warnings to a file in a folder, which is created at the first message.

    ``None``: to no file. If ``verbose``, they are shown on the screen, too.
    """
    handlers: list[logging.Handler] = [
        logging.FileHandler(folder / LOG_NAME, delay=True, encoding="utf-8") if folder else logging.NullHandler()
    ]
    if verbose:
        handlers.append(logging.StreamHandler(sys.stderr))
    root = logging.getLogger()
    earlier, level = root.handlers[:], root.level
    root.handlers = handlers
    root.setLevel(logging.INFO)
    logging.captureWarnings(capture=True)
    raises, logging.raiseExceptions = logging.raiseExceptions, False  # a full disk is reported elsewhere
    for handler in handlers:
        handler.setFormatter(logging.Formatter(FORMAT))
    try:
        yield
    finally:
        for handler in handlers:
            handler.close()
        root.handlers = earlier
        root.setLevel(level)
        logging.captureWarnings(capture=False)
        logging.raiseExceptions = raises
