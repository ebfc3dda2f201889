# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Files that come with the package: example photographs, and config files for anomalib."""

import shlex
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from anomalib_fbclip.errors import CommandError
from anomalib_fbclip.results.files import replacing

from .arguments import Parser

PACKAGE = Path(__file__).parents[1]

PHOTOGRAPHS = PACKAGE / "data" / "example"
"""Folder of the photographs."""


def create_example_parser() -> Parser:
    """Create the parser of ``fbclip example``."""
    parser = Parser(
        prog="fbclip example", description="Write example photographs of good and stained hazelnuts to a folder."
    )
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path("fbclip-example"),
        help="a folder that does not exist yet (default: fbclip-example)",
    )
    return parser


def run_example(arguments: Sequence[str]) -> int:
    """Run ``fbclip example``: write the photographs to a folder, and print the command that inspects them."""
    folder = create_example_parser().parse_args(arguments).folder
    write_example(folder)
    command = shlex.join(["fbclip", str(folder / "photographs"), "--good", str(folder / "good")])
    sys.stdout.write(f"{folder} has photographs of hazelnuts. Inspect them:\n{command}\n")
    return 0


def write_example(folder: Path) -> None:
    """Write all photographs to a new folder, or none."""
    if folder.exists() or folder.is_symlink():
        msg = f"{folder} exists already: give another folder, fbclip example FOLDER."
        raise CommandError(msg)
    try:
        with replacing(folder) as temporary:
            shutil.copytree(PHOTOGRAPHS, temporary, copy_function=shutil.copyfile)
    except OSError as error:
        msg = f"the photographs can't be written to {folder} ({error}): give another folder, fbclip example FOLDER."
        raise CommandError(msg) from error


def create_configs_parser() -> Parser:
    """Create the parser of ``fbclip configs``."""
    parser = Parser(
        prog="fbclip configs", description="List the config files for anomalib, or print one; > mine.yaml saves it."
    )
    parser.add_argument("name", nargs="?", help="the file to print (default: list all)")
    return parser


def run_configs(arguments: Sequence[str]) -> int:
    """Run ``fbclip configs``: list the config files, or print one."""
    name = create_configs_parser().parse_args(arguments).name
    configs = find_configs()
    if name is None:
        sys.stdout.write(list_configs(configs))
    elif name in configs:
        sys.stdout.write(configs[name].read_text(encoding="utf-8"))
    else:
        msg = f"there is no config file {name!r}: choose one of {', '.join(configs)}."
        raise CommandError(msg)
    return 0


def find_configs() -> dict[str, Path]:
    """Find the config files, in the installed package or beside it in a checkout.

    Their names are such as ``quickstart`` or ``data/visa``; those in subfolders come last.
    """
    folder = next(parent / "configs" for parent in (PACKAGE, PACKAGE.parent) if (parent / "configs").is_dir())
    paths = sorted(folder.rglob("*.yaml"), key=lambda path: (len(path.parts), path))
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}


def list_configs(configs: dict[str, Path]) -> str:
    """List config files, one per line, each with the first line of its content."""
    width = max(map(len, configs))
    lines = []
    for name, path in configs.items():
        purpose = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ").rstrip(":.")
        lines.append(f"{name:<{width}}  {purpose}\n")
    return "".join([*lines, "\nSave one: fbclip configs quickstart > mine.yaml\n"])


def describe_missing(arguments: Iterable[str]) -> str | None:
    """Say how to get a missing config file of the package that a command of anomalib names; ``None`` if none is."""
    words = [word for argument in arguments for word in argument.split("=", 1)]
    for path in [Path(word) for word in words if word.endswith(".yaml")]:
        name = path.with_suffix("").as_posix().removeprefix("configs/")
        if not path.exists() and name in find_configs():
            return (
                f"{path} does not exist. It comes with the package; save it here with: fbclip configs {name} > "
                f"{path.name}"
            )
    return None
