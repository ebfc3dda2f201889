# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Procedural photographs of industrial parts and surfaces, with and without defects.

Images are composed of independent concepts, each in its own file: material, object, light, camera and defect.
"""

from tools.bundled_model.procedural.categories import (
    CATEGORIES,
    HELD_OUT_CATEGORIES,
    TRAINING_CATEGORIES,
    VALIDATION_CATEGORIES,
    Category,
)
from tools.bundled_model.procedural.defects import DEFECTS
from tools.bundled_model.procedural.materials import MATERIALS
from tools.bundled_model.procedural.objects import OBJECTS
from tools.bundled_model.procedural.sample import (
    InvisibleDefectError,
    Product,
    Sample,
    draw_sample,
    photograph,
)
from tools.bundled_model.procedural.split import (
    HELD_OUT_DEFECTS,
    HELD_OUT_MATERIALS,
    HELD_OUT_OBJECTS,
    TRAINING_DEFECTS,
    TRAINING_MATERIALS,
    TRAINING_OBJECTS,
    VALIDATION_DEFECTS,
    VALIDATION_MATERIALS,
    VALIDATION_OBJECTS,
)

__all__ = [
    "CATEGORIES",
    "DEFECTS",
    "HELD_OUT_CATEGORIES",
    "HELD_OUT_DEFECTS",
    "HELD_OUT_MATERIALS",
    "HELD_OUT_OBJECTS",
    "MATERIALS",
    "OBJECTS",
    "TRAINING_CATEGORIES",
    "TRAINING_DEFECTS",
    "TRAINING_MATERIALS",
    "TRAINING_OBJECTS",
    "VALIDATION_CATEGORIES",
    "VALIDATION_DEFECTS",
    "VALIDATION_MATERIALS",
    "VALIDATION_OBJECTS",
    "Category",
    "InvisibleDefectError",
    "Product",
    "Sample",
    "draw_sample",
    "photograph",
]
