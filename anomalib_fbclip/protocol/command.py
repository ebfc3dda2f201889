# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""How a command ends: with an exit code, and one line where something outside of the program is wrong."""

import sys
from argparse import ArgumentError
from collections.abc import Callable

from jsonargparse import ArgumentParser, Namespace

from .errors import ProtocolError

COULD_NOT_BEGIN, INTERRUPTED = 2, 130
"""Exit codes."""


def run_command(parser: ArgumentParser, run: Callable[[Namespace], int], arguments: list[str] | None) -> int:
    """Run a command.

    Args:
        parser (ArgumentParser): Parser of the command line.
        run (Callable[[Namespace], int]): Takes what was parsed, and gives the exit code.
        arguments (list[str] | None): The arguments. ``None``: those of the process.

    Returns:
        int: The exit code.
    """
    try:
        return run(parser.parse_args(arguments))
    except (ArgumentError, ProtocolError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return COULD_NOT_BEGIN
    except KeyboardInterrupt:
        print("interrupted: the same command goes on where it stopped", file=sys.stderr)
        return INTERRUPTED
