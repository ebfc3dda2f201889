# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Samples: what the seeds decide, and what the masks hold."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from tools.bundled_model.procedural import (
    CATEGORIES,
    DEFECTS,
    MATERIALS,
    OBJECTS,
    InvisibleDefectError,
    Product,
    Sample,
    draw_sample,
)
from tools.bundled_model.procedural import sample as sample_module
from tools.bundled_model.procedural.sample import MINIMUM_AREA, MINIMUM_CONTRAST, VISIBLE_DIFFERENCE

SIZE = 64
SEEDS = st.integers(0, 2**63 - 1)
PRODUCTS = st.builds(
    Product,
    material=st.sampled_from(sorted(MATERIALS)),
    object=st.none() | st.sampled_from(sorted(OBJECTS)),
    background=st.none() | st.sampled_from(sorted(MATERIALS)),
    design=st.integers(0, 2**31),
)

HASH = """
import hashlib, sys
from tools.bundled_model.procedural import CATEGORIES, draw_sample
digest = hashlib.sha256()
for name in sys.argv[1:]:
    product, defects = CATEGORIES[name]
    sample = draw_sample(product, 3, defects[0], 64)
    digest.update(sample.image.tobytes() + sample.mask.tobytes())
print(digest.hexdigest())
"""


def difference(sample: Sample, normal: Sample) -> np.ndarray:
    return np.abs(sample.image.astype(int) - normal.image).max(axis=2)


def draw_visible(product: Product, seed: int, defect: str, size: int) -> Sample:
    """Draw a sample of a product that hypothesis chose; there are products that hide a defect."""
    try:
        return draw_sample(product, seed, defect, size)
    except InvisibleDefectError:
        reject()


def check(sample: Sample, size: int) -> None:
    assert (sample.image.shape, sample.image.dtype) == ((size, size, 3), np.uint8)
    assert (sample.mask.shape, sample.mask.dtype) == ((size, size), np.bool_)
    assert sample.image.std() > 1


class TestSeeds:
    @staticmethod
    def draw(name: str) -> Sample:
        product, defects = CATEGORIES[name]
        return draw_sample(product, 3, defects[0], SIZE)

    def test_processes_draw_the_same(self):
        other = subprocess.run([sys.executable, "-c", HASH, *CATEGORIES], capture_output=True, text=True, check=True)
        here = hashlib.sha256()
        for name in CATEGORIES:
            sample = self.draw(name)
            here.update(sample.image.tobytes() + sample.mask.tobytes())
        assert other.stdout.strip() == here.hexdigest()

    def test_the_order_of_calls_does_not_matter(self):
        forwards = [self.draw(name) for name in CATEGORIES]
        backwards = [self.draw(name) for name in reversed(CATEGORIES)]
        for first, second in zip(forwards, reversed(backwards), strict=True):
            assert np.array_equal(first.image, second.image)
            assert np.array_equal(first.mask, second.mask)

    def test_global_random_state_does_not_matter(self):
        np.random.seed(1)  # noqa: NPY002 - the state that must not matter
        first = self.draw("wood")
        np.random.seed(2)  # noqa: NPY002
        assert np.array_equal(first.image, self.draw("wood").image)

    @pytest.mark.parametrize("name", CATEGORIES)
    def test_pieces_of_a_product_vary(self, name):
        product = CATEGORIES[name].product
        first, second = (draw_sample(product, seed, size=SIZE).image.astype(int) for seed in (1, 2))
        assert np.abs(first - second).mean() > 3

    def test_designs_differ(self):
        images = [draw_sample(Product("plastic", "gear", design=design), 1, size=SIZE).image for design in (0, 1)]
        assert np.abs(images[0].astype(int) - images[1]).mean() > 3


