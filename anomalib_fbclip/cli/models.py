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
from typing import TYPE_CHECKING, NamedTuple

from anomalib_fbclip.errors import CommandError, ImageError
from anomalib_fbclip.exported.inferencer import EdgeInferencer
from anomalib_fbclip.images.image_files import find_images, printable
from anomalib_fbclip.images.photographs import KeptPhotograph, read_size
from anomalib_fbclip.images.region_of_interest import parse_region
from anomalib_fbclip.results.regions import SMALLEST_DEFECT, smallest_visible_defect
from anomalib_fbclip.results.thresholds import limit_false_alarms
from anomalib_fbclip.weights import bundled

from .arguments import AUTO, PAPER_BACKBONE
from .inspection import Inferencer
from .screen import Screen, count

if TYPE_CHECKING:
    from .torch_inferencer import TorchInferencer

GOOD_FOR = {
    bundled.NAME: f"small and quick. The paper's model is larger: --backbone {PAPER_BACKBONE}, a download of 0.9 GB.",
    PAPER_BACKBONE: "the paper's model. Without a GPU, a photograph takes seconds.",
}
"""Descriptions of the backbones."""

ADVICE_FOR_EXPORTED = "Export the model again with photographs of good parts, or give --threshold."
"""Advice for an exported model whose threshold does not come from the parts."""

USUAL_DEFECT = 0.01
"""Default of ``--smallest-defect``, as a share of a photograph's longer side."""

PHOTOGRAPHS_AT_ONCE = 4
"""Largest number of photographs that torch computes at the same time, to keep all cores busy. Each takes memory."""


class Ready(NamedTuple):
    """A model that is ready to inspect, and what an inspection needs to know of it."""

    inferencer: Inferencer
    lines: list[str]  # about it, for the screen
    advice: str  # how to get a threshold that fits the parts
    good: Sequence[Path | KeptPhotograph] = ()  # photographs to compare with
    good_scores: Sequence[float] = ()
    kept: int = 0  # number of good photographs in an exported model
    is_mutual: bool = False  # whether photographs without labels are compared with each other
    watch: Callable[[Callable[[float], None]], None] | None = None  # TorchInferencer.watch_views, if there are tiles


def get_ready(
    options: argparse.Namespace, good: Sequence[Path], files: Sequence[Path], screen: Screen, *, at_once: bool
) -> Ready:
    """Load the model that the command line asks for, and let it compare with photographs.

    ``files`` are the photographs to inspect that are known already. ``at_once`` computes several photographs at the
    same time: more per second, but later verdicts.
    """
    size = find_size([*files, *good])
    with screen.progress("Loading the model", None):
        inferencer = load_exported(options, at_once) if options.model else load_torch(options, at_once, size)
    sight = describe_sight(inferencer, size, is_auto=options.tiles == AUTO)
    share = options.max_false_alarms
    if isinstance(inferencer, EdgeInferencer):
        return _get_exported_ready(inferencer, sight, share)
    lines = [describe_torch(options, inferencer), *sight]
    compared: Sequence[Path | KeptPhotograph] = good
    is_mutual = False
    if good:
        lines += compare(inferencer, good, screen, options.rotations, share)
    elif options.product:
        lines += describe_products(inferencer, options.product, share)
        compared = [photograph for one in inferencer.references for photograph in one.kept]
    elif at_once and not options.alone:
        mutual = compare_mutually(inferencer, files, screen, full_size=options.full_size)
        lines += mutual
        is_mutual = bool(mutual and inferencer.references)  # the weights may have references of their own
    return Ready(
        inferencer,
        lines,
        "Use --product." if "known_good" in options else "Use --good.",  # in check, --good means something else
        compared,
        find_good_scores(inferencer) if compared else (),
        is_mutual=is_mutual,
        watch=inferencer.watch_views if inferencer.tile_count else None,
    )


def load_exported(options: argparse.Namespace, at_once: bool) -> EdgeInferencer:
    """Load an exported model, without torch."""
    return EdgeInferencer(
        options.model,
        options.device or "AUTO",
        options.threshold,
        options.pixel_threshold,
        "THROUGHPUT" if at_once else "LATENCY",
        options.precision or "f32",
        options.white_level,
    )


def _get_exported_ready(inferencer: EdgeInferencer, sight: Sequence[str], share: float | None) -> Ready:
    """Describe an exported model, and set its threshold if a share of false alarms is given."""
    known = inferencer.metadata
    name = f"product {printable(known['product'])}, " if "product" in known else ""
    backbone = known.get("backbone", "model without metadata")
    lines = [f"{printable(inferencer.path)}: {name}{backbone}, exported; computed by {inferencer.runtime}.", *sight]
    scores = json.loads(known.get("good_scores", "[]"))
    if share is not None:
        lines.append(limit(inferencer, scores, share))
    kept = int(known.get("k_shot", 0))
    return Ready(inferencer, lines, ADVICE_FOR_EXPORTED, good_scores=scores, kept=kept, is_mutual="unlabeled" in known)


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


