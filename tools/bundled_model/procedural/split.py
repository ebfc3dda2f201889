# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The split into training data and data kept for tests.

A held-out kind is seen by no training, neither of the backbone nor of the adapters: neither a held-out material or
object, nor a held-out defect on anything. What is measured on held-out kinds is therefore how well a model does on what
it has never seen. A kind to validate on is not trained on either; it is there to choose by, so that the held-out kinds
are not.
"""

from tools.bundled_model.procedural.defects import DEFECTS
from tools.bundled_model.procedural.materials import MATERIALS
from tools.bundled_model.procedural.objects import OBJECTS

HELD_OUT_MATERIALS = ("brushed metal", "knitted fabric", "leather", "terrazzo", "baked dough")
"""Materials that no training may see."""

HELD_OUT_OBJECTS = ("gear", "cookie", "capsule", "wrench")
"""Objects that no training may see."""

HELD_OUT_DEFECTS = ("dent", "cut", "burn", "thread", "bubbles")
"""Defects that no training may see."""

VALIDATION_MATERIALS = ("ceramic tile", "foam", "cork")
"""Materials to choose by."""

VALIDATION_OBJECTS = ("fruit", "connector", "spring")
"""Objects to choose by."""

VALIDATION_DEFECTS = ("abrasion", "contamination", "corrosion")
"""Defects to choose by."""

TRAINING_MATERIALS = tuple(name for name in MATERIALS if name not in {*HELD_OUT_MATERIALS, *VALIDATION_MATERIALS})
"""Materials to train on."""

TRAINING_OBJECTS = tuple(name for name in OBJECTS if name not in {*HELD_OUT_OBJECTS, *VALIDATION_OBJECTS})
"""Objects to train on."""

TRAINING_DEFECTS = tuple(name for name in DEFECTS if name not in {*HELD_OUT_DEFECTS, *VALIDATION_DEFECTS})
"""Defects to train on."""
