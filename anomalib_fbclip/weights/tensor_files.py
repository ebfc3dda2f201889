# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Files of tensors: read without running their code, written completely, and checked against a module.

Errors are one line. Torch's own advise loading without ``weights_only``, which would run the rejected code.
"""

import re
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError  # noqa: S403 - only to recognize it

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save

from anomalib_fbclip.results.files import naming_full_disk, replacing

from .metadata import PRODUCT_SUFFIX

SUFFIXES = (".safetensors", PRODUCT_SUFFIX)
"""Suffixes of safetensors files."""


@contextmanager
def reading(what: str) -> Generator[None, None, None]:
    """Turn any error while a file is read into a ``ValueError`` of one line with ``what`` as its subject."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - a damaged file can cause any error
        msg = f"{what} can't be read: {reason_of(error)}"
        raise ValueError(msg) from None  # a traceback would show torch's advice


def read_checkpoint(path: Path, what: str) -> object:
    """Read a torch checkpoint of tensors and plain data without running code from it. See :func:`reading`."""
    # The reference implementation stores its loss as a scalar of numpy 1.x. Nothing else is allowed.
    scalar = np.float64(0).__reduce__()[0]
    allowed = [(scalar, "numpy.core.multiarray.scalar"), scalar, np.dtype, type(np.dtype(np.float64))]
    with reading(what), torch.serialization.safe_globals(allowed):
        return torch.load(path, map_location="cpu", weights_only=True)


def reason_of(error: Exception) -> str:
    """Say in one line why a file can't be read, without torch's advice."""
    text = str(error)
    if isinstance(error, PermissionError):
        return "this user may not read it. Give this user access."
    if isinstance(error, UnpicklingError) and "Unsupported operand" not in text:
        return (
            "it holds objects other than tensors and plain data, which could run code. Give a .safetensors file, or a "
            "file from a source that you trust."
        )
    if "TorchScript archive" in text:
        return "it is a TorchScript archive."
    if isinstance(error, OSError | RuntimeError) and text:
        return re.split(r"\. |\n", text, maxsplit=1)[0]
    return "it is empty, damaged or of another format: copy it again, or make a new one."


def write_safetensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors to a file with one of the :data:`SUFFIXES`. An existing one is replaced only by a complete one."""
    if path.suffix not in SUFFIXES:
        msg = f"Weights are saved as safetensors: give '{path.with_suffix('.safetensors')}' instead of '{path}'."
        raise ValueError(msg)
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary, naming_full_disk(path.parent, OSError):
        temporary.write_bytes(save(stored, dict(metadata)))  # save_file makes files that only the owner can read


def read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read a safetensors file: the tensors by name, on the CPU, and the metadata."""
    path.open("rb").close()  # safetensors calls a file missing that it may not read
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def check_state_dict(expected: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor], origin: str) -> None:
    """Raise ``ValueError`` about ``origin`` if tensors have other names or shapes than those expected."""
    missing = expected.keys() - tensors.keys()
    unknown = tensors.keys() - expected.keys()
    wrong_shape = [
        f"{name} is {list(tensors[name].shape)}, not {list(expected[name].shape)}"
        for name in expected.keys() & tensors.keys()
        if tensors[name].shape != expected[name].shape
    ]
    faults = [
        f"{kind}: {_shorten(names)}"
        for kind, names in (("missing", missing), ("unknown", unknown), ("wrong shape", wrong_shape))
        if names
    ]
    if faults:
        msg = f"{origin} does not fit this model. {'; '.join(faults)}."
        raise ValueError(msg)


def _shorten(names: Iterable[str], limit: int = 5) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - limit} more" if len(ordered) > limit else ""
    return ", ".join(ordered[:limit]) + more
