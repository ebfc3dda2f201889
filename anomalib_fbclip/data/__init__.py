# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Datamodules to train the adapters on and to test them with.

They are loaded on first use: the procedural pictures in this folder need NumPy and Pillow only.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .auxiliary import AuxiliaryDataModule
    from .meta_json import MetaJson
    from .synthetic_parts import SyntheticParts

__all__ = ["AuxiliaryDataModule", "MetaJson", "SyntheticParts"]

_MODULES = {  # noqa: RUF067
    "AuxiliaryDataModule": "auxiliary",
    "MetaJson": "meta_json",
    "SyntheticParts": "synthetic_parts",
}


def __getattr__(name: str) -> object:
    """Import a datamodule when it is first asked for (PEP 562)."""
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
