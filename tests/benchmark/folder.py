# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""What ``fbclip`` costs around the model: the first verdict, a folder, large photographs. On Linux::

    python tests/benchmark/folder.py
    python tests/benchmark/folder.py --rows start folder
    python tests/benchmark/folder.py --rows start --source ../another-checkout
    python tests/benchmark/folder.py --compared photographs

Each row is a process of its own; all files are in the system's cache. Times are the least of three, because other
processes only add to them. Processor time, of all cores together, suffers less from those.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 1200, 896
PHOTOGRAPHS = 200
MANY = 1000
FEW = 100
HUGE = (12000, 9000)
RUNS = 3

EXPORT = ["-m", "anomalib.cli.cli", "export", "--model", "FBClip", "--model.backbone", "fbclip-small"]
EXPORT += ["--export_type", "openvino"]

AT_ONCE = {"one photograph at a time": 1, "as many at once as fbclip": 4}

MODEL_ALONE = """
import sys, time
from pathlib import Path
from anomalib_fbclip.weights import bundled
from anomalib_fbclip.images.photographs import read_photograph
from anomalib_fbclip.cli.torch_inferencer import TorchInferencer
inferencer = TorchInferencer(bundled.NAME, "auto", "cpu", "float32", None, None, int(sys.argv[2]))
image = read_photograph(next(Path(sys.argv[1]).iterdir()), upright=True)
list(inferencer.stream([image] * 10))
start = time.perf_counter()
list(inferencer.stream([image] * 100))
print((time.perf_counter() - start) / 100)
"""


def draw_photographs(folder: Path, count: int) -> Path:
    """Write JPEGs of about a megapixel, with the noise of a camera."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 6, (HEIGHT, WIDTH, 3))
    for index in range(count):
        shades = Image.fromarray(rng.integers(60, 200, (7, 9, 3), dtype=np.uint8)).resize((WIDTH, HEIGHT))
        pixels = np.asarray(shades) + np.roll(noise, 7 * index, axis=1)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{index:04}.jpg", quality=90)
    return folder


class Cost(NamedTuple):
    """What a program took: seconds, peak memory in MB, and seconds of all processors together."""

    seconds: float
    memory: int
    processor: float


def run(program: list[str], folder: Path, source: Path) -> tuple[Cost, str]:
    """Run a program of Python; give what it took, and what it prints."""
    environment = os.environ | {"PYTHONPATH": str(source)}
    start = time.perf_counter()
    command = [sys.executable, "-W", "ignore", *program]
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if os.waitstatus_to_exitcode(status) not in {0, 1}:
        msg = f"{command} failed"
        raise RuntimeError(msg)
    return Cost(seconds, usage.ru_maxrss * 1024 // 1_000_000, usage.ru_utime + usage.ru_stime), output


def inspect(folder: Path, source: Path, *arguments: str) -> Cost:
    """Run ``fbclip``; give what it took."""
    return run(["-m", "anomalib_fbclip", *arguments, "--output", "results"], folder, source)[0]


def least(costs: Iterable[Cost]) -> Cost:
    """Take the least of each."""
    return Cost(*map(min, zip(*costs, strict=True)))


def start(folder: Path, source: Path) -> Iterator[str]:
    """How long it is to the first verdict."""
    photograph = next(draw_photographs(folder / "one", 1).iterdir())
    yield describe("first verdict, bundled model", inspect_again(folder, source, str(photograph)))
    for name, statement in {"torch": "import torch", "torch and open_clip": "import open_clip"}.items():
        cost = least(run(["-c", statement], folder, source)[0] for _ in range(RUNS))
        yield describe(f"{name}, imported alone", cost)


def exported(folder: Path, source: Path) -> Iterator[str]:
    """How long it is to the first verdict of the bundled model, once it is exported for OpenVINO."""
    photograph = next(draw_photographs(folder / "one", 1).iterdir())
    run([*EXPORT, "--export_root", "exported"], folder, source)
    (model,) = (folder / "exported").rglob("model.xml")
    yield describe(
        "first verdict, exported model", inspect_again(folder, source, str(photograph), "--model", str(model))
    )


def inspect_again(folder: Path, source: Path, *arguments: str) -> Cost:
    """Run ``fbclip`` a few times, once the files are in the system's cache."""
    inspect(folder, source, *arguments)
    return least(inspect(folder, source, *arguments) for _ in range(RUNS))


def describe(name: str, cost: Cost) -> str:
    """Write a row."""
    return f"| {name} | {cost.seconds:.2f} s, {cost.processor:.2f} s of processors | {cost.memory} MB |"


