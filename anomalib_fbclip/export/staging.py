# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Moves several files to their destination only when all are complete."""

from collections.abc import Callable
from pathlib import Path

from anomalib_fbclip.contract.files import incomplete_folder

GRAPH_SUFFIXES = {".onnx", ".xml"}
"""Suffixes of files that name others, which hold the weights."""


def write_staged(root: Path, write: Callable[[Path], Path]) -> Path:
    """Let files be written below a temporary folder, and move them below another when they are complete.

    Files that stood there are replaced; a graph comes after its weights.

    Args:
        root (Path): Folder below which the files belong; it is made if it does not exist.
        write (Callable[[Path], Path]): Writes files below the folder that it is given, on the same file system, and
            returns the path of one of them.

    Returns:
        Path: Where that file lies at last.
    """
    with incomplete_folder(root) as folder:
        written = write(folder).relative_to(folder)
        files = [path for path in folder.rglob("*") if path.is_file()]
        for path in sorted(files, key=lambda path: path.suffix in GRAPH_SUFFIXES):
            destination = root / path.relative_to(folder)
            destination.parent.mkdir(parents=True, exist_ok=True)
            path.replace(destination)
    return root / written
