# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Which photographs of good parts are compared with."""

from pathlib import Path

from anomalib_fbclip.contract.image_files import find_images
from anomalib_fbclip.contract.records import printable

from .errors import InspectionError
from .importing import quick_imports
from .words import count


def find_good(folder: Path, shots: int | None) -> list[Path]:
    """Find the photographs of good parts that others are compared with.

    Args:
        folder (Path): Their folder, or one of them.
        shots (int | None): How many are taken, always the same ones; ``None``: all.

    Returns:
        list[Path]: Their files.

    Raises:
        InspectionError: If there are fewer than asked for, or none.
    """
    if not folder.exists():
        msg = f"--good {printable(folder)} does not exist: give a folder of photographs of good parts."
        raise InspectionError(msg)
    found = len(find_images(folder))
    if not found:
        msg = f"--good {printable(folder)} has no photographs: give a folder of photographs of good parts."
        raise InspectionError(msg)
    if shots and shots > found:
        msg = f"--good {printable(folder)} has {count(found, 'photograph')}, and --shots is {shots}: lower --shots."
        raise InspectionError(msg)
    with quick_imports():  # torch, too, so that mistakes are told before
        from anomalib_fbclip.data.references import ReferenceChoice

    chosen = ReferenceChoice.of(str(folder), shots or 0, seed=0).find(datamodule=None)
    return [path for path in chosen if isinstance(path, Path)]
