# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Arguments of the command."""

import argparse
import difflib
import re
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from itertools import combinations, product
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args

from anomalib_fbclip.errors import CommandError
from anomalib_fbclip.exported.runtimes import Precision
from anomalib_fbclip.images.image_files import printable
from anomalib_fbclip.images.photographs import check_white_level
from anomalib_fbclip.results.thresholds import parse_share, parse_threshold
from anomalib_fbclip.weights import bundled
from anomalib_fbclip.weights.metadata import PRODUCT_SUFFIX

ValueT = TypeVar("ValueT")

EXIT_CODES = (
    "Exit codes: 0, all are normal; 1, at least one is anomalous, or unlike all given products; 2, something went "
    "wrong; 130, interrupted."
)

COMMANDS = """\
  fbclip teach            make a product: a file with all that is needed to inspect one kind of part
  fbclip product          describe a product
  fbclip check            count found and missed defects, and false alarms, on photographs that you have sorted
  fbclip export           turn a product into a model that runs without torch
  fbclip watch            inspect photographs as they arrive in a folder or from a camera, until you stop it
  fbclip example          write example photographs to a folder
  fbclip configs          list config files for anomalib
  fbclip configs NAME     print a config file; > mine.yaml saves it
"""
"""The other commands, for the help."""

AUTO = "auto"
"""Value of ``--tiles`` that chooses them by the size of the photographs."""

PAPER_BACKBONE = "ViT-L-14-336"

LONGEST_SIDE, MOST_ROTATIONS = 4096, 360
"""Largest ``--image-size`` in pixels a side, and largest ``--rotations``."""

FIXED = ("weights", "shots", "image_size", "tiles", "smallest_defect", "region", "rotations")
"""Options whose values are fixed in an exported model and in a product."""


class Parser(argparse.ArgumentParser):
    """A parser that takes no abbreviated options, and whose errors are one line."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - as argparse takes them
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Exit with code 2 and one line, which suggests similar options."""
        options = [option for action in self._actions for option in action.option_strings]
        unknown = re.findall(r"--[\w-]+", message) if message.startswith("unrecognized") else []
        near = [name for option in unknown for name in difflib.get_close_matches(option, options, n=1)]
        hint = f"Did you mean {' and '.join(near)}?" if near else f"See {self.prog} --help."
        self.exit(2, f"error: {message.rstrip('.')}. {hint}\n")

    def refuse(self, options: argparse.Namespace, names: Sequence[str], advice: str) -> None:
        """Refuse given options that do not go with another one, which the advice begins with."""
        for name in names:
            if getattr(options, name):
                self.error(f"--{name.replace('_', '-')} does not go with {advice}")


def create_parser() -> Parser:
    """Create the parser of the command line."""
    parser = Parser(
        prog="fbclip",
        description="Find defects in photographs: a verdict for each, a report, a table and pictures.",
        epilog=f"Example: fbclip photographs --good good\n\nOther commands:\n{COMMANDS}\n{EXIT_CODES}",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('anomalib-fbclip')}")
    parser.add_argument(
        "photographs", nargs="+", help="photographs, folders, videos, streams (rtsp://...), or camera numbers"
    )
    parser.add_argument(
        "--alone",
        action="store_true",
        help="inspect each photograph by itself (default without --good: compare photographs with each other, if there "
        "are 8 or more)",
    )
    _add_output(parser)
    add_inspection_options(parser)
    return parser


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("fbclip-results"),
        metavar="FOLDER",
        help="folder of the results; each run writes a new subfolder: v0, v1, ... (default: fbclip-results)",
    )


