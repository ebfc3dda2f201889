# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Runs commands that begin with anomalib, each in a process of its own, with all that is imported once.

To import anomalib takes longer than most of what a user types. This process does it, and each command runs in a copy.
It reads a command as a line of JSON from its input, and answers with the exit code.
"""

import json
import os
import runpy
import sys
import traceback
from typing import NoReturn, TypedDict


class Command(TypedDict):
    """What is run.

    Attributes:
        arguments (list[str]): ``anomalib ...``, ``python -m ...`` or ``python -c ...``, as the shell has them.
        folder (str): Where.
        log (str): File for all that is printed.
    """

    arguments: list[str]
    folder: str
    log: str


def run_program(arguments: list[str]) -> None:
    """Run what the console script of anomalib runs, or what Python runs for ``-m`` and ``-c``."""
    match arguments:
        case ["anomalib", *_]:
            from anomalib.cli.cli import main

            sys.argv = arguments
            main()
        case ["python", "-m", module, *rest]:
            sys.argv = [module, *rest]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case ["python", "-c", code]:
            sys.argv = ["-c"]
            exec(code, {"__name__": "__main__"})
        case _:
            msg = f"no command of this project: {arguments}"
            raise ValueError(msg)


def run_child(command: Command) -> NoReturn:
    """Become the command."""
    log = os.open(command["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(command["folder"])
    code = 0
    try:
        run_program(command["arguments"])
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:  # noqa: BLE001 - as Python ends
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def serve() -> None:
    """Run commands until there are no more."""
    import anomalib.cli.cli  # noqa: F401
    import anomalib.models  # noqa: F401

    for line in sys.stdin:
        child = os.fork() or run_child(json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve()
