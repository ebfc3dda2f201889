# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Whether ``fbclip watch`` keeps up with its model, and whether its memory grows, over many photographs. On Linux::

    python tests/benchmark/soak.py                      # 10,000 photographs
    python tests/benchmark/soak.py --photographs 500
    python tests/benchmark/soak.py --photographs 500 --model model.xml

Photographs arrive faster than they are inspected, and each verdict is posted to a server here, which takes some of the
time. The model is ``fbclip-small``, exported for OpenVINO; its own rate is that of one photograph in memory, over and
over, before and after. Memory is that of the process.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from folder import EXPORT, describe_machine, draw_photographs, run

SOURCE = Path(__file__).parents[2]

DRAWN = 100
"""Photographs that are drawn. Those that arrive are links to them."""

AHEAD = 50
"""Photographs that have arrived and wait, at most."""

SHOWN = 20
"""How often memory is printed."""

MODEL_ALONE = """
import sys, time
from pathlib import Path
from anomalib_fbclip.exported import EdgeInferencer, read_image
inferencer = EdgeInferencer(sys.argv[1], performance_hint="THROUGHPUT")
image = read_image(next(Path(sys.argv[2]).iterdir()))
number = int(sys.argv[3])
list(inferencer.stream([image] * 10))
start = time.perf_counter()
list(inferencer.stream([image] * number))
print(number / (time.perf_counter() - start))
"""


class Receiver(BaseHTTPRequestHandler):
    """Takes verdicts, and counts them."""

    protocol_version = "HTTP/1.1"
    taken = 0

    def do_POST(self) -> None:
        """Take one."""
        self.rfile.read(int(self.headers["Content-Length"]))
        type(self).taken += 1
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def receiving() -> Generator[str]:
    """Start a server; give its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()


@contextmanager
def watching(folder: Path, model: Path, address: str) -> Generator["subprocess.Popen[bytes]"]:
    """Start the command."""
    command = [sys.executable, "-W", "ignore", "-m", "anomalib_fbclip", "watch", "incoming", "--model", str(model)]
    variables = os.environ | {"PYTHONPATH": str(SOURCE), "NO_PROXY": "127.0.0.1"}
    with (folder / "screen").open("wb") as screen:
        process = subprocess.Popen(
            [*command, "--output", "results", "--webhook", address], cwd=folder, env=variables, stdout=screen
        )
        try:
            yield process
            process.terminate()
            process.wait()
        finally:
            process.kill()


def resident_memory(process: "subprocess.Popen[bytes]") -> int:
    """Memory of a process, in MB."""
    lines = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8").splitlines()
    (resident,) = (line for line in lines if line.startswith("VmRSS:"))
    return int(resident.split()[1]) * 1024 // 1_000_000


def soak(folder: Path, model: Path, photographs: list[Path], number: int) -> float:
    """Have photographs arrive and be inspected, print the memory, and give the rate after the first ones."""
    incoming = folder / "incoming"
    incoming.mkdir()
    arrived, shown, begin = 0, 0, (0, 0.0)
    step = max(number // SHOWN, 1)
    with receiving() as address, watching(folder, model, address) as process:
        table = folder / "results" / "predictions.jsonl"
        while not table.exists():
            time.sleep(0.1)
        with table.open("rb") as rows:
            inspected = 0
            while inspected < number:
                while arrived < min(number, inspected + AHEAD):
                    os.link(photographs[arrived % len(photographs)], incoming / f"{arrived:06}.jpg")
                    arrived += 1
                time.sleep(0.05)
                inspected += rows.read().count(b"\n")
                if process.poll() is not None:
                    msg = f"it ended after {inspected} photographs"
                    raise RuntimeError(msg)
                if inspected and not begin[0]:
                    begin = inspected, time.perf_counter()
                if inspected >= shown + step:
                    shown = inspected
                    print(f"| {inspected} | {resident_memory(process)} MB |", flush=True)
            rate = (inspected - begin[0]) / (time.perf_counter() - begin[1])
    if Receiver.taken != number:
        msg = f"{Receiver.taken} of {number} verdicts were delivered"
        raise RuntimeError(msg)
    return rate


def main() -> None:
    """Print memory and rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=int, default=10_000, metavar="N")
    parser.add_argument("--model", type=Path, help="an exported model (default: fbclip-small is exported)")
    options = parser.parse_args()
    print(describe_machine(), flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = options.model
        if model is None:
            run([*EXPORT, "--export_root", "exported"], folder, SOURCE)
            (model,) = (folder / "exported").rglob("model.xml")
        photographs = sorted(draw_photographs(folder / "drawn", min(DRAWN, options.photographs)).iterdir())
        alone = ["-c", MODEL_ALONE, str(model.resolve()), str(folder / "drawn"), str(min(options.photographs, 500))]
        before = float(run(alone, folder, SOURCE)[1])
        print("\n| photographs | memory |\n|---:|---:|", flush=True)
        reached = soak(folder, model.resolve(), photographs, options.photographs)
        after = float(run(alone, folder, SOURCE)[1])
        print(f"\nModel alone: {before:.2f} photographs a second before, {after:.2f} after.")
        print(f"fbclip watch: {reached:.2f}, {2 * reached / (before + after):.2f} of it.")


if __name__ == "__main__":
    main()
