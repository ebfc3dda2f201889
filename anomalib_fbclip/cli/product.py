# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Products: files with everything needed to inspect one kind of part. ``fbclip teach`` makes and changes them."""

import argparse
import difflib
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from anomalib_fbclip.errors import CommandError
from anomalib_fbclip.images.image_files import printable
from anomalib_fbclip.images.photographs import KeptPhotograph
from anomalib_fbclip.images.region_of_interest import ONE_REGION, RegionMasks, decode_region
from anomalib_fbclip.results.good_photographs import find_copies
from anomalib_fbclip.results.thresholds import USUAL_THRESHOLD
from anomalib_fbclip.weights.metadata import PRODUCT_SUFFIX, SCORES

from .arguments import FIXED, Parser, add_model_options, check_model_options, parse_product, writing
from .models import compare, find_good, find_good_scores, find_photographs, find_size, limit, load_torch, quick_imports
from .screen import Screen, count, logging_to

if TYPE_CHECKING:
    from anomalib_fbclip.data.reference_set import ReferenceSet
    from anomalib_fbclip.weights.adapters import Adapters

    from .torch_inferencer import TorchInferencer

MOST_NAMES = 8
"""Largest number of names of photographs in a list."""


def run_teach(arguments: Sequence[str]) -> int:
    """Run ``fbclip teach``: make a product of photographs of good parts, or change one."""
    options = _parse_teach(arguments)
    screen = Screen(as_json=False)
    with logging_to(None, verbose=options.verbose):
        if options.add or options.remove:
            change(options, screen)
        else:
            teach(options, screen)
    return 0


def create_teach_parser() -> Parser:
    """Create the parser of ``fbclip teach``."""
    parser = Parser(
        prog="fbclip teach",
        description="Make a product: one file with everything needed to inspect one kind of part. Use it with fbclip "
        "photographs --product bolt.fbclip. It does not need the good photographs any more.",
        epilog="Examples: fbclip teach good --output bolt.fbclip\n          fbclip teach bolt.fbclip --add "
        "false-alarms\n          fbclip teach bolt.fbclip --remove 04.jpg",
    )
    parser.add_argument("source", type=Path, help="a folder of photographs of good parts, or a product to change")
    parser.add_argument(
        "--output",
        type=parse_product,
        metavar="FILE",
        help=f"the product to write, a file that ends in {PRODUCT_SUFFIX} (default with --add and --remove: the given "
        "product)",
    )
    parser.add_argument(
        "--add",
        type=Path,
        nargs="+",
        default=[],
        metavar="PHOTOGRAPHS",
        help="more photographs of good parts, or folders of them, such as false alarms that you have checked",
    )
    parser.add_argument(
        "--remove", nargs="+", default=[], metavar="NAME", help="names of photographs to remove from the product"
    )
    add_model_options(parser)
    parser.set_defaults(model=None, product=[])
    return parser


def _parse_teach(arguments: Sequence[str]) -> argparse.Namespace:
    parser = create_teach_parser()
    options = parser.parse_args(arguments)
    if options.add or options.remove:
        if options.source.suffix != PRODUCT_SUFFIX:
            parser.error(f"--add and --remove change a product: give a file that ends in {PRODUCT_SUFFIX} before them")
        parser.refuse(options, ("backbone", *FIXED), "--add and --remove: leave it out, or teach again")
        options.product = [options.source]
        options.output = options.output or options.source
    elif options.source.suffix == PRODUCT_SUFFIX:
        parser.error("to change a product, give --add or --remove")
    elif options.output is None:
        parser.error(f"the following arguments are required: --output, such as {options.source.name}{PRODUCT_SUFFIX}")
    check_model_options(parser, options)
    return options


