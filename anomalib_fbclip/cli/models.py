# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The model that a command asks for, and the photographs to compare with."""

import argparse
import gc
import json
import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from anomalib_fbclip.errors import ImageError, InspectionError
from anomalib_fbclip.images.image_files import find_images, printable
from anomalib_fbclip.images.photographs import KeptPhotograph, read_size
from anomalib_fbclip.images.region_of_interest import parse_region
from anomalib_fbclip.results.false_alarms import limit_false_alarms
from anomalib_fbclip.results.regions import SMALLEST_DEFECT, smallest_visible_defect
from anomalib_fbclip.results.thresholds import ADVICE_FOR_EXPORTED
from anomalib_fbclip.weights import bundled

from .arguments import AUTO, PAPER_BACKBONE
from .prediction import Inferencer
from .screen import Screen, count

if TYPE_CHECKING:
    from .torch_inferencer import TorchInferencer

GOOD_FOR = {
    bundled.NAME: f"small and quick. The paper's model is larger: --backbone {PAPER_BACKBONE}, a download of 0.9 GB.",
    PAPER_BACKBONE: "the paper's model. Without a GPU, a photograph takes seconds.",
}
"""Descriptions of the backbones."""

USUAL_DEFECT = 0.01
"""Default of ``--smallest-defect``, as a share of a photograph's longer side."""

PHOTOGRAPHS_AT_ONCE = 4
"""Largest number of photographs that torch computes at the same time, to keep all cores busy. Each takes memory."""


class Ready(NamedTuple):
    """A model that is ready to inspect, lines about it for the screen, and the good photographs to compare with.

    Attributes:
        advice (str): How to get a threshold that fits the parts.
        kept (int): Number of good photographs in an exported model.
        is_mutual (bool): Whether photographs without labels are compared with each other.
        watch (Callable[[Callable[[float], None]], None] | None): Sets a callback for each view, which gets the view's
            share of a photograph; ``None`` if there is one view.
    """

    inferencer: Inferencer
    lines: list[str]
    advice: str
    good: Sequence[Path | KeptPhotograph] = ()
    good_scores: Sequence[float] = ()
    kept: int = 0
    is_mutual: bool = False
    watch: Callable[[Callable[[float], None]], None] | None = None


def get_ready(
    options: argparse.Namespace, good: Sequence[Path], files: Sequence[Path], screen: Screen, *, at_once: bool
) -> Ready:
    """Load the model that the command line asks for.

    ``files`` are the photographs to inspect that are known already. ``at_once`` computes several photographs at the
    same time: more per second, but later verdicts.
    """
    size = find_size([*files, *good])
    with screen.progress("Loading the model", None):
        ready = load_exported(options, at_once) if options.model else load_torch(options, at_once, size)
    sight = describe_sight(ready.inferencer, size, is_auto=options.tiles == AUTO)
    ready = ready._replace(lines=[*ready.lines, *sight])
    share = options.max_false_alarms
    if good:
        return compare(ready, good, screen, options.rotations, share)
    if options.product:
        return use_products(ready, options.product, share)
    if options.model and share:
        return limit(ready, share)
    if options.model or options.alone or not at_once:
        return ready
    return compare_mutually(ready, files, screen, full_size=options.full_size)


def load_exported(options: argparse.Namespace, at_once: bool) -> Ready:
    """Load an exported model, without torch."""
    from anomalib_fbclip.exported import EdgeInferencer

    inferencer = EdgeInferencer(
        options.model,
        options.device or "AUTO",
        options.threshold,
        options.pixel_threshold,
        "THROUGHPUT" if at_once else "LATENCY",
        options.precision or "f32",
        options.white_level,
    )
    backbone = inferencer.metadata.get("backbone", "model without metadata")
    name = f"product {printable(inferencer.metadata['product'])}, " if "product" in inferencer.metadata else ""
    line = f"{printable(options.model)}: {name}{backbone}, exported; computed by {inferencer.runtime}."
    return Ready(
        inferencer,
        [line],
        ADVICE_FOR_EXPORTED,
        good_scores=json.loads(inferencer.metadata.get("good_scores", "[]")),
        kept=int(inferencer.metadata.get("k_shot", 0)),
        is_mutual="unlabeled" in inferencer.metadata,
    )


