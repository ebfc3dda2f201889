# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Commands as a user types them, in processes of their own, without a network and with empty caches."""

import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from support.command_server import CommandServer

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
ANOMALIB = Path(sys.executable).with_name("anomalib")
FBCLIP = Path(sys.executable).with_name("fbclip")

NOTHING_LISTENS_HERE = "http://127.0.0.1:9"
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
NO_NETWORK = dict.fromkeys([*PROXIES, *map(str.upper, PROXIES)], NOTHING_LISTENS_HERE) | {"HF_HUB_OFFLINE": "1"}
"""Environment in which nothing can be downloaded."""


@cache
def home() -> tempfile.TemporaryDirectory:
    """Make an empty home folder, which lasts as long as this process."""
    return tempfile.TemporaryDirectory()


def environment() -> dict[str, str]:
    """Environment of every command."""
    homes = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "HF_HOME", "TORCH_HOME"), home().name)
    return os.environ | NO_NETWORK | homes | {"COLUMNS": "200", "OMP_NUM_THREADS": "1"}


@cache
def server() -> CommandServer:
    """Start the server, which lasts as long as this process."""
    return CommandServer(environment())


def run(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder; where it begins with anomalib, all that it imports has been imported before."""
    command = [str(argument) for argument in arguments]
    match command:
        case [program, *rest] if program == str(ANOMALIB):
            return server().run(folder, ["anomalib", *rest], environment())
        case [program, first, *_] if program == sys.executable and (first in {"-m", "-c"} or first.endswith(".py")):
            return server().run(folder, ["python", *command[1:]], environment())
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)


def fbclip_to_full_disk(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``fbclip`` in a folder, where nothing can be written to its standard output."""
    command = [sys.executable, "-m", "anomalib_fbclip", *arguments]
    with Path("/dev/full").open("wb") as full:
        return subprocess.run(
            command, cwd=folder, env=environment(), stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )


def anomalib(folder: Path, subcommand: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command of anomalib in a folder, on the CPU."""
    return run(folder, ANOMALIB, subcommand, *arguments, "--trainer.accelerator", "cpu")
