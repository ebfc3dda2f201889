# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Results on disk: files that are complete or absent, numbered folders, and full disks."""

import re
import shutil
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

LATEST = "latest"
"""Name of the link to the last of the numbered folders ``v0``, ``v1``, ..., as in anomalib."""

INCOMPLETE = ".incomplete."
"""Prefix of the names of hidden folders."""

VERSION = re.compile(r"v\d+")


@contextmanager
def incomplete_folder(folder: Path) -> Generator[Path]:
    """Make a hidden folder for incomplete files inside another folder, and remove it at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    incomplete = folder / f"{INCOMPLETE}{uuid4().hex}"
    try:
        incomplete.mkdir(mode=0o700)
        yield incomplete
    finally:
        if incomplete.is_dir():
            _remove(incomplete)


def remove_incomplete(folder: Path) -> None:
    """Remove incomplete files that a killed process left in a folder and its subfolders."""
    for incomplete in folder.rglob(f"{INCOMPLETE}*"):
        _remove(incomplete)


def _remove(folder: Path) -> None:
    """Remove a folder, even if the user interrupts it."""
    try:
        shutil.rmtree(folder)
    except KeyboardInterrupt:
        shutil.rmtree(folder, ignore_errors=True)  # a part of it may be gone
        raise


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """Replace a file, or make a new folder, only when it is complete. An error changes nothing.

    Yields a temporary path of the same name to write to. The parent folder is created if missing.
    """
    with incomplete_folder(path.parent) as folder:
        temporary = folder / path.name
        yield temporary  # noqa: RUF075 - after an error nothing is to be moved
        temporary.replace(path)


@contextmanager
def naming_full_disk(folder: Path, error_type: type[Exception]) -> Generator[None]:
    """Turn a library's own error on writing to a folder into an ``OSError`` that states the free space."""
    try:
        yield
    except error_type as error:
        free = shutil.disk_usage(folder).free
        msg = (
            f"Can't write to {folder} ({error}). Its disk has {free / 1e6:,.0f} MB left: free some space, or use "
            "another disk (TMPDIR sets the folder of temporary files)."
        )
        raise OSError(msg) from error


def is_numbered(folder: Path) -> bool:
    """Return whether a folder is called ``v0``, ``v1``, ..., or ``latest``."""
    return folder.name == LATEST or VERSION.fullmatch(folder.name) is not None


def make_next(root: Path) -> Path:
    """Make the next numbered folder in a folder, which is created if missing."""
    root.mkdir(parents=True, exist_ok=True)
    while True:
        with suppress(FileExistsError):  # another process may have been faster
            folder = next_numbered(root)
            folder.mkdir()
            return folder


def next_numbered(root: Path) -> Path:
    """Return the path of the next numbered folder."""
    numbers = [int(path.name[1:]) for path in root.iterdir() if VERSION.fullmatch(path.name)]
    return root / f"v{max(numbers, default=-1) + 1}"


def find_missing(folder: Path) -> list[Path]:
    """Return a folder, and the folders above it, as far as they don't exist, the innermost first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


@contextmanager
def removing_on_error(made: Sequence[Path]) -> Generator[None]:
    """Remove a new folder on an error or an interrupt, and then the ones above it that were made for it, if empty."""
    try:
        yield
    except BaseException:  # an interrupt, too
        for folder in made[:1]:
            shutil.rmtree(folder)
        with suppress(OSError):
            for folder in made[1:]:
                folder.rmdir()
        raise


def link_latest(folder: Path) -> None:
    """Link ``latest`` to a folder, if the system supports links and nothing else has that name."""
    link = folder.with_name(LATEST)
    with suppress(OSError):
        if link.is_symlink():
            link.unlink()
        link.symlink_to(folder.name, target_is_directory=True)
