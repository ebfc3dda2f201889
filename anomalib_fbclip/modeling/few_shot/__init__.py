# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Few-shot: a few photographs of good parts beside the text."""

from .few_shot import MAPS, FewShot
from .fit import Fit, Photograph, fit

__all__ = ["MAPS", "FewShot", "Fit", "Photograph", "fit"]
