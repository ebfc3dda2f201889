# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Commands as a user types them, in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
ANOMALIB = Path(sys.executable).with_name("anomalib")

NOTHING_LISTENS_HERE = "http://127.0.0.1:9"
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
NO_NETWORK = dict.fromkeys([*PROXIES, *map(str.upper, PROXIES)], NOTHING_LISTENS_HERE) | {"HF_HUB_OFFLINE": "1"}
"""Environment in which nothing can be downloaded."""


def run(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder."""
    environment = os.environ | {"COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    command = [str(argument) for argument in arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def anomalib(folder: Path, subcommand: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command of anomalib in a folder, on the CPU."""
    return run(folder, ANOMALIB, subcommand, *arguments, "--trainer.accelerator", "cpu")
