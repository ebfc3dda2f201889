# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Config files for anomalib that come with the package: ``fbclip configs``."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from anomalib_fbclip.errors import InspectionError

from .arguments import Parser

CONFIGS = "configs"
"""First argument of the command, and the folder of the files."""


def create_parser() -> Parser:
    """Create the parser of ``fbclip configs``."""
    parser = Parser(
        prog=f"fbclip {CONFIGS}",
        description="List the config files for anomalib, or print one; > mine.yaml saves it.",
        allow_abbrev=False,
    )
    parser.add_argument("name", nargs="?", help="the file to print (default: list all)")
    return parser


def run_configs(arguments: Sequence[str]) -> int:
    """Run ``fbclip configs``: list the config files, or print one.

    Raises:
        InspectionError: If there is no file of that name.
    """
    name = create_parser().parse_args(arguments).name
    configs = find_configs()
    if name is None:
        sys.stdout.write(list_configs(configs))
    elif name in configs:
        sys.stdout.write(configs[name].read_text(encoding="utf-8"))
    else:
        msg = f"there is no config file {name!r}: choose one of {', '.join(configs)}."
        raise InspectionError(msg)
    sys.stdout.flush()
    return 0


def find_configs() -> dict[str, Path]:
    """Find the config files, in the installed package or beside it in a checkout.

    Returns:
        dict[str, Path]: The files by name, such as ``quickstart`` or ``data/visa``; those in subfolders come last.
    """
    package = Path(__file__).parents[1]
    folder = next(parent / CONFIGS for parent in (package, package.parent) if (parent / CONFIGS).is_dir())
    paths = sorted(folder.rglob("*.yaml"), key=lambda path: (len(path.parts), path))
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}


def describe_missing(arguments: Iterable[str]) -> str | None:
    """Say how to get a missing config file that a command of anomalib names.

    Args:
        arguments (Iterable[str]): The command's arguments.

    Returns:
        str | None: A line; ``None`` if none of the package's files is missing.
    """
    words = [word for argument in arguments for word in argument.split("=", 1)]
    for path in [Path(word) for word in words if word.endswith(".yaml")]:
        name = path.with_suffix("").as_posix().removeprefix(f"{CONFIGS}/")
        if not path.exists() and name in find_configs():
            return (
                f"{path} does not exist. It comes with the package; save it here with: fbclip {CONFIGS} {name} > "
                f"{path.name}"
            )
    return None


def list_configs(configs: dict[str, Path]) -> str:
    """List config files, one per line, each with the first line of its content."""
    width = max(map(len, configs))
    lines = [f"{name:<{width}}  {_purpose_of(path)}\n" for name, path in configs.items()]
    return "".join([*lines, f"\nSave one: fbclip {CONFIGS} quickstart > mine.yaml\n"])


def _purpose_of(path: Path) -> str:
    return path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ").rstrip(":.")
