# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The command ``fbclip``, also run by ``python -m anomalib_fbclip``."""

import os
import re
import sys
from collections.abc import Sequence

from .errors import CommandError, run_command

SPINS = "1000"
"""Number of times a thread of GNU's OpenMP, which torch brings on Linux, looks for work before it sleeps. By default it
looks for milliseconds, and takes them from others on a busy machine."""


def refuse_empty(arguments: Sequence[str]) -> None:
    """Refuse an empty argument, such as an unset variable of the shell: as a path, it would be the current folder."""
    for number, argument in enumerate(arguments, 1):
        if not argument or re.fullmatch(r"--[\w-]+=", argument):
            msg = f"argument {number} is empty: give a value, or leave it out."
            raise CommandError(msg)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with given arguments, or with those of the process, and return the exit code."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # read when torch is imported

    def run() -> int:
        given = sys.argv[1:] if arguments is None else arguments
        refuse_empty(given)
        if given[:1] == ["export"]:  # anomalib's export, which the rest of the command does without
            from .lightning.product_export import run_export

            return run_export(given[1:])
        from .cli.command import run_arguments  # what it imports may be missing

        return run_arguments(given)

    return run_command(run, traceback_option="--traceback")


if __name__ == "__main__":
    sys.exit(main())
