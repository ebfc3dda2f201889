# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The command ``fbclip``."""

import argparse
import io
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from anomalib_fbclip.errors import InspectionError
from anomalib_fbclip.images.image_files import find_images, printable
from anomalib_fbclip.results.false_alarms import describe_verdicts
from anomalib_fbclip.results.files import find_missing, link_latest, make_next, remove_empty
from anomalib_fbclip.results.good_photographs import (
    describe_colors,
    describe_inspected_references,
    describe_swap,
    find_copies,
)
from anomalib_fbclip.results.records import TABLE_NAME, Record, Verdict
from anomalib_fbclip.results.report import REPORT_NAME, Thresholds, describe_good, write_report
from anomalib_fbclip.results.thresholds import UNLABELED, USUAL_THRESHOLD, describe_guess

from .arguments import create_parser, parse_arguments, parse_check, without_thresholds, writing
from .inspection import Inspection
from .models import Ready, find_good, get_ready
from .packaged import run_configs, run_example
from .product import run_product, run_teach
from .screen import Screen, count_verdicts, logging_to
from .sources import Inputs, find_inputs
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
        raise InspectionError(msg)

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
    """Load a model, inspect photographs with it, and return the exit code.

    The command is that of the report, without thresholds. ``label`` returns a photograph's true verdict by its name.
    """
    with writing(options.output, "folder"):
        inputs = find_inputs(options.photographs, [folder for folder in (options.output, options.good) if folder])
        good = find_good(options.good, options.shots) if options.good else []
        screen = Screen(as_json=options.json)
        missing = find_missing(options.output)
        folder = make_next(options.output)
        with logging_to(folder, verbose=options.verbose):
            try:
                ready = get_ready(options, good, inputs.files, screen, at_once=inputs.at_once)
            except BaseException:  # an interrupt, too
                shutil.rmtree(folder)
                remove_empty(missing)
                raise
            link_latest(folder)
            return run(options, ready, inputs, folder, screen, command, label)


def describe_feedback(good: Path | None, products: Sequence[Path] | None) -> str | None:
    """Return the command that adds ``{photographs}`` to the good ones; ``None`` if there are no good ones."""
    if good is not None and good.is_dir():
        return f"cp {{photographs}} {shlex.quote(str(good))}"
    if products and len(products) == 1:
        return f"fbclip teach {shlex.quote(str(products[0]))} --add {{photographs}}"
    return None


def run(
    options: argparse.Namespace,
    ready: Ready,
    inputs: Inputs,
    folder: Path,
    screen: Screen,
    command: Sequence[str],
    label: Callable[[str], Verdict] | None,
) -> int:
    """Inspect photographs, write the results, and return the exit code. See :func:`inspect`."""
    copies = find_copies(inputs.files, ready.good)
    for line in [*ready.lines, *describe_inspected_references(copies, inputs.total), *inputs.notes]:
        screen.tell(line)
    image, pixel = ready.inferencer.decision_thresholds()
    image_source, pixel_source = ready.inferencer.threshold_sources()
    compared = {"Good photographs": describe_good(ready.good, ready.kept)}
    if ready.is_mutual:
        compared = {"Compared with": UNLABELED}
    with screen.progress("Photographs", inputs.total) as advance:
        by_view = ready.watch if inputs.total == 1 else None
        if by_view:
            by_view(advance)

        def show(record: Record) -> None:
            screen.show(record)
            if not by_view:
                advance()

        inspection = Inspection(ready.inferencer, folder, copies, full_size=options.full_size, label=label)
        write_report(
            folder / REPORT_NAME,
            inspection.entries(inputs, show),
            Thresholds(
                USUAL_THRESHOLD if image is None else image,
                USUAL_THRESHOLD if pixel is None else pixel,
                image_source or "exported file",
                pixel_source or "exported file",
            ),
            f"{shlex.join(['fbclip', *command])} --threshold {{threshold}} --pixel-threshold {{pixel_threshold}}",
            {"Model": ready.inferencer.describe()} | compared,
            ready.good_scores,
            describe_feedback(options.good, options.product),
        )
    doubts = [
        *describe_swap(inspection.scores, ready.good_scores, is_all_normal=not inspection.counts["anomalous"]),
        *describe_colors(inspection.colors, ready.good, ready.inferencer.white_level),
    ]
    summary = [count_verdicts(inspection.counts)]
    if inspection.counts["normal"] or inspection.counts["anomalous"]:
        summary += describe_guess(image_source, ready.advice)
        if ready.is_mutual and not inspection.counts["anomalous"]:
            summary.append("No photograph stands out.")
    files = [f"Report: {folder / REPORT_NAME}", f"Table:  {folder / TABLE_NAME}.csv and .jsonl"]
    for line in [*summary, *describe_verdicts(inspection.labeled), *doubts, *files]:
        screen.tell(line)
    if inspection.is_interrupted:
        raise KeyboardInterrupt
    return inspection.exit_code