def load_torch(options: argparse.Namespace, at_once: bool, size: tuple[int, int] | None) -> "TorchInferencer":
    """Load a model in torch, for photographs of a height and width in pixels, if known."""
    tiles = options.tiles
    if tiles == AUTO:
        if size is None:
            msg = f"--tiles {AUTO} measures a photograph, and there is none that can be read: give a number, such as 3."
            raise CommandError(msg)
        tiles = partial(choose_tiles, size, options.smallest_defect)
    try:
        with quick_imports():
            from .torch_inferencer import TorchInferencer
    except ModuleNotFoundError as error:
        msg = (
            f"{error.name} is missing: pip install anomalib-fbclip. An exported model needs no torch: --model model.xml"
        )
        raise CommandError(msg) from error

    inferencer = TorchInferencer(
        options.backbone,
        str(options.product[0]) if options.product else options.weights or "auto",
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
    for path in options.product[1:]:
        inferencer.add_product(path)
    return inferencer


def describe_torch(options: argparse.Namespace, inferencer: "TorchInferencer") -> str:
    """Describe a model in torch, and its products."""
    trained = f"adapters trained on {inferencer.trained_on}."
    if not options.product:
        what = trained if options.weights else GOOD_FOR.get(inferencer.backbone, trained)
        return f"{inferencer.backbone}: {what}"
    names = ", ".join(printable(path.stem) for path in options.product)
    return f"{'Product' if len(options.product) == 1 else 'Products'} {names}: {inferencer.backbone}, {trained}"


def compare(
    inferencer: "TorchInferencer", good: Sequence[Path], screen: Screen, rotations: int | None, share: float | None
) -> list[str]:
    """Let a model compare with photographs of good parts, and describe them.

    ``share`` is the share of good parts that may be called anomalous, which sets the threshold.
    """
    references = inferencer.read_references(good, rotations)
    with screen.progress("Good photographs", len(references.images), passes=2) as advance:
        inferencer.compare_with(references, advance)
    return [*_describe_references(inferencer, share), *references.warnings()]


def describe_products(inferencer: "TorchInferencer", products: Sequence[Path], share: float | None) -> list[str]:
    """Describe the good photographs of products. See :func:`compare`."""
    if len(products) == 1:
        return _describe_references(inferencer, share)
    if share is not None:
        msg = "--max-false-alarms needs a single product: give one, or teach each with --max-false-alarms."
        raise CommandError(msg)
    decides = inferencer.threshold_sources()[0] != "given"
    return [
        f"{printable(path.stem)}: {one.describe(decides=decides)}"
        for path, one in zip(products, inferencer.references, strict=True)
    ]


def _describe_references(inferencer: "TorchInferencer", share: float | None) -> list[str]:
    """Describe the good photographs and the threshold, which is set if a share of false alarms is given."""
    (references,) = inferencer.references
    line = references.describe(decides=share is None and inferencer.threshold_sources()[0] != "given")
    return [line] if share is None else [line, limit(inferencer, find_good_scores(inferencer), share)]


def find_good_scores(inferencer: "TorchInferencer") -> list[float]:
    """Return the scores of the good photographs, each compared with the rest; none for several products."""
    references = inferencer.references
    return references[0].fit.scores.tolist() if len(references) == 1 else []


def limit(inferencer: Inferencer, good_scores: Sequence[float], share: float) -> str:
    """Set the threshold for a share of false alarms, and describe it."""
    if not good_scores:
        msg = "--max-false-alarms: the model contains no good photographs. Export it with some, or give --threshold."
        raise CommandError(msg)
    try:
        chosen = limit_false_alarms(good_scores, share)
    except ValueError as error:
        raise CommandError(str(error)) from error
    inferencer.decide_at(chosen.threshold)
    return chosen.describe()


def compare_mutually(
    inferencer: "TorchInferencer", photographs: Sequence[Path], screen: Screen, *, full_size: bool
) -> list[str]:
    """Let a model compare photographs with each other, if there are enough, and describe them."""
    from anomalib_fbclip.data.unlabeled_set import FEWEST

    if len(photographs) < FEWEST or inferencer.knows_parts:
        return []
    references = inferencer.read_unlabeled(photographs, full_size=full_size)
    with screen.progress("Comparing photographs", len(references.images), passes=2) as advance:
        inferencer.compare_with(references, advance)
    return [f"No good photographs. {references.describe(decides=True)}", *references.warnings()]


def find_photographs(path: Path, option: str, advice: str) -> list[Path]:
    """Find the photographs of a folder, or a single one, that was given after an option."""
    if not path.exists():
        msg = f"{option}{printable(path)} does not exist: {advice}"
        raise CommandError(msg)
    found = find_images(path)
    if not found:
        msg = f"{option}{printable(path)} has no photographs: {advice}"
        raise CommandError(msg)
    return found


def find_good(folder: Path, shots: int | None, option: str = "--good ") -> list[Path]:
    """Find the photographs of good parts to compare with: all, or always the same ones."""
    found = find_photographs(folder, option, "give a folder of photographs of good parts.")
    if shots is None:
        return found
    if shots > len(found):
        total = count(len(found), "photograph")
        msg = f"{option}{printable(folder)} has {total}, and --shots is {shots}: lower --shots."
        raise CommandError(msg)
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
