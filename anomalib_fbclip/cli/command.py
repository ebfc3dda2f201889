# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The command ``fbclip``."""

import argparse
import io
import shlex
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path

from anomalib_fbclip.errors import CommandError
from anomalib_fbclip.images.image_files import find_images, printable
from anomalib_fbclip.results.files import find_missing, link_latest, make_next, removing_on_error
from anomalib_fbclip.results.good_photographs import (
    describe_colors,
    describe_inspected_references,
    describe_swap,
    find_copies,
)
from anomalib_fbclip.results.records import TABLE_NAME, Record, Verdict
from anomalib_fbclip.results.report import REPORT_NAME, Entry, Thresholds, describe_good, write_report
from anomalib_fbclip.results.thresholds import UNLABELED, USUAL_THRESHOLD, describe_guess, describe_verdicts

from .arguments import create_parser, parse_arguments, parse_check, without_thresholds, writing
from .inspection import Inspection
from .models import Ready, find_good, get_ready
from .packaged import run_configs, run_example
from .product import run_product, run_teach
from .screen import Screen, count_verdicts, logging_to
from .sources import find_inputs
from .watch import run_watch


def run_check(arguments: Sequence[str]) -> int:
    """Run ``fbclip check``: inspect labeled photographs, and count the verdicts."""
    options = parse_check(arguments)
    good, bad = (
        [file for path in side for file in find_images(path, options.output)]
        for side in (options.known_good, options.bad)
    )
    for file, same in find_copies(bad, good).items():
        msg = f"{printable(file)} and {printable(same)} are the same photograph: leave out the good or the bad one."
        raise CommandError(msg)

    def label(name: str) -> Verdict:
        given = [path for path in (*options.known_good, *options.bad) if _is_of(name, path)]
        return "anomalous" if max(given, key=lambda path: len(path.parts)) in options.bad else "normal"

    return inspect(options, ["check", *without_thresholds(arguments)], label)


def _is_of(name: str, given: Path) -> bool:
    """Return whether the name of a photograph, or of a frame, is of a given file, folder or camera."""
    return Path(name).is_relative_to(given) or name.startswith((f"{given.as_posix()}#", f"camera {given}#"))


SUBCOMMANDS = {
    "configs": run_configs,
    "example": run_example,
    "teach": run_teach,
    "product": run_product,
    "check": run_check,
    "watch": run_watch,
}
"""Commands by their first argument. Any other argument is a photograph to inspect."""


def run_arguments(arguments: Sequence[str]) -> int:
    """Run the command, and return the exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for file names that the screen can't show
    if arguments and arguments[0] in SUBCOMMANDS:
        return SUBCOMMANDS[arguments[0]](arguments[1:])
    return inspect(parse_arguments(create_parser(), arguments), without_thresholds(arguments))


def inspect(options: argparse.Namespace, command: Sequence[str], label: Callable[[str], Verdict] | None = None) -> int:
    """Load a model, inspect photographs with it, write the results, and return the exit code.

    The command is that of the report, without thresholds. ``label`` returns a photograph's true verdict by its name.
    """
    with writing(options.output, "folder"):
        inputs = find_inputs(options.photographs, [folder for folder in (options.output, options.good) if folder])
        good = find_good(options.good, options.shots) if options.good else []
        screen = Screen(as_json=options.json)
        missing = find_missing(options.output)
        folder = make_next(options.output)
        with logging_to(folder, verbose=options.verbose):
            with removing_on_error([folder, *missing]):
                ready = get_ready(options, good, inputs.files, screen, at_once=inputs.at_once)
            link_latest(folder)
            copies = find_copies(inputs.files, ready.good)
            screen.tell(*ready.lines, *describe_inspected_references(copies, inputs.total), *inputs.notes)
            inspection = Inspection(ready.inferencer, folder, copies, full_size=options.full_size, label=label)
            with showing(inputs.total, ready, screen) as show:
                report(folder / REPORT_NAME, inspection.entries(inputs, show), options, command, ready)
            screen.tell(*summarize(inspection, ready))
            screen.tell(f"Report: {folder / REPORT_NAME}", f"Table:  {folder / TABLE_NAME}.csv and .jsonl")
            if inspection.is_interrupted:
                raise KeyboardInterrupt
            return inspection.exit_code


@contextmanager
def showing(total: int | None, ready: Ready, screen: Screen) -> Generator[Callable[[Record], None]]:
    """Show the progress: by photograph or, if there is only one, by view. What it yields shows a row."""
    with screen.progress("Photographs", total) as advance:
        by_view = ready.watch if total == 1 else None
        if by_view:
            by_view(advance)

        def show(record: Record) -> None:
            screen.show(record)
            if not by_view:
                advance()

        yield show


def report(
    path: Path, entries: Iterable[Entry], options: argparse.Namespace, command: Sequence[str], ready: Ready
) -> None:
    """Write the report. See :func:`inspect`."""
    image, pixel = ready.inferencer.decision_thresholds()
    image_source, pixel_source = ready.inferencer.threshold_sources()
    compared = {"Good photographs": describe_good(ready.good, ready.kept)}
    write_report(
        path,
        entries,
        Thresholds(
            USUAL_THRESHOLD if image is None else image,
            USUAL_THRESHOLD if pixel is None else pixel,
            image_source or "exported file",
            pixel_source or "exported file",
        ),
        f"{shlex.join(['fbclip', *command])} --threshold {{threshold}} --pixel-threshold {{pixel_threshold}}",
        {"Model": ready.inferencer.describe()} | ({"Compared with": UNLABELED} if ready.is_mutual else compared),
        ready.good_scores,
        describe_feedback(options.good, options.product),
    )


def describe_feedback(good: Path | None, products: Sequence[Path]) -> str | None:
    """Return the command that adds ``{photographs}`` to the good ones; ``None`` if there are no good ones."""
    if good is not None and good.is_dir():
        return f"cp {{photographs}} {shlex.quote(str(good))}"
    if len(products) == 1:
        return f"fbclip teach {shlex.quote(str(products[0]))} --add {{photographs}}"
    return None


def summarize(inspection: Inspection, ready: Ready) -> list[str]:
    """Count the verdicts, and doubt them where there is reason to."""
    counts = inspection.counts
    lines = [count_verdicts(counts)]
    if counts["normal"] or counts["anomalous"]:
        lines += describe_guess(ready.inferencer.threshold_sources()[0], ready.advice)
        if ready.is_mutual and not counts["anomalous"]:
            lines.append("No photograph stands out.")
    return [
        *lines,
        *describe_verdicts(inspection.labeled),
        *describe_swap(inspection.scores, ready.good_scores, is_all_normal=not counts["anomalous"]),
        *describe_colors(inspection.colors, ready.good, ready.inferencer.white_level),
    ]
