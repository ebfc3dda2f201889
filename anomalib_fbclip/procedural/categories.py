# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Categories of a dataset: a product, and the defects that it is tested for."""

from typing import NamedTuple

from .sample import Product
from .split import HELD_OUT_DEFECTS


class Category(NamedTuple):
    """A category of a dataset.

    Attributes:
        product (Product): What all of its images show.
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
"""Categories to test on: material, object, background and defects are held out from all training."""

TRAINING_CATEGORIES: dict[str, Category] = {
    "bottle": Category(
        Product("plastic", "bottle", design=2), ("chip", "contamination", "crack", "foreign object", "scratch")
    ),
    "button": Category(
        Product("plastic", "button", "woven fabric", design=4), ("chip", "colour fault", "crack", "hole", "scratch")
    ),
    "cable": Category(
        Product("rubber", "cable", design=1), ("deformation", "foreign object", "hole", "scratch", "stain")
    ),
    "carpet": Category(
        Product("carpet", design=3), ("colour fault", "contamination", "foreign object", "hole", "stain")
    ),
    "circuit_board": Category(
        Product("plastic", "circuit board", design=5), ("chip", "contamination", "corrosion", "misprint", "scratch")
    ),
    "granite": Category(Product("granite", design=2), ("chip", "crack", "hole", "misprint", "stain")),
    "hex_nut": Category(
        Product("painted metal", "hex nut", design=6), ("abrasion", "chip", "colour fault", "corrosion", "deformation")
    ),
    "kernel": Category(Product("wood", "kernel", design=8), ("crack", "deformation", "hole", "misprint", "stain")),
    "pill": Category(
        Product("plastic", "pill", design=9), ("chip", "colour fault", "contamination", "crack", "misprint")
    ),
    "screw": Category(
        Product("cast metal", "screw", "cardboard", design=1),
        ("abrasion", "chip", "corrosion", "deformation", "scratch"),
    ),
    "wire_mesh": Category(
        Product("wire mesh", design=3), ("contamination", "corrosion", "deformation", "foreign object", "hole")
    ),
    "wood": Category(Product("wood", design=5), ("abrasion", "crack", "hole", "scratch", "stain")),
}
"""Categories to train on: nothing in them is held out."""

CATEGORIES: dict[str, Category] = {**HELD_OUT_CATEGORIES, **TRAINING_CATEGORIES}
"""All categories by name."""
