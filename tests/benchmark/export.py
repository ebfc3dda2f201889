# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""How fast and how small exported models are, beside torch: one table, measured in one run.

fbclip-small, and the paper's architecture with random weights, which are as fast as trained ones::

    python -m tests.benchmark.export
    python -m tests.benchmark.export --backbones "[fbclip-small]" --seconds 20 --operations true

Each row is measured in a process of its own, one after the other, on one photograph at a time.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import openvino

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from anomalib_fbclip import FBClip

# torch and anomalib are imported where they are used: they would count in the memory of OpenVINO's rows.

PHOTOGRAPH = (1, 3, 576, 768)
"""Shape of the image that is measured with, in values 0..1."""

LEAST_REPETITIONS = 3
"""Number of times that each is timed, where one takes long."""

LEAST_SHARE = 0.01
"""Share of the time from which on operations have a row of their own."""


class Measurement(NamedTuple):
    """What a row of the table shows.

    Attributes:
        latency (float): Median seconds for one image.
        throughput (float): Images in a second, as many at once as the runtime chooses.
        memory (int): Peak of the process's memory in bytes.
    """

    latency: float
    throughput: float
    memory: int


def export(backbone: str, folder: Path, calibration_images: int) -> dict[str, Path]:
    """Export a model in the formats that are measured.

    Args:
        backbone (str): ``fbclip-small``, or an architecture of open_clip, which gets random weights.
        folder (Path): Folder for the files.
        calibration_images (int): Number of images that INT8_PTQ takes the ranges of values from.

    Returns:
        dict[str, Path]: ``torch``, ``openvino`` and ``int8``.
    """
    from anomalib.data import MVTecAD

    from anomalib_fbclip import FBClip
    from anomalib_fbclip.export.graph import save_openvino
    from anomalib_fbclip.export.quantization import quantize
    from tools.bundled_model.parts import draw_category

    model = FBClip(backbone) if backbone == "fbclip-small" else random_model(backbone, folder)
    files = {"torch": model.to_torch(folder), "openvino": model.to_openvino(folder)}
    draw_category(folder, "tile", train_images=1, test_images=(calibration_images + 1) // 2)
    parts = MVTecAD(folder, "tile")
    parts.setup("test")
    quantized = quantize(openvino.Core().read_model(files["openvino"]), parts.test_data)
    return files | {"int8": save_openvino(quantized, folder / "int8" / "model.xml", is_half=True)}


def random_model(architecture: str, folder: Path) -> FBClip:
    """Create a model of an architecture of open_clip, at the paper's input size, with random weights."""
    import open_clip

    from anomalib_fbclip import FBClip

    config = folder / f"{architecture}-random.json"
    config.write_text(json.dumps(open_clip.get_model_config(architecture)), encoding="utf-8")
    return FBClip(str(config), weights=None, image_size=518)


def measure_torch(path: Path, seconds: float, threads: int) -> Measurement:
    """Measure a file of ``to_torch``, which this program has written itself."""
    import torch

    torch.set_num_threads(threads)
    model = torch.load(path, weights_only=False)["model"].eval()  # nosemgrep
    image = torch.rand(PHOTOGRAPH, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        latency = median_seconds(lambda: model(image), seconds)
    return Measurement(latency, 1 / latency, peak_memory())


def measure_openvino(path: Path, seconds: float, threads: int, config: dict[str, str]) -> Measurement:
    """Measure a file of ``to_openvino``, first one image after the other, and then through the asynchronous queue."""
    image = np.random.default_rng(0).random(PHOTOGRAPH, dtype=np.float32)
    config |= {"INFERENCE_NUM_THREADS": str(threads)}
    compiled = openvino.Core().compile_model(path, "CPU", config | {"PERFORMANCE_HINT": "LATENCY"})
    latency = median_seconds(lambda: compiled(image), seconds)
    del compiled
    compiled = openvino.Core().compile_model(path, "CPU", config | {"PERFORMANCE_HINT": "THROUGHPUT"})
    queue = openvino.AsyncInferQueue(compiled)

    def run_many() -> None:
        for _ in range(2 * len(queue)):
            queue.start_async(image)
        queue.wait_all()

    throughput = 2 * len(queue) / median_seconds(run_many, seconds)
    return Measurement(latency, throughput, peak_memory())


def list_operations(path: Path, threads: int, repetitions: int = 5) -> list[tuple[str, ...]]:
    """List in how many bits OpenVINO computes the operations of a file, and how long they take by its own counters.

    Args:
        path (Path): A file of ``to_openvino``.
        threads (int): Number of threads.
        repetitions (int, optional): Number of images. Their median counts. Defaults to ``5``.

    Returns:
        list[tuple[str, ...]]: Operation, type, how many there are, and milliseconds, those that take longest first.
    """
    image = np.random.default_rng(0).random(PHOTOGRAPH, dtype=np.float32)
    config = {"INFERENCE_NUM_THREADS": str(threads), "PERFORMANCE_HINT": "LATENCY", "PERF_COUNT": "YES"}
    request = openvino.Core().compile_model(path, "CPU", config).create_infer_request()
    runs: list[Counter[tuple[str, str]]] = []
    for _ in range(repetitions):
        request.infer({0: image})
        times: Counter[tuple[str, str]] = Counter()
        numbers: Counter[tuple[str, str]] = Counter()
        for operation in request.get_profiling_info():
            if operation.status == openvino.ProfilingInfo.Status.EXECUTED:
                kind = operation.node_type, operation.exec_type.rpartition("_")[2]
                times[kind] += operation.real_time / timedelta(milliseconds=1)
                numbers[kind] += 1
        runs.append(times)
    medians = Counter({kind: statistics.median(run[kind] for run in runs) for kind in runs[0]})
    shown = {kind: taken for kind, taken in medians.most_common() if taken > LEAST_SHARE * medians.total()}
    others = medians.keys() - shown.keys()
    return [
        *((*kind, str(numbers[kind]), f"{taken:.1f}") for kind, taken in shown.items()),
        ("all others", "", str(sum(numbers[kind] for kind in others)), f"{sum(medians[kind] for kind in others):.1f}"),
    ]


def median_seconds(function: Callable[[], object], seconds: float) -> float:
    """Time a function for some seconds, but three times at least: the median, after one call that does not count."""
    function()
    durations: list[float] = []
    while len(durations) < LEAST_REPETITIONS or sum(durations) < seconds:
        start = time.perf_counter()
        function()
        durations.append(time.perf_counter() - start)
    return statistics.median(durations)


def peak_memory() -> int:
    """Peak of this process's memory in bytes; getrusage would count that of the process which started it."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    (peak,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(peak.split()[1]) * 1024


def file_size(path: Path) -> int:
    """Size in bytes of a model, with the weights that lie beside it."""
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.stem}.*"))


def main(
    backbones: tuple[str, ...] = ("fbclip-small", "ViT-L-14-336"),
    seconds: float = 8.0,
    calibration_images: int = 4,
    threads: int | None = None,
    operations: bool = False,
) -> None:
    """Print the tables, in Markdown.

    Args:
        backbones: fbclip-small, or architectures of open_clip, which get random weights.
        seconds: How long each is timed.
        calibration_images: Number of images that INT8_PTQ takes the ranges of values from; they don't change the speed.
        threads: Number of threads. As many as there are cores if there is none.
        operations: Whether to list the operations of INT8_PTQ, too.
    """
    threads = threads or os.cpu_count() or 1
    device = openvino.Core().get_property("CPU", "FULL_DEVICE_NAME")
    print(f"Batch 1, {threads} threads of {device}, OpenVINO {openvino.__version__.partition('-')[0]}")
    for backbone in backbones:
        with tempfile.TemporaryDirectory() as folder:
            files = run(export, backbone, Path(folder), calibration_images)
            rows = to_rows(backbone, measure(files, seconds, threads))
            print_table(["", "latency", "faster than torch", "throughput", "peak memory", "file"], rows)
            if operations:
                found = run(list_operations, files["int8"], threads)
                print_table([f"{backbone}, INT8_PTQ", "type", "number", "ms"], found)


def print_table(header: list[str], rows: Iterable[tuple[str, ...]]) -> None:
    """Print a table in Markdown."""
    from anomalib_fbclip.protocol.tables import markdown_lines

    print(flush=True)
    for line in markdown_lines(header, rows):
        print(line, flush=True)


def run(function: Callable, *arguments: object) -> Any:
    """Call a function in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def measure(files: dict[str, Path], seconds: float, threads: int) -> dict[str, tuple[Path, Measurement]]:
    """Measure each of the files of a backbone, one after the other, in a process of its own."""
    rows = {"torch, f32": (files["torch"], run(measure_torch, files["torch"], seconds, threads))}
    for name, file, config in (
        ("OpenVINO, f32", "openvino", {"INFERENCE_PRECISION_HINT": "f32"}),
        ("OpenVINO, default precision", "openvino", {}),
        ("OpenVINO, INT8_PTQ", "int8", {}),
    ):
        rows[name] = files[file], run(measure_openvino, files[file], seconds, threads, config)
    return rows


def to_rows(backbone: str, rows: dict[str, tuple[Path, Measurement]]) -> Iterator[tuple[str, ...]]:
    """Write the rows of a backbone."""
    _, torch_measurement = next(iter(rows.values()))
    for name, (path, found) in rows.items():
        yield (
            f"{backbone}, {name}",
            f"{1000 * found.latency:.1f} ms",
            f"{torch_measurement.latency / found.latency:.1f} x",
            f"{found.throughput:.2f} images/s",
            f"{found.memory / 2**20:.0f} MiB",
            f"{file_size(path) / 1e6:.1f} MB",
        )


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(main)
