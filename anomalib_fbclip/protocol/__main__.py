# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Runs the protocol: ``python -m anomalib_fbclip.protocol``."""

import sys

from anomalib_fbclip.errors import run_command


def main(arguments: list[str] | None = None) -> int:
    """Run the command with these arguments, or with those of the process, and give the exit code."""
    words = sys.argv[1:] if arguments is None else arguments

    def command() -> int:
        if words[:1] == ["compare"]:  # what each imports takes time, and may be missing
            from .comparison import run

            return run(words[1:])
        from .command import run

        return run(words)

    return run_command(command, "interrupted: the same command goes on where it stopped")


if __name__ == "__main__":
    sys.exit(main())