def rate(folder: Path, source: Path) -> Iterator[str]:
    """How much of the model's rate a folder reaches, from its second photograph to the end of the report."""
    photographs = draw_photographs(folder / "photographs", PHOTOGRAPHS)
    one = draw_photographs(folder / "one", 1)
    alone = {name: model_alone(folder, source, one, number) for name, number in AT_ONCE.items()}
    whole = least(inspect(folder, source, str(photographs), "--alone") for _ in range(RUNS))
    first = least(inspect(folder, source, str(one)) for _ in range(RUNS))
    reached = (PHOTOGRAPHS - 1) / (whole.seconds - first.seconds)
    milliseconds = 1000 * (whole.processor - first.processor) / (PHOTOGRAPHS - 1)
    for name, images in alone.items():
        yield f"| model alone, {name} | {images:.1f} images/s | |"
    shares = " and ".join(f"{reached / images:.2f}" for images in alone.values())
    yield f"| folder of {PHOTOGRAPHS}, report and pictures included | {reached:.1f} images/s, {shares} of that | |"
    yield f"| processor time of a photograph, report and picture included | {milliseconds:.0f} ms | |"


def model_alone(folder: Path, source: Path, one: Path, at_once: int) -> float:
    """Images in a second of the model alone, in the best of a few runs."""
    program = ["-c", MODEL_ALONE, str(one), str(at_once)]
    return max(1 / float(run(program, folder, source)[1]) for _ in range(RUNS))


def many(folder: Path, source: Path) -> Iterator[str]:
    """Whether memory grows with the number of photographs."""
    for count in (FEW, MANY):
        seconds, memory, _ = inspect(
            folder, source, str(draw_photographs(folder / f"photographs{count}", count)), "--alone"
        )
        yield f"| {count} photographs of {WIDTH} x {HEIGHT} | {seconds:.0f} s | {memory} MB |"


def huge(folder: Path, source: Path) -> Iterator[str]:
    """What a very large photograph takes."""
    shades = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    large = Image.fromarray(shades).resize(HUGE, Image.Resampling.BICUBIC)
    for name, options in {"huge.jpg": [], "huge.png": [], "huge.jpg ": ["--full-size"]}.items():
        large.save(folder / name.strip(), compress_level=1)
        seconds, memory, _ = inspect(folder, source, name.strip(), *options)
        kind = " ".join([name.strip().rpartition(".")[2], *options])
        yield f"| photograph of {HUGE[0]} x {HUGE[1]}, {kind} | {seconds:.1f} s | {memory} MB |"


def compared(folder: Path, source: Path, photographs: Path) -> Iterator[str]:
    """What it takes to compare photographs with each other, beside looking at each alone, in turn."""
    costs: dict[str, list[Cost]] = {"alone": [], "compared": []}
    for _ in range(RUNS):
        costs["alone"].append(inspect(folder, source, str(photographs), "--alone"))
        costs["compared"].append(inspect(folder, source, str(photographs)))
    alone, together = (least(found) for found in costs.values())
    yield describe("folder, each photograph alone", alone)
    yield describe("folder, compared with each other", together)
    yield f"| ratio | {together.seconds / alone.seconds:.2f}, {together.processor / alone.processor:.2f} | |"


ROWS = {"start": start, "exported": exported, "folder": rate, "many": many, "huge": huge}


def describe_machine() -> str:
    """Say what this ran on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    processor = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")
    threads = os.environ.get("OMP_NUM_THREADS", "one for each core")
    busy = os.getloadavg()[0]
    return f"{os.cpu_count()} cores of {processor}, OMP_NUM_THREADS: {threads}, load {busy:.1f} at the beginning"


def main() -> None:
    """Print the rows that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--source", type=Path, default=Path(__file__).parents[2], help="checkout that is measured")
    parser.add_argument("--compared", type=Path, metavar="FOLDER", help="instead, compare these photographs")
    options = parser.parse_args()
    print(describe_machine(), "", "| | | peak memory |", "|---|---:|---:|", sep="\n", flush=True)
    rows = {name: ROWS[name] for name in options.rows}
    if options.compared:
        rows = {"compared": partial(compared, photographs=options.compared.resolve())}
    for measure in rows.values():
        with tempfile.TemporaryDirectory() as folder:
            for row in measure(Path(folder), options.source.resolve()):
                print(row, flush=True)


if __name__ == "__main__":
    main()
