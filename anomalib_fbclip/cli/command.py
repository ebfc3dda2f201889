# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The command ``fbclip``.

Exit codes: 0, all photographs are normal; 1, at least one is anomalous; 2, something went wrong; 130, interrupted.
"""

import argparse
import io
import shlex
import shutil
import sys
from collections import Counter
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
from anomalib_fbclip.results.thresholds import UNLABELED, USUAL_THRESHOLD, describe_guess

from .arguments import CHECK, create_parser, parse_arguments, parse_check, without_thresholds, writing
from .configs import CONFIGS, run_configs
from .example import EXAMPLE, run_example
from .models import Ready, find_good, get_ready
from .product import PRODUCT, TEACH, run_product, run_teach
from .screen import Screen, count_verdicts, logging_to
from .sources import Inputs, find_inputs
from .watch import WATCH, run_watch

OF_THE_FILE = "exported file"
"""Source of an exported model's threshold, if the file does not state it."""


def run_check(arguments: Sequence[str]) -> int:
    """Run ``fbclip check``: inspect labeled photographs, and count the verdicts.

    Args:
        arguments (Sequence[str]): The arguments after ``fbclip check``.

    Returns:
        int: The exit code: 0 if all verdicts are right, 1 if at least one is wrong.

    Raises:
        InspectionError: If it can't begin, or the results can't be written.
    """
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

    return inspect(options, [CHECK, *without_thresholds(arguments)], label)


def _is_of(name: str, given: Path) -> bool:
    """Return whether the name of a photograph, or of a frame, is of a given file, folder or camera."""
    return Path(name).is_relative_to(given) or name.startswith((f"{given.as_posix()}#", f"camera {given}#"))


SUBCOMMANDS = {
    CONFIGS: run_configs,
    EXAMPLE: run_example,
    TEACH: run_teach,
    PRODUCT: run_product,
    CHECK: run_check,
    WATCH: run_watch,
}
"""Commands by their first argument. Any other argument is a photograph to inspect."""


def run_arguments(arguments: Sequence[str]) -> int:
    """Run the command.

    Args:
        arguments (Sequence[str]): The arguments.

    Returns:
        int: The exit code.

    Raises:
        InspectionError: If it can't begin, or the results can't be written.
        EdgeError: If an exported model fails.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for file names that the screen can't show
    if arguments and arguments[0] in SUBCOMMANDS:
        return SUBCOMMANDS[arguments[0]](arguments[1:])
    return inspect(parse_arguments(create_parser(), arguments), without_thresholds(arguments))


def inspect(options: argparse.Namespace, command: Sequence[str], label: Callable[[str], Verdict] | None = None) -> int:
    """Load a model, and inspect photographs with it.

    Args:
        options (argparse.Namespace): The command line.
        command (Sequence[str]): Its arguments without thresholds, for the report.
        label (Callable[[str], Verdict] | None, optional): Returns the true verdict of a photograph by its name.
            Defaults to ``None``.

    Returns:
        int: The exit code.

    Raises:
        InspectionError: If it can't begin, or the results can't be written.
        EdgeError: If an exported model fails.
    """
    with writing(options.output, "folder"):
        inputs = find_inputs(options.photographs, [folder for folder in (options.output, options.good) if folder])
        good = find_good(options.good, options.shots) if options.good else []
        screen = Screen(as_json=options.json)
        feedback = describe_feedback(options.good, options.product)
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
            full_size = options.full_size
            return run(ready, inputs, folder, screen, command, full_size=full_size, label=label, feedback=feedback)


def describe_feedback(good: Path | None, products: Sequence[Path] | None) -> str | None:
    """Return the command that adds ``{photographs}`` to the good ones; ``None`` if there are no good ones."""
    if good is not None and good.is_dir():
        return f"cp {{photographs}} {shlex.quote(str(good))}"
    if products and len(products) == 1:
        return f"fbclip {TEACH} {shlex.quote(str(products[0]))} --add {{photographs}}"
    return None


def run(
    ready: Ready,
    inputs: Inputs,
    folder: Path,
    screen: Screen,
    command: Sequence[str],
    *,
    full_size: bool,
    label: Callable[[str], Verdict] | None,
    feedback: str | None,
) -> int:
    """Inspect photographs, write the results, and return the exit code. See :func:`inspect`."""
    from anomalib_fbclip.results.report.page import REPORT_NAME, Thresholds, describe_good, write_report

    from .inspection import Inspection

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

        inspection = Inspection(ready.inferencer, folder, copies, full_size=full_size, label=label)
        write_report(
            folder / REPORT_NAME,
            inspection.entries(inputs, show),
            Thresholds(
                USUAL_THRESHOLD if image is None else image,
                USUAL_THRESHOLD if pixel is None else pixel,
                image_source or OF_THE_FILE,
                pixel_source or OF_THE_FILE,
            ),
            f"{shlex.join(['fbclip', *command])} --threshold {{threshold}} --pixel-threshold {{pixel_threshold}}",
            {"Model": ready.inferencer.describe()} | compared,
            ready.good_scores,
            feedback,
        )
    doubts = [
        *describe_swap(inspection.scores, ready.good_scores, is_all_normal=not inspection.counts["anomalous"]),
        *describe_colors(inspection.colors, ready.good, ready.inferencer.white_level),
    ]
    summary = summarize(inspection.counts, image_source, ready.advice, is_mutual=ready.is_mutual)
    files = [f"Report: {folder / REPORT_NAME}", f"Table:  {folder / TABLE_NAME}.csv and .jsonl"]
    for line in [*summary, *describe_verdicts(inspection.labeled), *doubts, *files]:
        screen.tell(line)
    if inspection.is_interrupted:
        raise KeyboardInterrupt
    return inspection.exit_code


def summarize(counts: Counter[str], threshold_source: str | None, advice: str, *, is_mutual: bool) -> list[str]:
    """Count the verdicts, and warn if the threshold does not come from the parts."""
    is_decided = counts["normal"] + counts["anomalous"] > 0
    return [
        count_verdicts(counts),
        *(describe_guess(threshold_source, advice) if is_decided else ()),
        *(["No photograph stands out."] if is_mutual and is_decided and not counts["anomalous"] else ()),
    ]