def teach(options: argparse.Namespace, screen: Screen) -> None:
    """Make a product. See :func:`run_teach`."""
    _check_free(options.output)
    good = find_good(options.source, options.shots, option="")
    with screen.progress("Loading the model", None):
        inferencer = load_torch(options, at_once=False, size=find_size(good))
    if isinstance(inferencer.region, RegionMasks):
        raise CommandError(ONE_REGION)
    lines = compare(inferencer, good, screen, options.rotations, options.max_false_alarms)
    screen.tell(*lines, *describe_names(inferencer.references[0]))
    _save(inferencer, options.output, None, screen)


def change(options: argparse.Namespace, screen: Screen) -> None:
    """Add photographs to a product or remove some, and show what changes. See :func:`run_teach`."""
    if options.output != options.source:
        _check_free(options.output)
    advice = "give photographs of good parts, or a folder of them."
    added = [path for source in options.add for path in find_photographs(source, "--add ", advice)]
    with screen.progress("Loading the model", None):
        inferencer = load_torch(options, at_once=False, size=None)
    _check_writable(options.output)
    (before,) = inferencer.references
    removed = {_find_removed(name, before) for name in options.remove}
    known = find_copies(added, [photograph for photograph in before.kept if photograph.name not in removed])
    if known:
        screen.tell(f"Already in the product: {count(len(known), 'photograph')}.")
    added = [path for path in added if path not in known]
    if not added and not removed:
        screen.tell("Nothing has changed.")
        return
    if not added and len(removed) == len(before.kept):
        msg = "--remove would leave no photographs: keep some, or delete the product."
        raise CommandError(msg)
    after = inferencer.change_references(added, removed)
    with screen.progress("Good photographs", len(after.images), passes=2) as advance:
        inferencer.compare_with(after, advance)
    promises = []
    if options.max_false_alarms is not None:
        promises = [limit(inferencer, find_good_scores(inferencer), options.max_false_alarms)]
    elif inferencer.threshold_sources()[0] == "given":
        promises = [f"The threshold stays {inferencer.decision_thresholds()[0]:g}, as given."]
    screen.tell(*describe_names(after, removed), *describe_change(before, after), *promises)
    _save(inferencer, options.output, inferencer.taught, screen)


def describe_names(references: "ReferenceSet", removed: Collection[str] = ()) -> list[str]:
    """Name the photographs that were removed, those that may have had their names, and those that get other names."""
    named = references.product_names()
    others = [f"{re.escape(Path(name).stem)}-\\d+{re.escape(Path(name).suffix)}" for name in sorted(removed)]
    alike = [own for own, _ in named if any(re.fullmatch(other, own) for other in others)]
    renamed = [name for own, name in named if name != own]
    lines = [f"Removed: {_list(sorted(removed))}."] if removed else []
    if alike:
        lines.append(f"Not removed: {_list(alike)}, which may have had the same name.")
    if renamed:
        lines.append(f"Kept as {_list(renamed)}: the product has other photographs of the same name.")
    return lines


def describe_change(before: "ReferenceSet", after: "ReferenceSet") -> list[str]:
    """Compare a product's photographs, thresholds and expected false alarms before and after a change, and warn."""
    old, new = before.fit, after.fit
    limits = [fit.decision.calibration.threshold.item() for fit in (new, old)]
    likely = [f"{fit.false_alarms} in {len(fit.scores) + 1}" for fit in (new, old)]
    above = [
        f"{after.name(index)} scores {score:.3f} against the others: parts like it may still be called anomalous. "
        "Add more of them."
        for index, score in enumerate(new.scores.tolist())
        if score > USUAL_THRESHOLD and not isinstance(after.images[index], KeptPhotograph)
    ]
    return [
        f"Good photographs: {len(after.images)}, before {len(before.images)}.",
        f"Threshold: {limits[0]:.2f} standard deviations of good parts, before {limits[1]:.2f}.",
        f"About {likely[0]} good parts may be called anomalous, before {likely[1]}.",
        *above,
        *([after.advice] if after.advice else []),
        *after.warnings(),
    ]


