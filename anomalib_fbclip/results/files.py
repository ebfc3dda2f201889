# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Files by what they hold: which are the same; written whole, in a hidden folder, then moved; and full disks."""

import filecmp
import os
import shutil
from collections import defaultdict
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def incomplete_folder(folder: Path) -> Generator[Path]:
    """Make a hidden folder for files that are not complete yet, removed at the end with what is left in it.

    Args:
        folder (Path): Where it is made, so that files move from one to the other by a rename. Created if missing.

    Yields:
        Path: The hidden folder.

    Raises:
        OSError: If it can't be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    incomplete = folder / f".incomplete.{uuid4().hex}"
    try:
        incomplete.mkdir(mode=0o700)
        yield incomplete
    finally:
        if incomplete.is_dir():
            _remove(incomplete)


def _remove(folder: Path) -> None:
    """Remove a folder, even if the user interrupts that."""
    try:
        shutil.rmtree(folder)
    except KeyboardInterrupt:
        shutil.rmtree(folder, ignore_errors=True)  # a part of it may be gone
        raise


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """Replace a file or a folder only when its successor is complete; after an error nothing has changed.

    Args:
        path (Path): The file, or a folder that does not exist. Its parent is created if missing.

    Yields:
        Path: Where to write it. The name is the same.

    Raises:
        OSError: If it can't be moved to its place.

    Example:
        >>> with replacing(Path("results/table.md")) as temporary:  # doctest: +SKIP
        ...     temporary.write_text("complete")
    """
    with incomplete_folder(path.parent) as folder:
        temporary = folder / path.name
        yield temporary  # noqa: RUF075 - after an error nothing is to be moved
        temporary.replace(path)


@contextmanager
def naming_full_disk(folder: Path, error_type: type[Exception]) -> Generator[None]:
    """Raise ``OSError`` with the free space where a library raises an error of its own because it can't write.

    Args:
        folder (Path): Where it writes.
        error_type (type[Exception]): What it raises.

    Yields:
        None: Nothing.

    Raises:
        OSError: If it can't write.
    """
    try:
        yield
    except error_type as error:
        free = shutil.disk_usage(folder).free
        msg = (
            f"Can't write to {folder} ({error}). Its disk has {free / 1e6:,.0f} MB left: free some, or write to "
            "another (TMPDIR names the folder of temporary files)."
        )
        raise OSError(msg) from error


def find_copies(paths: Iterable[Path], originals: Iterable[Path]) -> dict[Path, Path]:
    """Find files that are also among others, by whatever name.

    Args:
        paths (Iterable[Path]): The files.
        originals (Iterable[Path]): The others.

    Returns:
        dict[Path, Path]: Of each file that one of the others is equal to, byte by byte, the first of those. A file that
            can't be read is equal to none.
    """
    by_size = defaultdict(list)
    for original in originals:
        if _is_file(original):
            by_size[original.stat().st_size].append(original)
    found = {}
    for path in paths:
        same_size = by_size[path.stat().st_size] if _is_file(path) else []
        copied = next((original for original in same_size if _is_same(path, original)), None)
        if copied is not None:
            found[path] = copied
    return found


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113 - pathlib raises where the folder can't be entered


def _is_same(path: Path, other: Path) -> bool:
    try:
        return filecmp.cmp(path, other, shallow=False)  # it reads no further than to the first difference
    except OSError:  # whoever reads the file says so
        return False