def find_size(files: Sequence[Path]) -> tuple[int, int] | None:
    """Return height and width of the first photograph that can be read; ``None`` if there is none."""
    for path in files:
        with suppress(ImageError):  # the reader says why
            return read_size(path)
    return None


def describe_sight(inferencer: Inferencer, size: tuple[int, int] | None, *, is_auto: bool) -> list[str]:
    """Say how small a visible defect may be in photographs of a height and width, and how much slower tiles are.

    ``is_auto`` tells whether that size chose the number of tiles.
    """
    lines = []
    if size and inferencer.input_size:
        smallest = smallest_visible_defect(size, inferencer.input_size)
        lines.append(f"Smallest visible defect: about {smallest} of {max(size)} pixels.")
    if inferencer.tile_count:
        times = inferencer.tile_count + 1
        lines.append(f"{inferencer.tile_count} tiles besides the whole photograph: about {times} times slower.")
    elif is_auto:
        lines.append("No tiles are needed.")
    return lines


def choose_tiles(size: tuple[int, int], smallest: int | None, view_size: tuple[int, int]) -> tuple[int, int]:
    """Choose rows and columns of tiles that show the smallest defect and keep the proportions of long photographs.

    The sizes are heights and widths: of a photograph in its pixels, and of a tile in the model's. The smallest defect
    is in pixels of the photograph; ``None``: a hundredth of the longer side.
    """
    from anomalib_fbclip.modeling.tiling import OVERLAP

    seen = SMALLEST_DEFECT / (smallest or USUAL_DEFECT * max(size))
    scale = max(seen, max(view_size) / min(size) if min(size) < max(size) else 0)
    rows, columns = (
        1 + max(math.ceil((scale * side - view) / ((1 - OVERLAP) * view)), 0)
        for side, view in zip(size, view_size, strict=True)
    )
    return rows, columns


def load_torch(options: argparse.Namespace, at_once: bool, size: tuple[int, int] | None) -> Ready:
    """Load a model in torch, for photographs of a height and width in pixels, if known."""
    if options.tiles == AUTO and size is None:
        msg = f"--tiles {AUTO} measures a photograph, and there is none that can be read: give a number, such as 3."
        raise InspectionError(msg)
    tiles = partial(choose_tiles, size, options.smallest_defect) if options.tiles == AUTO and size else options.tiles
    try:
        with quick_imports():
            from .torch_inferencer import TorchInferencer
    except ModuleNotFoundError as error:
        msg = (
            f"{error.name} is missing: pip install anomalib-fbclip. An exported model needs no torch: --model model.xml"
        )
        raise InspectionError(msg) from error

    weights = options.weights or "auto"
    if options.product:
        weights = str(options.product[0])
    inferencer = TorchInferencer(
        options.backbone,
        weights,
        options.device or "auto",
        options.precision or "float32",
        options.threshold,
        options.pixel_threshold,
        PHOTOGRAPHS_AT_ONCE if at_once else 1,
        options.white_level,
        image_size=options.image_size,
        tiles=tiles,
        region=parse_region(options.region, size) if options.region is not None else None,
    )
    trained = f"adapters trained on {inferencer.trained_on}."
    line = f"{inferencer.backbone}: {trained if options.weights else GOOD_FOR.get(inferencer.backbone, trained)}"
    if options.product:
        names = ", ".join(printable(path.stem) for path in options.product)
        line = f"{'Product' if len(options.product) == 1 else 'Products'} {names}: {inferencer.backbone}, {trained}"
        for path in options.product[1:]:
            inferencer.add_product(path)
    advice = "Use --product." if "known_good" in options else "Use --good."  # in check, --good means something else
    return Ready(inferencer, [line], advice, watch=inferencer.watch_views if inferencer.tile_count else None)


def compare(ready: Ready, good: Sequence[Path], screen: Screen, rotations: int | None, share: float | None) -> Ready:
    """Let a model in torch compare with photographs of good parts.

    ``share`` is the share of good parts that may be called anomalous, which sets the threshold.
    """
    inferencer = cast("TorchInferencer", ready.inferencer)
    references = inferencer.read_references(good, rotations)
    with screen.progress("Good photographs", len(references.images), passes=2) as advance:
        inferencer.compare_with(references, advance)
    ready = _describe_references(ready._replace(good=good), share)
    return ready._replace(lines=[*ready.lines, *references.warnings()])


