# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""What training may see, and what captions say."""

import numpy as np
import pytest

from tools.bundled_model.procedural import (
    DEFECTS,
    HELD_OUT_CATEGORIES,
    HELD_OUT_DEFECTS,
    HELD_OUT_MATERIALS,
    HELD_OUT_OBJECTS,
    MATERIALS,
    OBJECTS,
    TRAINING_CATEGORIES,
    TRAINING_DEFECTS,
    TRAINING_MATERIALS,
    TRAINING_OBJECTS,
    VALIDATION_CATEGORIES,
    VALIDATION_DEFECTS,
    VALIDATION_MATERIALS,
    VALIDATION_OBJECTS,
)
from tools.bundled_model.procedural.captions import describe


class TestSplit:
    @pytest.mark.parametrize(
        ("held_out", "validation", "training", "all_kinds"),
        [
            (HELD_OUT_MATERIALS, VALIDATION_MATERIALS, TRAINING_MATERIALS, MATERIALS),
            (HELD_OUT_OBJECTS, VALIDATION_OBJECTS, TRAINING_OBJECTS, OBJECTS),
            (HELD_OUT_DEFECTS, VALIDATION_DEFECTS, TRAINING_DEFECTS, DEFECTS),
        ],
    )
    def test_is_a_partition(self, held_out, validation, training, all_kinds):
        assert sorted([*held_out, *validation, *training]) == sorted(all_kinds)
        # One drawing under two names would leak.
        assert len(set(all_kinds.values())) == len(all_kinds)

    def test_categories_to_test_on_are_held_out(self):
        for product, defects in HELD_OUT_CATEGORIES.values():
            assert product.material in HELD_OUT_MATERIALS
            assert product.object in {None, *HELD_OUT_OBJECTS}
            assert product.background in {None, *HELD_OUT_MATERIALS}
            assert set(defects) <= set(HELD_OUT_DEFECTS)

    def test_categories_to_choose_by_are_of_kinds_to_validate_on(self):
        for product, defects in VALIDATION_CATEGORIES.values():
            assert product.material in VALIDATION_MATERIALS
            assert product.object in {None, *VALIDATION_OBJECTS}
            assert product.background in {None, *VALIDATION_MATERIALS}
            assert set(defects) <= set(VALIDATION_DEFECTS)

    def test_categories_to_train_on_are_neither(self):
        for product, defects in TRAINING_CATEGORIES.values():
            assert product.material in TRAINING_MATERIALS
            assert product.object in {None, *TRAINING_OBJECTS}
            assert product.background in {None, *TRAINING_MATERIALS}
            assert set(defects) <= set(TRAINING_DEFECTS)


class TestCaptions:
    @staticmethod
    def say(noun: str, defect: str | None) -> set[str]:
        return {describe(noun, defect, np.random.default_rng(seed)) for seed in range(400)}

    def test_normal(self):
        captions = self.say("brushed metal gear", None)
        assert "a photo of a brushed metal gear without defect." in captions
        assert "a photo of an intact brushed metal gear." in captions
        assert len(captions) == 25

    def test_anomalous(self):
        captions = self.say("brushed metal gear", "scratch")
        assert "a photo of a brushed metal gear with a scratch." in captions
        assert "a close-up photo of a damaged brushed metal gear with a scratch." in captions
        assert len(captions) == 25

    def test_surface(self):
        assert "a photo of a leather surface without defect." in self.say("leather surface", None)

    def test_without_article(self):
        assert "a photo of a wood surface with corrosion." in self.say("wood surface", "corrosion")

    def test_name_everything(self):
        for said in self.say("granite key", "crack"):
            assert "granite key" in said
        normal, anomalous = (self.say("granite key", defect) for defect in (None, "crack"))
        assert not normal & anomalous
