# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The split into kinds for training, validation and tests.

No training, neither of the backbone nor of the adapters, uses a held-out material, object or defect. So tests on them
measure a model on things that it has never seen. Validation kinds are not trained on either: decisions are based on
them, and not on the held-out kinds.
"""

from tools.bundled_model.procedural.defects import DEFECTS
from tools.bundled_model.procedural.materials import MATERIALS
from tools.bundled_model.procedural.objects import OBJECTS

HELD_OUT_MATERIALS = ("brushed metal", "knitted fabric", "leather", "terrazzo", "baked dough")
"""Materials for tests."""

HELD_OUT_OBJECTS = ("gear", "cookie", "capsule", "wrench")
"""Objects for tests."""

HELD_OUT_DEFECTS = ("dent", "cut", "burn", "thread", "bubbles")
"""Defects for tests."""

VALIDATION_MATERIALS = ("ceramic tile", "foam", "cork")
"""Materials for validation."""

VALIDATION_OBJECTS = ("fruit", "connector", "spring")
"""Objects for validation."""

VALIDATION_DEFECTS = ("abrasion", "contamination", "corrosion")
"""Defects for validation."""

TRAINING_MATERIALS = tuple(name for name in MATERIALS if name not in {*HELD_OUT_MATERIALS, *VALIDATION_MATERIALS})
"""Materials for training."""

TRAINING_OBJECTS = tuple(name for name in OBJECTS if name not in {*HELD_OUT_OBJECTS, *VALIDATION_OBJECTS})
"""Objects for training."""

TRAINING_DEFECTS = tuple(name for name in DEFECTS if name not in {*HELD_OUT_DEFECTS, *VALIDATION_DEFECTS})
"""Defects for training."""
