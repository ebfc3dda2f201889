# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""How fast FB-CLIP is, beside its own image tower and other models: two tables in Markdown, measured in one run::

    python tests/benchmark/speed.py

Weights are random, which are as fast as trained ones. Each row is measured in a process of its own, one after another.
The second table shows where the time goes, stage by stage, beside the number of operations. Where there is a GPU, its
rows follow.
"""

from __future__ import annotations

import math
import os
import platform
import re
import resource
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from unittest import mock

import torch
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anomalib_fbclip import FBClip, FBClipModel

Result = TypeVar("Result")

ARCHITECTURE = "ViT-L-14-336"
SIDE = 518
GRID = (37, 37)

PATCHCORE_BANK = (16384, 1536)
"""Size of PatchCore's memory: a tenth of the patches of 209 images, with its usual layers."""

MEMORY = (8, 341, 3072)
"""What is kept of 8 good photographs: patches of each, and their length, which is that of three layers."""


def count_attention(query: torch.Size, key: torch.Size, value: torch.Size, *_, **__) -> int:
    """Count the operations of an attention, as torch does for those that run on a GPU."""
    *batch, length, width = query
    return 2 * math.prod(batch) * length * key[-2] * (width + value[-1])


CPU_ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: count_attention}


class Row(NamedTuple):
    """What is measured.

    Attributes:
        name (str): Its name in the table.
        function (str): Name of the function of this program that prepares it.
        device (str): Where it runs.
        precision (str): Type in which the CLIP is kept.
        batch (int): Images at once.
        compiled (bool): Whether it is compiled.
        references (int): Number of good photographs that are compared with.
        once (bool): Whether it takes so long that a single call has to do.
    """

    name: str
    function: str
    device: str = "cpu"
    precision: str = "float32"
    batch: int = 1
    compiled: bool = False
    references: int = 0
    once: bool = False


class Measurement(NamedTuple):
    """What was found.

    Attributes:
        median (float): Seconds of a call.
        spread (float): Half the distance between the quartiles, in seconds.
        memory (int): Peak of the process's memory, or of the GPU's where it runs there, in bytes.
    """

    median: float
    spread: float
    memory: int


TOWER = "prepare_tower"

CPU_ROWS = (
    Row("image tower alone, f32", TOWER),
    Row("FB-CLIP, f32", "prepare_model"),
    Row("FB-CLIP, 8 good photographs, f32", "prepare_model", references=8),
    Row("FB-CLIP, f32, compiled", "prepare_model", compiled=True),
    Row("image tower alone, bf16", TOWER, precision="bfloat16"),
    Row("FB-CLIP, bf16", "prepare_model", precision="bfloat16"),
    Row("FB-CLIP as defined (the tests' oracle), f32", "prepare_oracle", once=True),
    Row("WinCLIP, 240 px, f32", "prepare_winclip"),
    Row("PatchCore, 256 px, f32", "prepare_patchcore"),
)

GPU_ROWS = (
    *(
        Row(f"product of two 8192 x 8192 matrices, 1.1 TFLOP, {precision}", "prepare_product", "cuda", precision)
        for precision in ("bfloat16", "float16")
    ),
    *(
        Row(f"{name}, {precision}, batch {batch}", function, "cuda", precision, batch, compiled)
        for precision in ("bfloat16", "float16")
        for batch in (1, 16, 64)
        for name, function, compiled in (
            ("image tower alone", TOWER, False),
            ("FB-CLIP", "prepare_model", False),
            ("FB-CLIP, compiled", "prepare_model", True),
        )
    ),
    Row("training step, bfloat16, batch 4", "prepare_training", "cuda", "bfloat16", 4),
)


def create_fbclip(folder: Path, precision: str) -> FBClip:
    """Create an FB-CLIP with the random weights that lie in the folder.

    Good photographs are not turned: it would take longer to encode them, and as many patches would be kept.
    """
    from anomalib_fbclip import FBClip

    return FBClip(
        pretrained=folder / "clip.safetensors",
        weights=folder / "adapters.safetensors",
        backbone_precision=precision,
        reference_rotations=1,
    )