def add_inspection_options(parser: argparse.ArgumentParser) -> None:
    """Add the options on what to compare with, how to read photographs, and what to print."""
    parser.add_argument(
        "--good", type=Path, metavar="FOLDER", help="photographs of good parts to compare with: at least 4; 8 is better"
    )
    parser.add_argument(
        "--product",
        type=parse_product,
        action="append",
        default=[],
        metavar="FILE",
        help="a product made by fbclip teach, instead of --good and the options given to teach; give several, and each "
        "photograph is compared with the most similar one",
    )
    parser.add_argument(
        "--model",
        type=Path,
        metavar="FILE",
        help="an exported model, .xml or .onnx, instead of --backbone and --weights",
    )
    parser.add_argument(
        "--full-size",
        action="store_true",
        help="read large photographs at full size: slower; scores change by less than 0.01",
    )
    parser.add_argument("--json", action="store_true", help="print JSON lines, for programs")
    add_model_options(parser)


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options on the model, where it looks, and how it uses good photographs."""
    parser.add_argument(
        "--shots", type=parse_count, metavar="N", help="number of good photographs to use (default: all)"
    )
    parser.add_argument(
        "--backbone",
        metavar="NAME",
        help=f"the model: {bundled.NAME} (default, unless --weights needs another), {PAPER_BACKBONE}, or another ViT "
        "of open_clip",
    )
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="trained adapters: a file, a training checkpoint, mvtec, visa or auto (default: auto)",
    )
    parser.add_argument(
        "--image-size",
        type=_image_size,
        metavar="SIDE",
        help="pixels to which photographs are resized, 448 or 896x448 (width x height); a larger size finds smaller "
        "defects and takes longer (default: the size of the weights or of the backbone)",
    )
    parser.add_argument(
        "--tiles",
        type=_tiles,
        metavar="COUNT",
        help="also inspect tiles of each photograph, for small defects: 3 (3 x 3 tiles), 4x3 (4 columns, 3 rows), or "
        "auto (from the size of the photographs and --smallest-defect)",
    )
    parser.add_argument(
        "--smallest-defect",
        type=_pixels,
        metavar="PIXELS",
        help="size of the smallest defect to find, in pixels of the photograph; chooses the tiles (default with "
        "--tiles auto: a hundredth of the longer side)",
    )
    parser.add_argument(
        "--region",
        metavar="REGION",
        help="where to look: a mask, white inside and black outside; a folder of masks, each with the name of its "
        "photograph; or x,y,width,height in pixels of the photograph or in fractions of it",
    )
    parser.add_argument(
        "--rotations",
        type=_rotations,
        metavar="N",
        help="rotated copies of each good photograph, for parts at any angle: 8 is every 45 degrees, 1 is none "
        "(default: 4)",
    )
    parser.add_argument(
        "--threshold",
        type=as_type(parse_threshold),
        metavar="SCORE",
        help="photographs with a higher score are anomalous, 0..1 (default: from the photographs to compare with, or "
        "0.5 without any)",
    )
    parser.add_argument(
        "--max-false-alarms",
        type=as_type(parse_share),
        metavar="SHARE",
        help="largest share of good parts that may be called anomalous, 1%% or 0.01; sets the threshold from the good "
        "photographs, and says how many of them make it certain",
    )
    parser.add_argument(
        "--pixel-threshold",
        type=as_type(parse_threshold),
        metavar="VALUE",
        help="places with a higher value in the anomaly map are anomalous, 0..1 (default: as for --threshold)",
    )
    parser.add_argument(
        "--device",
        metavar="NAME",
        help="cpu, cuda, ...; for an exported model, a device of OpenVINO (default: the fastest)",
    )
    parser.add_argument(
        "--precision",
        metavar="TYPE",
        help="number type of the backbone: float32 (default), bfloat16 or float16; for an exported model, f32 "
        "(default) or default, which is OpenVINO's choice",
    )
    parser.add_argument(
        "--white-level",
        type=_white_level,
        metavar="VALUE",
        help="value of white in 16-bit photographs that do not state it: 4095 for a 12-bit camera (default: refuse "
        "photographs whose value of white is unclear)",
    )
    add_error_options(parser)


def add_error_options(parser: argparse.ArgumentParser) -> None:
    """Add the options on what is shown of errors and logs."""
    parser.add_argument("--traceback", action="store_true", help="show where an error comes from")
    parser.add_argument("-v", "--verbose", action="store_true", help="show what the libraries log, too")


def parse_arguments(parser: Parser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line of an inspection, or exit with code 2 and one line."""
    options = parser.parse_args(arguments)
    check_options(parser, options)
    return options


