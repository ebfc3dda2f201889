# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Export of a product to a model that needs no torch: ``fbclip export``."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from anomalib_fbclip.cli.arguments import Parser, add_error_options, parse_product, writing
from anomalib_fbclip.cli.models import quick_imports
from anomalib_fbclip.cli.screen import Screen, logging_to
from anomalib_fbclip.images.image_files import printable
from anomalib_fbclip.weights.metadata import PRODUCT_SUFFIX

if TYPE_CHECKING:
    from .model import FBClip

SUFFIXES = {"openvino": ".xml", "onnx": ".onnx"}


def run_export(arguments: Sequence[str]) -> int:
    """Export a product with the arguments after ``fbclip export``, and return the exit code 0."""
    options = _parse_export(arguments)
    screen = Screen(as_json=False)
    with logging_to(None, verbose=options.verbose):
        with screen.progress("Loading the product", None), quick_imports():
            from .model import FBClip

            model = FBClip(weights=options.product).eval()
        bar = screen.progress("Writing the graph", None)
        with bar, writing(options.output, "file"):
            _export(model, options.output)
    beside = f" and {printable(options.output.with_suffix('.bin').name)}" if options.format == "openvino" else ""
    screen.tell(f"Exported: {printable(options.output)}{beside}.")
    screen.tell(f"Inspect with it: fbclip photographs --model {printable(options.output)}")
    return 0


def _export(model: "FBClip", path: Path) -> None:
    """Write a model, with its weights beside it, instead of in anomalib's subfolders."""
    from anomalib_fbclip.export.description import COMPRESSION_KEY, UNCOMPRESSED, check_replaced

    from .saving import write_staged

    is_onnx = path.suffix == SUFFIXES["onnx"]
    check_replaced(path, model.description() | ({} if is_onnx else {COMPRESSION_KEY: UNCOMPRESSED}))
    export = model.to_onnx if is_onnx else model.to_openvino

    def write(folder: Path) -> Path:
        written = export(folder / "exported", path.stem)
        for file in written.parent.iterdir():
            file.replace(folder / file.name)
        return folder / written.name

    write_staged(path.parent, write)


def create_parser() -> Parser:
    """Create the parser of ``fbclip export``."""
    parser = Parser(
        prog="fbclip export",
        description="Export a product to a model that gives the same verdicts without torch.",
        epilog="Example: fbclip export bolt.fbclip --format openvino",
    )
    parser.add_argument("product", type=parse_product, help=f"a file that ends in {PRODUCT_SUFFIX}")
    parser.add_argument("--format", choices=[*SUFFIXES], default="openvino", help="(default: openvino)")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="the model, .xml or .onnx (default: beside the product)"
    )
    add_error_options(parser)
    return parser


def _parse_export(arguments: Sequence[str]) -> argparse.Namespace:
    parser = create_parser()
    options = parser.parse_args(arguments)
    suffix = SUFFIXES[options.format]
    options.output = options.output or options.product.with_suffix(suffix)
    if options.output.suffix != suffix:
        parser.error(f"--output {printable(options.output)} must end in {suffix} for --format {options.format}")
    return options
