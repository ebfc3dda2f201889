# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""What fbclip-small is trained on."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from tools.bundled_model import images as images_module
from tools.bundled_model.batches import TrainingBatches
from tools.bundled_model.images import BACKGROUND, DEFECT, OBJECT, SCALES, TrainingImage, draw_training_image
from tools.bundled_model.mixtures import mixtures
from tools.bundled_model.photographs import (
    TRAINING_PHOTOGRAPHS,
    VALIDATION_PHOTOGRAPHS,
    Photograph,
    PhotographsUnavailableError,
    photographed_surface,
    read_photograph,
    whole_surface,
)
from tools.bundled_model.procedural import (
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
from tools.bundled_model.procedural.materials import Surface
from tools.bundled_model.procedural.outlines import Pose
from tools.bundled_model.procedural.scene import Scene
from tools.bundled_model.shapes import MOST_LAYERS, draw_shape

SIZE = 64


def _texture(rng: np.random.Generator, size: int) -> Surface:
    flat = np.zeros((size, size), np.float32)
    return Surface(rng.uniform(0, 1, (3, size, size)).astype(np.float32), flat, flat)


@pytest.fixture(scope="module")
def drawn() -> list:
    return [draw_training_image(seed, SIZE) for seed in range(300)]


class TestTrainingImage:
    def test_depends_on_the_seed_alone(self, drawn):
        again = draw_training_image(7, SIZE)
        assert (again.image == drawn[7].image).all()
        assert again[2:] == drawn[7][2:]
        assert not (again.image == drawn[8].image).all()

    def test_every_second_has_a_defect(self, drawn):
        anomalous = [(sample.regions == DEFECT).any() for sample in drawn]
        assert 0.4 < np.mean(anomalous) < 0.6

    def test_regions_cover_objects_and_surfaces(self, drawn):
        with_background = [(sample.regions == BACKGROUND).any() for sample in drawn]
        assert 0.3 < np.mean(with_background) < 0.8
        assert all((sample.regions == OBJECT).any() for sample in drawn)

    def test_captions_say_whether_there_is_a_defect(self, drawn):
        for sample in drawn:
            anomalous = (sample.regions == DEFECT).any()
            assert (sample.caption != sample.normal_caption) or not anomalous
            assert not any(word in sample.normal_caption for word in ("damaged", "defective", "with a", "that has"))

    def test_words_name_nothing_that_is_not_trained_on(self, drawn):
        kinds = (HELD_OUT_MATERIALS, HELD_OUT_OBJECTS, HELD_OUT_DEFECTS)
        kinds += (VALIDATION_MATERIALS, VALIDATION_OBJECTS, VALIDATION_DEFECTS)
        said = " ".join(text for sample in drawn for text in (*sample.texts, sample.caption, sample.normal_caption))
        for kind in (name for names in kinds for name in names):
            assert f" {kind} " not in said.replace(".", " "), kind

    def test_shows_every_kind_that_is_trained_on(self, drawn):
        said = " ".join(text for sample in drawn for text in (*sample.texts, sample.caption))
        for kind in (*TRAINING_MATERIALS, *TRAINING_OBJECTS, *TRAINING_DEFECTS):
            assert kind in said

    def test_shows_photographs_whole_and_their_texture(self, drawn):
        nouns = {photograph.noun for photograph in TRAINING_PHOTOGRAPHS}
        words = [sample.texts[1].split(" without")[0] for sample in drawn]
        whole = [noun in nouns for noun in words]
        texture = [noun.split()[0] in nouns and noun not in nouns for noun in words]
        assert 0.2 < np.mean(whole) < 0.4
        assert 0.25 < np.mean(texture) < 0.45

    def test_objects_are_of_many_sizes(self, drawn):
        areas = [(sample.regions != BACKGROUND).mean() for sample in drawn if (sample.regions == BACKGROUND).any()]
        assert np.quantile(areas, 0.1) < 0.08
        assert np.quantile(areas, 0.9) > 0.3

    def test_defects_are_small_beside_their_object(self, drawn):
        shares = [
            (sample.regions == DEFECT).sum() / (sample.regions != BACKGROUND).sum()
            for sample in drawn
            if (sample.regions == BACKGROUND).any() and (sample.regions == DEFECT).any()
        ]
        assert len(shares) > 50
        assert np.median(shares) < 0.15

    def test_half_of_the_objects_are_of_no_kind(self, drawn):
        nouns = [sample.texts[1].split(" without")[0] for sample in drawn]
        photographs = {photograph.noun for photograph in TRAINING_PHOTOGRAPHS}
        objects = [noun for noun in nouns if not noun.endswith("surface") and noun not in photographs]
        assert 0.35 < np.mean([noun.endswith(" object") for noun in objects]) < 0.65

    def test_is_drawn_again_where_a_defect_can_not_be_seen(self, monkeypatch):
        tried = []

        def refuse_once(scene, seed, defect, defects):
            tried.append(scene)
            if len(tried) == 1:
                raise images_module.InvisibleDefectError
            return np.zeros((SIZE, SIZE, 3), np.uint8), np.ones((SIZE, SIZE), np.bool_)

        monkeypatch.setattr(images_module, "photograph", refuse_once)
        assert (draw_training_image(0, SIZE).regions == DEFECT).all()
        assert len(tried) == 2


class TestMixtures:
    @pytest.mark.parametrize("name", list(mixtures(_texture)))
    def test_change_a_part_of_the_object_alone(self, name):
        coverage = np.zeros((SIZE, SIZE), np.float32)
        coverage[:, : SIZE // 2] = 1
        albedo = np.random.default_rng(1).uniform(0.2, 0.8, (3, SIZE, SIZE)).astype(np.float32)
        flat = np.zeros((SIZE, SIZE), np.float32)
        scene = Scene(Surface(albedo, flat, flat), Surface(albedo, flat, flat), coverage, 0.0)
        shares = []
        for seed in range(12):
            defective = mixtures(_texture)[name](scene, np.random.default_rng(seed), 0.2)
            changed = np.abs(defective.compose().albedo - albedo).max(axis=0) > 0.02
            assert not changed[:, SIZE // 2 + 2 :].any()
            shares.append(changed.mean())
        assert max(shares) < 0.5
        assert max(shares) > 0


class TestShapes:
    @settings(max_examples=60, deadline=None)
    @given(seed=st.integers(0, 2**63 - 1), scale=st.floats(*SCALES))
    def test_are_objects(self, seed, scale):
        part = draw_shape(rng := np.random.default_rng(seed), rng, Pose(SIZE, (0.5, 0.5), 0.3, scale))
        assert part.coverage.min() >= 0
        assert part.coverage.max() == 1
        # None reaches further than a square's corner, and its outlines can be narrow.
        assert 0.1 * scale**2 < part.coverage.mean() < 8 * scale**2
        assert np.isfinite(part.height).all()
        assert not part.height[part.coverage == 0].any()
        assert len(part.layers) <= MOST_LAYERS

    def test_differ(self):
        pose = Pose(SIZE, (0.5, 0.5), 0.3, 0.4)
        drawn = [draw_shape(rng := np.random.default_rng(seed), rng, pose).coverage for seed in range(6)]
        assert all(not np.array_equal(one, other) for i, one in enumerate(drawn) for other in drawn[:i])


class TestPhotographs:
    @pytest.mark.parametrize("photograph", [*TRAINING_PHOTOGRAPHS, *VALIDATION_PHOTOGRAPHS])
    def test_give_surfaces(self, photograph):
        surface = photographed_surface(photograph, np.random.default_rng(0), SIZE)
        assert surface.albedo.shape == (3, SIZE, SIZE)
        assert surface.albedo.min() >= 0.02
        assert surface.albedo.max() <= 0.98
        assert surface.albedo.std() > 0.002

    @pytest.mark.parametrize("photograph", [*TRAINING_PHOTOGRAPHS, *VALIDATION_PHOTOGRAPHS])
    def test_are_flat_where_they_are_shown_whole(self, photograph):
        surface = whole_surface(photograph, np.random.default_rng(0), SIZE)
        assert surface.albedo.shape == (3, SIZE, SIZE)
        assert surface.albedo.min() >= 0
        assert surface.albedo.max() <= 1
        assert surface.albedo.std() > 0.002
        assert not surface.height.any()

    def test_to_validate_on_are_not_trained_on(self):
        assert not set(TRAINING_PHOTOGRAPHS) & set(VALIDATION_PHOTOGRAPHS)

    def test_of_a_package_that_is_not_installed(self):
        with pytest.raises(PhotographsUnavailableError, match=r"nopackage.* a\.png"):
            read_photograph(Photograph("nopackage", "a.png", "a"))


@pytest.fixture(scope="module")
def batches() -> list:
    return list(DataLoader(TrainingBatches(3, 4, 32, seed=5), batch_size=None))


class TestBatches:
    def test_do_not_depend_on_the_number_of_workers(self, batches):
        in_workers = list(DataLoader(TrainingBatches(3, 4, 32, seed=5), batch_size=None, num_workers=2))
        assert len(batches) == len(in_workers) == 3
        for one, other in zip(batches, in_workers, strict=True):
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.regions, other.regions)
            assert one[2:] == other[2:]

    def test_never_repeat_an_image(self, monkeypatch: pytest.MonkeyPatch):
        seeds = []

        def draw(seed: int, size: int) -> TrainingImage:
            seeds.append(seed)
            return draw_training_image(seed, size)

        monkeypatch.setattr(f"{TrainingBatches.__module__}.draw_training_image", draw)
        assert len(list(TrainingBatches(3, 4, 32, seed=5))) == 3
        assert len(set(seeds)) == len(seeds) == 12

    def test_shapes(self, batches):
        assert batches[0].images.shape == (4, 3, 32, 32)
        assert batches[0].regions.shape == (4, 32, 32)

    def test_captions_say_what_is_left_after_the_cut(self):
        for batch in TrainingBatches(12, 8, 32, seed=0):
            for regions, caption, texts in zip(batch.regions, batch.captions, batch.texts, strict=True):
                if not (regions == DEFECT).any():
                    assert not any(word in caption for word in ("damaged", "defective", "with a", "that has")), texts
