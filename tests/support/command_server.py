# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Runs commands that begin with anomalib, each in a process of its own, with all that is imported once.

To import anomalib takes longer than most of what a user types. A server does it, and each command runs in a copy. The
server reads a command as a line of JSON from its input, and answers with the exit code.
"""

import json
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NoReturn, TypedDict


class Command(TypedDict):
    """A command to run.

    Attributes:
        arguments (list[str]): ``anomalib ...`` or ``python ...``, the latter with a script, ``-m`` or ``-c``, as the
            shell has them.
        folder (str): Where.
        environment (dict[str, str]): Environment variables. What is read on import, the server has read from its own.
        output (str): File for the standard output.
        errors (str): File for the standard error.
    """

    arguments: list[str]
    folder: str
    environment: dict[str, str]
    output: str
    errors: str


class CommandServer:
    """The server, as seen by a test. It ends with the process that started it.

    Args:
        environment (dict[str, str]): Environment of the server.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def run(self, folder: Path, arguments: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        """Run a command, and wait for it."""
        with tempfile.TemporaryDirectory() as logs:
            output, errors = Path(logs, "output"), Path(logs, "errors")
            command = Command(
                arguments=arguments,
                folder=str(folder),
                environment=environment,
                output=str(output),
                errors=str(errors),
            )
            print(json.dumps(command), file=self._process.stdin, flush=True)
            code = int(self._process.stdout.readline())
            texts = (path.read_text(encoding="utf-8") for path in (output, errors))
            return subprocess.CompletedProcess(arguments, code, *texts)


def run_program(arguments: list[str]) -> None:
    """Run what the console script of anomalib runs, or what Python runs for a script, ``-m`` and ``-c``."""
    match arguments:
        case ["anomalib", *_]:
            from anomalib.cli.cli import main

            sys.path[0] = str(Path(sys.executable).parent)
            sys.argv = arguments
            main()
        case ["python", "-m", module, *rest]:
            sys.path[0] = str(Path.cwd())
            sys.argv = [module, *rest]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case ["python", "-c", code, *rest]:
            sys.path[0] = ""
            sys.argv = ["-c", *rest]
            exec(code, {"__name__": "__main__"})
        case ["python", script, *rest]:
            sys.path[0] = str(Path(script).parent)
            sys.argv = [script, *rest]
            runpy.run_path(script, run_name="__main__")
        case _:
            msg = f"no command of this project: {arguments}"
            raise ValueError(msg)


def run_child(command: Command) -> NoReturn:
    """Become the command."""
    for descriptor, path in enumerate((os.devnull, command["output"], command["errors"])):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), descriptor)
    os.environ.clear()
    os.environ.update(command["environment"])
    os.chdir(command["folder"])
    code = 0
    try:
        try:
            run_program(command["arguments"])
        except Exception as error:  # noqa: BLE001 - as Python ends
            code = 1
            sys.excepthook(type(error), error, error.__traceback__)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except KeyboardInterrupt:
        code = 130
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
