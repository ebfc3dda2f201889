# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Categories of a dataset: a product and its defects."""

from typing import NamedTuple

from tools.bundled_model.procedural.sample import Product
from tools.bundled_model.procedural.split import HELD_OUT_DEFECTS, VALIDATION_DEFECTS


class Category(NamedTuple):
    """A category of a dataset.

    Attributes:
        product (Product): The product in all of its images.
        defects (tuple[str, ...]): Defects of its anomalous images.
    """

    product: Product
    defects: tuple[str, ...]


HELD_OUT_CATEGORIES: dict[str, Category] = {
    "gear": Category(Product("brushed metal", "gear", design=3), HELD_OUT_DEFECTS),
    "cookie": Category(Product("baked dough", "cookie", design=1), HELD_OUT_DEFECTS),
    "leather": Category(Product("leather", design=7), HELD_OUT_DEFECTS),
    "knitted_fabric": Category(Product("knitted fabric", design=5), HELD_OUT_DEFECTS),
}
"""Categories to test on: their materials, objects, backgrounds and defects are held out from all training."""

TRAINING_CATEGORIES: dict[str, Category] = {
    "bottle": Category(
        Product("plastic", "bottle", design=2), ("chip", "crack", "foreign object", "misprint", "scratch")
    ),
    "button": Category(
        Product("plastic", "button", "woven fabric", design=4), ("chip", "colour fault", "crack", "hole", "scratch")
    ),
    "cable": Category(
        Product("rubber", "cable", design=1), ("deformation", "foreign object", "hole", "scratch", "stain")
    ),
    "carpet": Category(Product("carpet", design=3), ("colour fault", "deformation", "foreign object", "hole", "stain")),
    "circuit_board": Category(
        Product("plastic", "circuit board", design=5), ("chip", "crack", "foreign object", "misprint", "scratch")
    ),
    "granite": Category(Product("granite", design=2), ("chip", "crack", "hole", "misprint", "stain")),
    "hex_nut": Category(
        Product("painted metal", "hex nut", design=6), ("chip", "colour fault", "deformation", "scratch", "stain")
    ),
    "kernel": Category(Product("wood", "kernel", design=8), ("crack", "deformation", "hole", "misprint", "stain")),
    "pill": Category(Product("plastic", "pill", design=9), ("chip", "colour fault", "crack", "hole", "misprint")),
    "screw": Category(
        Product("cast metal", "screw", "cardboard", design=1),
        ("chip", "colour fault", "deformation", "scratch", "stain"),
    ),
    "wire_mesh": Category(
        Product("wire mesh", design=3), ("colour fault", "deformation", "foreign object", "hole", "stain")
    ),
    "wood": Category(Product("wood", design=5), ("crack", "hole", "misprint", "scratch", "stain")),
}
"""Categories to train on, with nothing held out or for validation."""

VALIDATION_CATEGORIES: dict[str, Category] = {
    "foam": Category(Product("foam", design=4), VALIDATION_DEFECTS),
    "fruit": Category(Product("cork", "fruit", "foam", design=2), VALIDATION_DEFECTS),
    "spring": Category(Product("ceramic tile", "spring", design=6), VALIDATION_DEFECTS),
    "tile": Category(Product("ceramic tile", design=1), VALIDATION_DEFECTS),
}
"""Categories for validation: their materials, objects, backgrounds and defects are neither trained nor tested on."""

CATEGORIES: dict[str, Category] = {**HELD_OUT_CATEGORIES, **TRAINING_CATEGORIES, **VALIDATION_CATEGORIES}
"""All categories by name."""
