# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Decisions by photographs and the text: photographs of good parts (few-shot), or a whole folder (mutual scoring)."""

from .few_shot import MAPS, FewShot
from .fit import Block, Fit, Photograph, ReferenceImage, fit, unlikeness
from .mutual_scoring import MutualScoring

__all__ = ["MAPS", "Block", "FewShot", "Fit", "MutualScoring", "Photograph", "ReferenceImage", "fit", "unlikeness"]
