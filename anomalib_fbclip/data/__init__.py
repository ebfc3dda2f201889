# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Datamodules to train the adapters on and to test them with."""

from .auxiliary import AuxiliaryDataModule
from .meta_json import MetaJson
from .synthetic_parts import SyntheticParts

__all__ = ["AuxiliaryDataModule", "MetaJson", "SyntheticParts"]