class TestKinds:
    @pytest.mark.parametrize("material", MATERIALS)
    @settings(max_examples=6, deadline=None)
    @given(seed=SEEDS, design=SEEDS, size=st.sampled_from([32, 65, 96]))
    def test_material(self, material, seed, design, size):
        sample = draw_sample(Product(material, design=design), seed, size=size)
        check(sample, size)
        assert not sample.mask.any()

    @pytest.mark.parametrize("name", OBJECTS)
    @settings(max_examples=6, deadline=None)
    @given(seed=SEEDS, design=SEEDS, size=st.sampled_from([32, 65, 96]))
    def test_object(self, name, seed, design, size):
        sample = draw_sample(Product("plastic", name, design=design), seed, size=size)
        check(sample, size)
        assert not sample.mask.any()

    @pytest.mark.parametrize("defect", DEFECTS)
    @settings(max_examples=25, deadline=None)
    @given(product=PRODUCTS, seed=SEEDS)
    def test_defect(self, defect, product, seed):
        sample = draw_visible(product, seed, defect, SIZE)
        check(sample, SIZE)
        assert sample.mask.any()
        assert sample.mask.mean() < 0.6


class TestMasks:
    @pytest.mark.parametrize("defect", DEFECTS)
    @settings(max_examples=12, deadline=None)
    @given(product=PRODUCTS, seed=SEEDS)
    def test_hold_what_changes_and_nothing_else(self, defect, product, seed):
        sample = draw_visible(product, seed, defect, 128)
        changed = difference(sample, draw_sample(product, seed, size=128))
        assert changed[~sample.mask].max() < VISIBLE_DIFFERENCE
        assert (changed[sample.mask] >= VISIBLE_DIFFERENCE).mean() > 0.5

    @pytest.mark.parametrize("name", CATEGORIES)
    def test_are_visible_in_every_category(self, name):
        category = CATEGORIES[name]
        for defect in category.defects:
            for seed in range(3):
                sample = draw_sample(category.product, seed, defect, 128)
                changed = difference(sample, draw_sample(category.product, seed, size=128))
                assert changed[sample.mask].mean() >= MINIMUM_CONTRAST
                assert sample.mask.mean() >= MINIMUM_AREA

    @pytest.mark.parametrize("defect", DEFECTS)
    def test_are_of_many_sizes(self, defect):
        areas = [draw_sample(Product("wood"), seed, defect, SIZE).mask.mean() for seed in range(12)]
        assert max(areas) > 2 * min(areas)


class TestInvisible:
    """Defects that cannot be seen, by a comparison that finds nothing."""

    @staticmethod
    def hide(times: int, monkeypatch) -> None:
        compare = sample_module._compare
        calls = iter(range(10**6))

        def find_nothing(image, changed):
            if next(calls) < times:
                return np.zeros(image.shape[:2], np.bool_), 0.0
            return compare(image, changed)

        monkeypatch.setattr(sample_module, "_compare", find_nothing)

    def test_are_drawn_again(self, monkeypatch):
        self.hide(sample_module.ATTEMPTS - 1, monkeypatch)
        assert draw_sample(Product("wood"), 0, "hole", SIZE).mask.any()

    def test_are_refused(self, monkeypatch):
        self.hide(sample_module.ATTEMPTS, monkeypatch)
        with pytest.raises(InvisibleDefectError, match=r"hole .*wood.* 0"):
            draw_sample(Product("wood"), 0, "hole", SIZE)


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"material": "gold"}, "'gold'.*plastic"),
            ({"material": "wood", "object": "shoe"}, "'shoe'.*plate"),
            ({"material": "wood", "background": "sky"}, "'sky'.*plastic"),
        ],
    )
    def test_unknown_product(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            Product(**arguments)

    def test_unknown_defect(self):
        with pytest.raises(ValueError, match=r"'rot'.*scratch"):
            draw_sample(Product("wood"), 0, "rot")

    def test_small_image(self):
        with pytest.raises(ValueError, match=r"32 .* 31"):
            draw_sample(Product("wood"), 0, size=31)
