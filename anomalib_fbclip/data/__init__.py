# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Datamodules for training and testing adapters. They are imported on first use."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .auxiliary import AuxiliaryDataModule
    from .meta_json import MetaJson

__all__ = ["AuxiliaryDataModule", "MetaJson"]

_MODULES = {  # noqa: RUF067
    "AuxiliaryDataModule": "auxiliary",
    "MetaJson": "meta_json",
}


def __getattr__(name: str) -> object:
    """Import a datamodule on first use (PEP 562)."""
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
