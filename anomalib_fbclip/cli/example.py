# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Example photographs that come with the package: ``fbclip example``."""

import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from anomalib_fbclip.errors import InspectionError
from anomalib_fbclip.results.files import replacing

from .arguments import Parser

EXAMPLE = "example"
"""First argument of the command."""

PHOTOGRAPHS = Path(__file__).parents[1] / "data" / "example"
"""Folder of the photographs."""


def create_parser() -> Parser:
    """Create the parser of ``fbclip example``."""
    parser = Parser(
        prog=f"fbclip {EXAMPLE}",
        description="Write example photographs of good and stained hazelnuts to a folder.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path("fbclip-example"),
        help="a folder that does not exist yet (default: fbclip-example)",
    )
    return parser


def run_example(arguments: Sequence[str]) -> int:
    """Run ``fbclip example``: write the photographs to a folder, and print the command that inspects them.

    Raises:
        InspectionError: If the folder exists already or can't be written.
    """
    folder = create_parser().parse_args(arguments).folder
    write_example(folder)
    command = shlex.join(["fbclip", str(folder / "photographs"), "--good", str(folder / "good")])
    sys.stdout.write(f"{folder} has photographs of hazelnuts. Inspect them:\n{command}\n")
    sys.stdout.flush()
    return 0


def write_example(folder: Path) -> None:
    """Write all photographs to a new folder, or none.

    Raises:
        InspectionError: If the folder exists already or can't be written.
    """
    if folder.exists() or folder.is_symlink():
        msg = f"{folder} exists already: give another folder, fbclip {EXAMPLE} FOLDER."
        raise InspectionError(msg)
    try:
        with replacing(folder) as temporary:
            shutil.copytree(PHOTOGRAPHS, temporary, copy_function=shutil.copyfile)
    except OSError as error:
        msg = f"the photographs can't be written to {folder} ({error}): give another folder, fbclip {EXAMPLE} FOLDER."
        raise InspectionError(msg) from error
