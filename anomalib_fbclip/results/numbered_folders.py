# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Folders for results, numbered as anomalib does: ``v0``, ``v1``, and ``latest``, which leads to the last."""

import re
from contextlib import suppress
from pathlib import Path

LATEST = "latest"

VERSION = re.compile(r"v\d+")


def is_numbered(folder: Path) -> bool:
    """Tell whether a folder is one of those, by its name."""
    return folder.name == LATEST or VERSION.fullmatch(folder.name) is not None


def make_next(root: Path) -> Path:
    """Make the next folder.

    Args:
        root (Path): The folder that holds them. It is made if it does not exist.

    Returns:
        Path: The new folder.

    Raises:
        OSError: If it can't be made.
    """
    root.mkdir(parents=True, exist_ok=True)
    while True:
        with suppress(FileExistsError):  # another process may have been faster
            folder = next_numbered(root)
            folder.mkdir()
            return folder


def next_numbered(root: Path) -> Path:
    """Give the folder whose number is one higher than all those that exist."""
    numbers = [int(path.name[1:]) for path in root.iterdir() if VERSION.fullmatch(path.name)]
    return root / f"v{max(numbers, default=-1) + 1}"


def link_latest(folder: Path) -> None:
    """Let ``latest`` lead to a folder, where the system has links and no other file or folder has that name."""
    link = folder.with_name(LATEST)
    with suppress(OSError):
        if link.is_symlink():
            link.unlink()
        link.symlink_to(folder.name, target_is_directory=True)