def write_weights(folder: Path) -> None:
    """Write random weights of CLIP and adapters to a folder."""
    import open_clip
    from safetensors.torch import save_file

    from anomalib_fbclip import FBClip

    save_file(open_clip.create_model(ARCHITECTURE).state_dict(), folder / "clip.safetensors")
    FBClip(pretrained=folder / "clip.safetensors", weights=None).save_adapters(folder / "adapters.safetensors")


def make_images(row: Row) -> torch.Tensor:
    """Make the batch of normalized images that a row is measured with."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(row.batch, 3, SIDE, SIDE, generator=generator).to(row.device)


def autocast(row: Row) -> torch.autocast | nullcontext[None]:
    """Compute in the row's precision, as the trainer does with ``bf16-mixed`` or ``16-mixed``."""
    dtype = getattr(torch, row.precision)
    return nullcontext() if dtype == torch.float32 else torch.autocast(row.device, dtype)


def prepare_model(row: Row, folder: Path) -> Callable[[], object]:
    """Prepare the whole model."""
    fbclip = create_fbclip(folder, row.precision).eval().to(row.device)
    if row.references:
        photographs = torch.rand(row.references, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
        fbclip.use_references([*photographs])
        memory = fbclip.model.decision.memory.patches
        print(f"{row.name}: {memory.nbytes / 1e6:.1f} MB, patches {[*memory.shape]}", file=sys.stderr)
    model = fbclip.model
    images = make_images(row)
    with torch.inference_mode():
        model.text_features()
    network = torch.compile(model, fullgraph=True) if row.compiled else model

    def run() -> None:
        with torch.inference_mode(), autocast(row):
            network(images)

    return run


def prepare_tower(row: Row, folder: Path) -> Callable[[], object]:
    """Prepare the image tower alone."""
    backbone = create_fbclip(folder, row.precision).eval().model.backbone.to(row.device)
    images = make_images(row)

    def run() -> None:
        with torch.inference_mode(), autocast(row):
            backbone.encode_image(images)

    return run


def prepare_oracle(row: Row, folder: Path) -> Callable[[], object]:
    """Prepare the model with everything after the image tower as the tests' oracle defines it."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from anomalib_fbclip.modeling.mvfbe.foreground_mask import THRESHOLD
    from support import oracle

    model = create_fbclip(folder, row.precision).eval().model
    images = make_images(row)
    state = model.mvfbe.attention.state_dict()

    def run() -> None:
        with torch.no_grad():
            layer_tokens, _ = model.backbone.encode_image(images)
            layers = [tokens[0] for tokens in layer_tokens]
            attended = []
            for tokens, previous in zip(layers, [None, *layers], strict=False):
                score = oracle.foreground_score(tokens, previous)
                mask = torch.where(score > THRESHOLD, 1.0, 0.5)
                views = (tokens, oracle.semantic_view(tokens, mask), oracle.spatial_view(tokens, mask, GRID))
                attended += [oracle.attention(view, state, num_heads=8) for view in views]
            embeddings = [model.backbone.project_image(tokens) for tokens in oracle.suppress(attended)]
            oracle.abnormal_probability(embeddings, model.text_features(), model.alignment.scale_weights)

    return run


def prepare_winclip(row: Row, folder: Path) -> Callable[[], object]:
    """Prepare anomalib's WinCLIP with random weights."""
    del row, folder
    import open_clip
    from anomalib.models.image.winclip.torch_model import WinClipModel

    create = open_clip.create_model_and_transforms
    with mock.patch.object(open_clip, "create_model_and_transforms", lambda name, **_: create(name)):
        model = WinClipModel(class_name="part").eval()
    images = torch.randn(1, 3, 240, 240)

    def run() -> None:
        with torch.inference_mode():
            model(images)

    return run


def prepare_patchcore(row: Row, folder: Path) -> Callable[[], object]:
    """Prepare anomalib's PatchCore with random weights and a memory of the usual size."""
    del row, folder
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel

    model = PatchcoreModel(layers=("layer2", "layer3"), backbone="wide_resnet50_2", pre_trained=False).eval()
    model.memory_bank = torch.randn(PATCHCORE_BANK)
    images = torch.randn(1, 3, 256, 256)

    def run() -> None:
        with torch.inference_mode():
            model(images)

    return run


def prepare_product(row: Row, folder: Path) -> Callable[[], object]:
    """Prepare a product of large matrices, which is as fast as products become."""
    del folder
    matrix = torch.randn(8192, 8192, device=row.device, dtype=getattr(torch, row.precision))
    return lambda: matrix @ matrix


def prepare_training(row: Row, folder: Path) -> Callable[[], object]:
    """Prepare a step of training the adapters."""
    from anomalib.data import ImageBatch

    model = create_fbclip(folder, row.precision).train().to(row.device)
    model.log = lambda *_, **__: None
    images = make_images(row)
    mask = torch.zeros(row.batch, SIDE, SIDE, dtype=torch.bool, device=row.device)
    mask[::2, 100:200, 100:200] = True
    batch = ImageBatch(image=images, gt_label=mask.flatten(1).any(dim=1), gt_mask=mask)
    optimizer = model.configure_optimizers()

    def run() -> None:
        optimizer.zero_grad()
        with autocast(row):
            loss = model.training_step(batch)
        loss.backward()
        optimizer.step()

    return run


def measure(row: Row, folder: Path, threads: int, seconds: float) -> Measurement:
    """Measure a row, for some seconds, after a call that does not count."""
    torch.set_num_threads(threads)
    run = globals()[row.function](row, folder)
    timer = Timer("run()", globals={"run": run}, num_threads=threads)
    if row.once:
        found = timer.timeit(1)
    else:
        run()
        found = timer.blocked_autorange(min_run_time=seconds)
    on_gpu = row.device == "cuda"
    peak = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Measurement(found.median, found.iqr / 2, peak)


def measure_libraries() -> int:
    """Measure what this process, which does nothing but import the model's libraries, takes: bytes."""
    from anomalib_fbclip import FBClip

    del FBClip
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def profile_stages(folder: Path, threads: int, repetitions: int) -> list[tuple[str, float, int]]:
    """Measure the stages of the model in float32, one after the other: median seconds, and operations of products."""
    torch.set_num_threads(threads)
    model = create_fbclip(folder, "float32").eval().model
    images = make_images(Row("", ""))
    found: list[tuple[str, float, int]] = []

    def stage(name: str, function: Callable[[], Result]) -> Result:
        with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
            result = function()
        timer = Timer("function()", globals={"function": function}, num_threads=threads)
        median = sorted(timer.timeit(1).median for _ in range(repetitions))[repetitions // 2]
        found.append((name, median, counter.get_total_flops()))
        return result

    with torch.inference_mode():
        _run_stages(model, images, stage)
    return found


def _run_stages(model: FBClipModel, images: torch.Tensor, stage: Callable) -> None:
    from anomalib_fbclip.modeling.few_shot.few_shot import later_half
    from anomalib_fbclip.modeling.few_shot.memory_bank import MemoryBank, join_layers
    from anomalib_fbclip.modeling.mvfbe import FusedAttention
    from anomalib_fbclip.modeling.mvfbe.linear_maps import LayerViews

    text_features = model.text_features()
    layer_tokens, grid = stage("image tower", partial(model.backbone.encode_image, images))
    mvfbe, attention = model.mvfbe, FusedAttention(model.mvfbe.attention)

    def view_layers() -> Iterator[LayerViews]:
        for tokens, previous_tokens in zip(layer_tokens, [None, *layer_tokens], strict=False):
            mask = mvfbe.foreground_mask(tokens, previous_tokens)
            yield LayerViews(tokens, [view(tokens, mask, grid) for view in mvfbe.views.values()])

    views = stage(
        "masks, views, products of gate, queries, keys, values", lambda: list(attention.project(view_layers()))
    )
    attended = stage("attention, output layers", lambda: attention.attend(views))
    suppressed = stage("background suppression", lambda: model.mvfbe.suppression(attended))
    embeddings = stage("into the joint space", lambda: [model.backbone.project_image(each) for each in suppressed])
    stage("alignment", lambda: model.alignment(embeddings, text_features))
    memory = MemoryBank(torch.randn(MEMORY))
    stage("comparison with 8 good photographs", lambda: memory(join_layers(later_half(layer_tokens))))


def describe_processor() -> str:
    """Name the processor as its system does."""
    try:
        return re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8")).group(1)
    except (OSError, AttributeError):
        return platform.processor()


def print_rows(rows: dict[Row, Measurement | None]) -> None:
    """Print a table of rows, with ratios to the image tower in the same precision and batch."""
    from anomalib_fbclip.protocol.tables import markdown_lines  # with pandas, which would count in all processes

    towers = {(row.precision, row.batch): found for row, found in rows.items() if row.function == TOWER and found}
    cells = (_to_cells(row, result, towers.get((row.precision, row.batch))) for row, result in rows.items())
    print(*markdown_lines(["", "time of a batch", "images/s", "/ its image tower", "peak memory"], cells), sep="\n")


def _to_cells(row: Row, found: Measurement | None, tower: Measurement | None) -> tuple[str, ...]:
    if found is None:
        return row.name, "failed", "", "", ""
    compared = tower and row.function in {TOWER, "prepare_model", "prepare_oracle"}
    return (
        row.name,
        f"{1000 * found.median:.0f} ± {1000 * found.spread:.0f} ms",
        f"{row.batch / found.median:.2f}",
        f"{found.median / tower.median:.2f}" if compared else "",
        f"{found.memory / 1e9:.2f} GB",
    )


def print_stages(stages: list[tuple[str, float, int]]) -> None:
    """Print the table of stages."""
    from anomalib_fbclip.protocol.tables import markdown_lines  # with pandas, which would count in all processes

    _, tower_seconds, tower_operations = stages[0]
    header = ["stage, f32", "time", "/ image tower", "operations", "/ image tower", "GFLOP/s"]
    cells = (
        (
            name,
            f"{1000 * seconds:.0f} ms",
            f"{seconds / tower_seconds:.3f}",
            f"{operations / 1e9:.1f} GFLOP",
            f"{operations / tower_operations:.3f}",
            f"{operations / seconds / 1e9:.0f}",
        )
        for name, seconds, operations in stages
    )
    print(*markdown_lines(header, cells), sep="\n")


def main(
    seconds: float = 12.0,
    threads: int | None = None,
    compiled: bool = False,
    rows: list[str] | None = None,
) -> None:
    """Measure and print.

    Args:
        seconds (float): How long each row is measured, beside one call that does not count.
        threads (int | None): Threads; ``None``: one for each core.
        compiled (bool): Whether the compiled model is measured too, which takes minutes to compile.
        rows (list[str] | None): Names of the rows to measure; ``None``: all.
    """
    threads = threads or os.cpu_count() or 1
    os.environ["OMP_NUM_THREADS"] = str(threads)
    found: dict[Row, Measurement | None] = dict.fromkeys(
        row
        for row in CPU_ROWS + GPU_ROWS * torch.cuda.is_available()
        if (row.name in rows if rows else compiled or not row.compiled)
    )
    with (
        tempfile.TemporaryDirectory() as name,
        ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as processes,
    ):
        folder = Path(name)
        processes.submit(write_weights, folder).result()
        libraries = processes.submit(measure_libraries).result()
        for row in found:
            future = processes.submit(measure, row, folder, threads, seconds)
            # The other rows are worth having.
            if error := future.exception():
                print(f"{row.name}: {error!r}", file=sys.stderr)
            found[row] = None if error else future.result()
        stages = processes.submit(profile_stages, folder, threads, 3).result()
    print(f"{ARCHITECTURE} at {SIDE} px, {threads} threads of {describe_processor()}, torch {torch.__version__}\n")
    for device in ("cpu", "cuda"):
        if of_device := {row: result for row, result in found.items() if row.device == device}:
            print(f"{torch.cuda.get_device_name() if device == 'cuda' else 'CPU'}:\n")
            print_rows(of_device)
            print()
    print(f"Of a process's memory, the libraries take {libraries / 1e9:.2f} GB.\n")
    print_stages(stages)


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(main)
