# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Errors for weights that can't be read: one line with the file and the reason.

Torch's own errors advise loading without ``weights_only``, which would run the code that was just rejected.
"""

import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError  # noqa: S403 - only to recognize it

import numpy as np
import torch


@contextmanager
def reading(what: str) -> Generator[None, None, None]:
    """Say in one line which file can't be read, and why.

    Args:
        what (str): What the file is, with its path, for the error.

    Yields:
        None: Nothing; the file is read inside.

    Raises:
        ValueError: If reading fails, however it does.
    """
    try:
        yield
    except Exception as error:  # noqa: BLE001 - a damaged file makes its reader fail in any way
        msg = f"{what} can't be read: {reason_of(error)}"
        raise ValueError(msg) from None  # a traceback would print torch's advice


def read_checkpoint(path: Path, what: str) -> object:
    """Read a checkpoint of torch without running code of it.

    Args:
        path (Path): The checkpoint.
        what (str): What it is, with its path, for the error.

    Returns:
        object: What it holds: tensors and plain data.

    Raises:
        ValueError: If it can't be read, or holds anything else.
    """
    # The reference stores its loss as a scalar of numpy 1.x: exactly that is allowed, and nothing else is unpickled.
    scalar = np.float64(0).__reduce__()[0]
    allowed = [(scalar, "numpy.core.multiarray.scalar"), scalar, np.dtype, type(np.dtype(np.float64))]
    with reading(what), torch.serialization.safe_globals(allowed):
        return torch.load(path, map_location="cpu", weights_only=True)


def reason_of(error: Exception) -> str:
    """Say in one line why a file can't be read, without torch's advice.

    Args:
        error (Exception): What its reader raised.

    Returns:
        str: The reason.
    """
    text = str(error)
    if isinstance(error, UnpicklingError) and "Unsupported operand" not in text:
        return (
            "it holds objects other than tensors and plain data, which could run code as they are read. Give a file "
            "from a source that you trust, as .safetensors where there is one."
        )
    if "TorchScript archive" in text:
        return "it is a TorchScript archive."
    if isinstance(error, OSError | RuntimeError) and text:
        return re.split(r"\. |\n", text, maxsplit=1)[0]
    return "it is empty, damaged or of another format."
