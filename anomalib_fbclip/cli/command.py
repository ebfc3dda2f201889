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

from anomalib_fbclip.results.false_alarms import describe_verdicts
from anomalib_fbclip.results.files import link_latest, make_next
from anomalib_fbclip.results.good_photographs import (
    describe_colors,
    describe_inspected_references,
    describe_swap,
    find_copies,
)
from anomalib_fbclip.results.records import TABLE_NAME, Record, Verdict
from anomalib_fbclip.results.thresholds import UNLABELED, USUAL_THRESHOLD, describe_guess

from .arguments import CHECK, create_parser, parse_arguments, parse_check, telling_of_output, without_thresholds
from .configs import CONFIGS, run_configs
from .example import EXAMPLE, run_example
from .models import Ready, find_good, get_ready
from .product import PRODUCT, TEACH, run_product, run_teach
from .screen import Screen, count_verdicts, logging_to
from .sources import Inputs, find_inputs
from .watch import WATCH, run_watch

OF_THE_FILE = "exported file"
"""Source of a threshold that an exported model does not name."""


def run_check(arguments: Sequence[str]) -> int:
    """Inspect labeled photographs, and count the verdicts.

    Args:
        arguments (Sequence[str]): The arguments after ``fbclip check``.

    Returns:
        int: The exit code: 0 if all verdicts are right, 1 if at least one is wrong.

    Raises:
        InspectionError: If it can't begin, or the results can't be written.
    """
    options = parse_check(arguments)
    bad = [path.absolute() for path in options.bad]

    def label(name: str) -> Verdict:
        path = Path(name).absolute()
        return "anomalous" if any(path.is_relative_to(folder) for folder in bad) else "normal"

    return inspect(options, [CHECK, *without_thresholds(arguments)], label)


SUBCOMMANDS = {
    CONFIGS: run_configs,
    EXAMPLE: run_example,
    TEACH: run_teach,
    PRODUCT: run_product,
    CHECK: run_check,
    WATCH: run_watch,
}
"""Functions of the commands, by their first argument. Without one of them, photographs are inspected."""


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
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may hold what the screen can't show
    if arguments and arguments[0] in SUBCOMMANDS:
        return SUBCOMMANDS[arguments[0]](arguments[1:])
    return inspect(parse_arguments(create_parser(), arguments), without_thresholds(arguments))


def inspect(options: argparse.Namespace, command: Sequence[str], label: Callable[[str], Verdict] | None = None) -> int:
    """Inspect photographs.

    Args:
        options (argparse.Namespace): The command line.
        command (Sequence[str]): Its arguments without thresholds.
        label (Callable[[str], Verdict] | None, optional): Tells the truth of a photograph by its name. Defaults to
            ``None``.

    Returns:
        int: The exit code.

    Raises:
        InspectionError: If it can't begin, or the results can't be written.
        EdgeError: If an exported model fails.
    """
    with telling_of_output():
        return _inspect(options, command, label)


def _inspect(options: argparse.Namespace, command: Sequence[str], label: Callable[[str], Verdict] | None) -> int:
    inputs = find_inputs(options.photographs, [folder for folder in (options.output, options.good) if folder])
    good = find_good(options.good, options.shots) if options.good else []
    screen = Screen(as_json=options.json)
    feedback = describe_feedback(options.good, options.product)
    folder = make_next(options.output)
    with logging_to(folder, verbose=options.verbose):
        try:
            ready = get_ready(options, good, inputs.files, screen, at_once=inputs.at_once)
        except BaseException:  # an interrupt, too
            shutil.rmtree(folder)
            raise
        link_latest(folder)
        full_size = options.full_size
        return run(ready, inputs, folder, screen, command, full_size=full_size, label=label, feedback=feedback)


def describe_feedback(good: Path | None, products: Sequence[Path] | None) -> str | None:
    """Return the command that adds false alarms to the good photographs, with ``{photographs}`` for their files.

    ``None``: there are no good photographs to add them to.
    """
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
    full_size: bool = False,
    label: Callable[[str], Verdict] | None = None,
    feedback: str | None = None,
) -> int:
    """Inspect photographs, and write what comes out.

    Args:
        ready (Ready): The model.
        inputs (Inputs): What is inspected.
        folder (Path): The folder of the results.
        screen (Screen): The screen.
        command (Sequence[str]): Arguments of the command line, without thresholds.
        full_size (bool, optional): Whether large photographs are read at their whole size. Defaults to ``False``.
        label (Callable[[str], Verdict] | None, optional): Tells the truth of a photograph by its name. Defaults to
            ``None``.
        feedback (str | None, optional): See :func:`describe_feedback`. Defaults to ``None``.

    Returns:
        int: The exit code.
    """
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
            {"Model": ready.inferencer.describe(), **compared},
            ready.good_scores,
            feedback,
        )
    doubts = [
        *describe_swap(inspection.scores, ready.good_scores, is_all_normal=not inspection.counts["anomalous"]),
        *describe_colors(inspection.colors, ready.good, ready.inferencer.white_level),
    ]
    summary = summarize(inspection.counts, image_source, ready.advice, is_mutual=ready.is_mutual)
    for line in [*summary, *describe_verdicts(inspection.labeled), *doubts, *list_files(folder)]:
        screen.tell(line)
    if inspection.is_interrupted:
        raise KeyboardInterrupt
    return inspection.exit_code


def summarize(counts: Counter[str], threshold_source: str | None, advice: str, *, is_mutual: bool = False) -> list[str]:
    """Summarize an inspection.

    Args:
        counts (Counter[str]): Number of photographs that are ``normal``, ``anomalous`` and an ``error``.
        threshold_source (str | None): Where the threshold comes from, in the words of the table.
        advice (str): How to get a threshold from the parts.
        is_mutual (bool, optional): Whether photographs without labels were compared with each other. Defaults to
            ``False``.

    Returns:
        list[str]: The counts, and a warning if the threshold does not come from the parts.
    """
    is_decided = counts["normal"] + counts["anomalous"] > 0
    return [
        count_verdicts(counts),
        *(describe_guess(threshold_source, advice) if is_decided else ()),
        *(["No photograph stands out."] if is_mutual and is_decided and not counts["anomalous"] else ()),
    ]


def list_files(folder: Path) -> list[str]:
    """List the paths of the report and the table."""
    from anomalib_fbclip.results.report.page import REPORT_NAME

    return [f"Report: {folder / REPORT_NAME}", f"Table:  {folder / TABLE_NAME}.csv and .jsonl"]
