# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Strict loading of tensors from files, with one error that names everything that does not fit."""

from collections.abc import Iterable, Mapping

import torch
from torch import nn


class StateDictError(ValueError):
    """Tensors of a file do not fit the module that they should be loaded into."""


def load_state_dict(module: nn.Module, tensors: Mapping[str, torch.Tensor], origin: str) -> None:
    """Copy tensors into parameters of the same names.

    Args:
        module (nn.Module): The module that is filled.
        tensors (Mapping[str, torch.Tensor]): A tensor for each parameter and persistent buffer of the module.
        origin (str): Where the tensors come from, for the error.

    Raises:
        StateDictError: If names are missing or unknown, or shapes differ. The module is then unchanged.
    """
    check_state_dict(module.state_dict(), tensors, origin)
    module.load_state_dict(tensors)


def check_state_dict(
    expected: Mapping[str, torch.Tensor],
    tensors: Mapping[str, torch.Tensor],
    origin: str,
) -> None:
    """Compare names and shapes of tensors with what is expected.

    Args:
        expected (Mapping[str, torch.Tensor]): Tensors with the right names and shapes.
        tensors (Mapping[str, torch.Tensor]): The tensors to be checked.
        origin (str): Where the tensors come from, for the error.

    Raises:
        StateDictError: If names are missing or unknown, or shapes differ.
    """
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
        raise StateDictError(msg)


def _shorten(names: Iterable[str], limit: int = 5) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - limit} more" if len(ordered) > limit else ""
    return ", ".join(ordered[:limit]) + more