def use_products(ready: Ready, products: Sequence[Path], share: float | None) -> Ready:
    """Describe the good photographs of products. See :func:`compare`."""
    inferencer = cast("TorchInferencer", ready.inferencer)
    references = inferencer.references
    ready = ready._replace(good=[photograph for one in references for photograph in one.kept])
    if len(products) == 1:
        return _describe_references(ready, share)
    if share is not None:
        msg = "--max-false-alarms needs a single product: give one, or teach each with --max-false-alarms."
        raise InspectionError(msg)
    decides = inferencer.threshold_sources()[0] != "given"
    lines = [
        f"{printable(path.stem)}: {one.describe(decides=decides)}"
        for path, one in zip(products, references, strict=True)
    ]
    return ready._replace(lines=[*ready.lines, *lines])


def _describe_references(ready: Ready, share: float | None) -> Ready:
    """Describe the threshold, and set it if a share of false alarms is given."""
    inferencer = cast("TorchInferencer", ready.inferencer)
    (references,) = inferencer.references
    decides = share is None and inferencer.threshold_sources()[0] != "given"
    line = references.describe(decides=decides)
    ready = ready._replace(lines=[*ready.lines, line], good_scores=references.fit.scores.tolist())
    return ready if share is None else limit(ready, share)


def limit(ready: Ready, share: float) -> Ready:
    """Set the threshold for a share of false alarms, and add a line about it."""
    if not ready.good_scores:
        msg = "--max-false-alarms: the model contains no good photographs. Export it with some, or give --threshold."
        raise InspectionError(msg)
    try:
        chosen = limit_false_alarms(ready.good_scores, share)
    except ValueError as error:
        raise InspectionError(str(error)) from error
    ready.inferencer.decide_at(chosen.threshold)
    return ready._replace(lines=[*ready.lines, chosen.describe()])


def compare_mutually(ready: Ready, photographs: Sequence[Path], screen: Screen, *, full_size: bool) -> Ready:
    """Let a model in torch compare photographs with each other, if there are enough."""
    from anomalib_fbclip.data.unlabeled_set import FEWEST

    inferencer = cast("TorchInferencer", ready.inferencer)
    if len(photographs) < FEWEST or inferencer.knows_parts:
        return ready
    references = inferencer.read_unlabeled(photographs, full_size=full_size)
    with screen.progress("Comparing photographs", len(references.images), passes=2) as advance:
        inferencer.compare_with(references, advance)
    lines = [*ready.lines, f"No good photographs. {references.describe(decides=True)}", *references.warnings()]
    return ready._replace(lines=lines, is_mutual=not references.doubt)


def find_photographs(path: Path, option: str, advice: str) -> list[Path]:
    """Find the photographs of a folder, or a single one, that was given after an option."""
    if not path.exists():
        msg = f"{option}{printable(path)} does not exist: {advice}"
        raise InspectionError(msg)
    found = find_images(path)
    if not found:
        msg = f"{option}{printable(path)} has no photographs: {advice}"
        raise InspectionError(msg)
    return found


def find_good(folder: Path, shots: int | None, option: str = "--good ") -> list[Path]:
    """Find the photographs of good parts to compare with: all, or always the same ones."""
    found = find_photographs(folder, option, "give a folder of photographs of good parts.")
    if shots is None:
        return found
    if shots > len(found):
        total = count(len(found), "photograph")
        msg = f"{option}{printable(folder)} has {total}, and --shots is {shots}: lower --shots."
        raise InspectionError(msg)
    with quick_imports():  # imports torch, after mistakes were reported
        from anomalib_fbclip.data.references import ReferenceChoice

    chosen = ReferenceChoice(folder, shots, seed=0).find(datamodule=None)
    return [path for path in chosen if isinstance(path, Path)]


@contextmanager
def quick_imports() -> Generator[None]:
    """Stop garbage collection during large imports: it takes a quarter of the time and finds nothing, then or later."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if was_enabled:
            gc.enable()