def create_check_parser() -> Parser:
    """Create the parser of ``fbclip check``."""
    parser = Parser(
        prog="fbclip check",
        description="Inspect photographs that you have sorted, and count found and missed defects and false alarms, at "
        "the threshold and at the one with the fewest wrong verdicts.",
        epilog="Example: fbclip check --product bolt.fbclip --good more-good --bad defective\n\nExit codes: 0, all "
        "verdicts are right; 1, at least one is wrong; 2, something went wrong; 130, interrupted.",
        conflict_handler="resolve",  # --good has another meaning here
    )
    _add_output(parser)
    add_inspection_options(parser)
    for option, name, kind in (("--good", "known_good", "good"), ("--bad", "bad", "defective")):
        what = f"photographs of {kind} parts, or folders of them"
        parser.add_argument(option, dest=name, nargs="+", type=Path, default=[], metavar="PHOTOGRAPHS", help=what)
    parser.set_defaults(good=None, alone=False)
    return parser


def parse_check(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of ``fbclip check``, or exit with code 2 and one line."""
    parser = create_check_parser()
    options = parser.parse_args(arguments)
    if not options.known_good and not options.bad:
        parser.error("give photographs that you have sorted: --good, --bad, or both")
    for bad, good in product(options.bad, options.known_good):
        if bad.resolve().is_relative_to(good.resolve()) or good.resolve().is_relative_to(bad.resolve()):
            parser.error(f"{printable(bad)} and {printable(good)} overlap: keep good and defective photographs apart")
    parser.refuse(options, ("shots", "rotations"), "fbclip check: teach a product with it, and give --product")
    if options.max_false_alarms and not (options.product or options.model):
        parser.error("--max-false-alarms needs a product: give --product")
    options.photographs = [str(path) for path in (*options.known_good, *options.bad)]
    check_options(parser, options)
    options.alone = True  # these photographs are not references of each other
    return options


def check_options(parser: Parser, options: argparse.Namespace) -> None:
    """Refuse options that do not go together, with exit code 2 and one line."""
    if options.model:
        parser.refuse(options, ("backbone", "good", "alone", *FIXED), "--model: leave it out, or export again")
    for path, other in combinations(options.product, 2):
        if path.resolve() == other.resolve():
            parser.error(f"--product: {printable(other)} is given twice: leave out one")
    names = [path.stem for path in options.product]
    if len(names) != len(set(names)):
        parser.error(f"--product: two products are called {printable(max(names, key=names.count))}: rename one")
    if options.product:  # --backbone may name a file of the product's backbone
        parser.refuse(options, ("model", "good", "alone", *FIXED), "--product: leave it out, or teach again")
    for name in ("shots", "rotations"):
        if getattr(options, name) and not options.good:
            parser.error(f"--{name} needs --good, the folder of the good photographs")
    if options.alone and options.good:
        parser.error("--alone does not go with --good: leave out one")
    check_model_options(parser, options)
    if options.max_false_alarms and not (options.good or options.product or options.model):
        parser.error("--max-false-alarms needs good photographs: give --good or --product")
    if options.model and options.precision not in {None, *get_args(Precision)}:
        parser.error(
            f"--precision {options.precision} does not go with --model: give {' or '.join(get_args(Precision))}"
        )


def check_model_options(parser: Parser, options: argparse.Namespace) -> None:
    """Refuse model options that do not go together, and set the tiles to ``auto`` if the smallest defect is given."""
    if options.max_false_alarms and options.threshold is not None:
        parser.error("--max-false-alarms chooses the threshold: leave out --threshold")
    if options.weights and options.weights.endswith(PRODUCT_SUFFIX):
        parser.error(f"--weights {printable(options.weights)} is a product: give it to --product instead")
    if options.smallest_defect and options.tiles not in {None, AUTO}:
        parser.error("--smallest-defect chooses the tiles: leave out --tiles, or give --tiles auto")
    if options.smallest_defect:
        options.tiles = AUTO


@contextmanager
def writing(output: Path, kind: str) -> Generator[None]:
    """Turn an ``OSError`` into one line that names ``--output``, unless it is of another file or of a closed screen.

    The kind is what to give instead: a ``file`` or a ``folder``.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.filename is not None and not _is_above_or_below(Path(error.filename), output, kind):
            raise
        msg = f"--output {printable(output)} can't be written ({error}): give another {kind}."
        raise CommandError(msg) from error


def _is_above_or_below(path: Path, output: Path, kind: str) -> bool:
    """Return whether a path is in the folder of the output, or is a folder that the output is in."""
    own, other = (output if kind == "folder" else output.parent).resolve(), path.resolve()
    return other.is_relative_to(own) or own.is_relative_to(other)


def without_password(address: str) -> str:
    """Remove user and password from the address of a stream. Other text stays."""
    return re.sub(r"(?<=://)[^/]*@", "", address)


def without_thresholds(arguments: Sequence[str]) -> list[str]:
    """Remove thresholds and passwords from a command line, for the report."""
    left: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        name, _, value = argument.partition("=")
        if name not in {"--threshold", "--pixel-threshold", "--max-false-alarms"}:
            left.append(without_password(argument))
        elif not value:
            next(waiting)
    return left


def as_type(parse: Callable[[str], ValueT]) -> Callable[[str], ValueT]:
    """Make a type of an argument of what raises ``ValueError``, whose message is shown."""

    def parse_argument(text: str) -> ValueT:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parse_argument


def _white_level(text: str) -> int:
    try:
        value = int(text)
        check_white_level(value)
    except ValueError as error:
        msg = f"{text!r} is not a white level: give a whole number from 1 to 65535, such as 4095 for 12 bits"
        raise argparse.ArgumentTypeError(msg) from error
    return value


def parse_size(text: str) -> tuple[int, int]:
    """Parse a side, or width x height, to height and width.

    Example:
        >>> parse_size("896x448")
        (448, 896)
    """
    numbers = text.lower().split("x")
    if len(numbers) > 2 or not all(number.isdecimal() and int(number) for number in numbers):  # noqa: PLR2004
        msg = f"{text!r} is not a size: give pixels, such as 448, or width x height, such as 896x448"
        raise argparse.ArgumentTypeError(msg)
    return int(numbers[-1]), int(numbers[0])


def _image_size(text: str) -> tuple[int, int]:
    size = parse_size(text)
    if max(size) > LONGEST_SIDE:
        msg = f"{text!r} is too large: give {LONGEST_SIDE} pixels a side at most, or --tiles"
        raise argparse.ArgumentTypeError(msg)
    return size


def parse_product(text: str) -> Path:
    """Parse the name of a product's file."""
    if Path(text).suffix != PRODUCT_SUFFIX:
        msg = f"{text!r} is not a product: give a file that ends in {PRODUCT_SUFFIX}, made by fbclip teach"
        raise argparse.ArgumentTypeError(msg)
    return Path(text)


def _tiles(text: str) -> tuple[int, int] | str:
    """Parse ``3``, ``4x3`` (columns x rows) or ``auto`` to rows and columns or ``auto``."""
    if text == AUTO:
        return text
    try:
        return parse_size(text)
    except argparse.ArgumentTypeError as error:
        msg = f"{text!r} is not a number of tiles: give 3, 4x3 (columns x rows), or auto"
        raise argparse.ArgumentTypeError(msg) from error


def _pixels(text: str) -> int:
    number = text.removesuffix("px")
    if not number.isdecimal() or not int(number):
        msg = f"{text!r} is not a number of pixels: give 20 or 20px"
        raise argparse.ArgumentTypeError(msg)
    return int(number)


def _rotations(text: str) -> int:
    count = parse_count(text)
    if count > MOST_ROTATIONS:
        msg = f"{text!r} are too many: give {MOST_ROTATIONS} at most, a copy each degree"
        raise argparse.ArgumentTypeError(msg)
    return count


def parse_count(text: str) -> int:
    """Parse a number of things: 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        msg = f"{text!r} is not a count: give 1 or more"
        raise argparse.ArgumentTypeError(msg)
    return int(text)
