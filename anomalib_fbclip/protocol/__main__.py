# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Runs the protocol: ``python -m anomalib_fbclip.protocol``."""

import sys

from anomalib_fbclip.errors import run_command


def main(arguments: list[str] | None = None) -> int:
    """Run the command with given arguments, or with those of the process, and return the exit code."""
    words = sys.argv[1:] if arguments is None else arguments

    def command() -> int:
        if words[:1] == ["compare"]:  # imports take time, and may be missing
            from .tables import compare

            return compare(words[1:])
        from .command import run

        return run(words)

    return run_command(command, "interrupted: run the same command again to continue")


if __name__ == "__main__":
    sys.exit(main())
