# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""``fbclip watch`` in this process, ended as a service manager does."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from anomalib_fbclip.__main__ import main
from support.parts import draw_part


def add(name: str, *, defective: bool = False) -> None:
    """Write a photograph as a camera does: under another name first."""
    temporary = Path("incoming", f".{name}.part")
    draw_part(0, defective=defective).save(temporary, format="png")
    temporary.rename(Path("incoming", name))


def read_rows(folder: Path = Path("results")) -> list[dict[str, Any]]:
    path = folder / "predictions.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def wait_until(is_there: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not is_there():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def run_until(is_enough: Callable[[], object], *arguments: str, meanwhile: Callable[[], None] = lambda: None) -> int:
    """Run the command until there is enough, then end it; give its exit code."""
    has_ended = threading.Event()

    def end() -> None:
        while not (has_ended.is_set() or callable(signal.getsignal(signal.SIGTERM))):
            time.sleep(0.02)  # however long the model takes to load: without this thread, nothing would end the run
        try:
            meanwhile()
            wait_until(lambda: has_ended.is_set() or is_enough())
        finally:
            if not has_ended.is_set():
                os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=end)
    thread.start()
    try:
        return main(["watch", *arguments])
    finally:
        has_ended.set()
        thread.join()