def _find_removed(name: str, references: "ReferenceSet") -> str:
    names = [photograph.name for photograph in references.kept]
    if name in names:
        return name
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"Did you mean {printable(near[0])}?" if near else f"It has {_list(names)}."
    msg = f"--remove {printable(name)}: the product has no photograph of this name. {hint}"
    raise CommandError(msg)


def _list(names: Sequence[str]) -> str:
    """List names for the screen, if they are many only the first."""
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return f"{', '.join(map(printable, names[:MOST_NAMES]))}{more}"


def _check_free(path: Path) -> None:
    """Refuse to overwrite another product, and a place where none can be written."""
    _check_writable(path)
    if path.exists():
        msg = (
            f"--output {printable(path)} exists already: give another name, delete it, or add to it with fbclip "
            f"teach {printable(path)} --add."
        )
        raise CommandError(msg)


def _check_writable(path: Path) -> None:
    """Try to write where a product is to be written, before the work."""
    with writing(path, "file"):
        TemporaryFile(dir=next(folder for folder in path.absolute().parents if folder.exists())).close()


def _save(inferencer: "TorchInferencer", path: Path, taught: str | None, screen: Screen) -> None:
    with writing(path, "file"):
        inferencer.to_product(taught).save(path)
    screen.tell(f"Product: {printable(path)}, {path.stat().st_size / 1e6:.1f} MB.")
    screen.tell(f"Inspect with it: fbclip photographs --product {printable(path)}")


def create_product_parser() -> Parser:
    """Create the parser of ``fbclip product``."""
    parser = Parser(prog="fbclip product", description="Describe a product.")
    parser.add_argument("product", type=parse_product, help=f"a file that ends in {PRODUCT_SUFFIX}")
    return parser


def run_product(arguments: Sequence[str]) -> int:
    """Run ``fbclip product``: print the contents of a product."""
    path = create_product_parser().parse_args(arguments).product
    with logging_to(None, verbose=False), quick_imports():
        from anomalib_fbclip.weights.adapters import Adapters

        product = Adapters.read(path)
    screen = Screen(as_json=False)
    for name, value in describe_product(path, product).items():
        screen.tell(f"{name + ':':<22}{printable(value)}")
    return 0


def describe_product(path: Path, product: "Adapters") -> dict[str, str]:
    """Describe the product in a file, by topic."""
    said = product.metadata
    names = [photograph["name"] for photograph in said["photographs"]]
    used = [names[index] for index in said["used"]]
    scores = product.tensors[SCORES].tolist()
    above = 1 + sum(score > USUAL_THRESHOLD for score in scores)
    height, width = said["image_size"]
    rows, columns = said["tiles"]
    tiles = f", and {columns} x {rows} tiles of that size" if rows * columns > 1 else ""
    region = said["region"]
    thresholds = [
        f"of {what} {'from the good photographs' if value is None else f'{value:g}, given'}"
        for value, what in zip(said["thresholds"], ("scores", "places"), strict=True)
    ]
    copies = f"; {len(names) - len(used)} more are near copies" if len(names) > len(used) else ""
    return {
        "Product": f"{printable(path.stem)}, {path.stat().st_size / 1e6:.1f} MB",
        "Good photographs": f"{len(used)}: {_list(used)}{copies}",
        "Unlike the others": _list([used[index] for index in said["outliers"]]) or "none",
        "Model": f"{said['backbone']}, adapters trained on {said['source']}",
        "Image size": f"{width} x {height} pixels{tiles}",
        "Region of interest": "everywhere" if region is None else f"{decode_region(region).mean():.0%} of a photograph",
        "Rotated copies": f"{said['rotations']} of each good photograph",
        "Thresholds": ", ".join(thresholds),
        "False alarms": f"about {above} in {len(scores) + 1} good parts may be called anomalous",
        "Taught": f"{said['taught']}; changed {said['changed']}, by anomalib-fbclip {said['version']}",
    }
