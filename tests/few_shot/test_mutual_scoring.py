# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Photographs without labels that are compared with each other."""

import json
import runpy
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import torch
from anomalib import LearningType
from anomalib.engine import Engine
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import silhouette_score
from torch import nn

from anomalib_fbclip import FBClip
from anomalib_fbclip.data.image_source import load_image
from anomalib_fbclip.data.unlabeled_set import FEWEST, MOST, UnlabeledSet
from anomalib_fbclip.exported import EdgeInferencer
from anomalib_fbclip.modeling.few_shot import FewShot, MutualScoring
from anomalib_fbclip.modeling.few_shot.memory_bank import MemoryBank
from anomalib_fbclip.modeling.few_shot.mutual_scoring import (
    MutualMemory,
    are_unalike,
    find_kinds,
    folder_limit,
    is_split,
    photograph_distances,
)
from support.parts import draw_part

oracle = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("oracle.py"))))

property_test = settings(deadline=None, max_examples=25)

seeds = st.integers(0, 2**32 - 1)


def directions(seed: int, *shape: int) -> torch.Tensor:
    """Draw rows of length 1."""
    return nn.functional.normalize(torch.from_numpy(np.random.default_rng(seed).normal(size=shape)), dim=-1).float()


@property_test
@given(seeds, st.integers(3, 5), st.booleans())
def test_the_second_nearest_photograph_counts_and_its_own_does_not(seed: int, photographs: int, is_own: bool) -> None:
    patches = directions(seed, photographs, 4, 6)
    tokens = patches[1].flip(0) if is_own else directions(seed + 1, 5, 6)
    match = MutualMemory(patches)(tokens[None])
    for index, token in enumerate(tokens.double().numpy()):
        nearest = []
        for photograph, rows in enumerate(patches.double().numpy()):
            if not (is_own and photograph == 1):
                distance, row = oracle.distance([token], [[row] for row in rows])
                nearest.append((distance, 4 * photograph + row))
        distance, row = sorted(nearest)[1]
        assert match.distance[0, index].item() == pytest.approx(distance, abs=1e-5)
        assert match.row[0, index].item() == row


@pytest.mark.parametrize(("shown", "is_own"), [(3, True), (2, False)])
def test_with_tiles_a_quarter_of_a_views_rows_tells_the_photograph_itself(shown: int, is_own: bool) -> None:
    """24 rows of two views: three of a view's twelve rows have to be there."""
    patches = directions(0, 4, 24, 12)
    tokens = torch.cat([patches[1, :shown], directions(1, 6, 12)])
    others = MutualMemory(patches[[0, 2, 3]] if is_own else patches)
    assert MutualMemory(patches, views=2)(tokens[None]).distance.allclose(others(tokens[None]).distance, atol=1e-6)


def test_each_image_of_a_batch_has_its_own_left_out() -> None:
    patches = directions(0, 4, 3, 6)
    memory = MutualMemory(patches)
    assert memory(patches).distance.allclose(torch.cat([memory(image[None]).distance for image in patches]), atol=1e-6)
    assert (memory(patches).distance > 0.01).all()


@property_test
@given(st.lists(st.floats(1, 50), min_size=8, max_size=40))
def test_the_limit_is_what_is_written_down(scores: list[float]) -> None:
    values = torch.tensor(scores)
    kurtosis, ratio = oracle.shape_of(scores)
    assume(abs(kurtosis - 2.2) > 1e-3 and abs(ratio - 1.6) > 1e-3)  # else rounding decides
    assert is_split(values) == oracle.is_split(scores)
    assert folder_limit(values).item() == pytest.approx(oracle.folder_limit(scores), rel=1e-3)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.2, 0.5])
def test_the_limit_parts_good_from_defective(share: float) -> None:
    stream = np.random.default_rng(0)
    defective = round(40 * share)
    good, others = stream.normal(3, 0.4, 40 - defective), stream.normal(12, 1, defective)
    limit = folder_limit(torch.from_numpy(np.concatenate([others, good]))).item()
    assert max(good) < limit
    assert not defective or limit < min(others)


def test_two_groups_of_scores() -> None:
    assert is_split(torch.tensor([1.0, 1.1, 0.9, 1.2, 4.0, 4.1, 3.9, 4.2]))
    assert not is_split(torch.tensor([1.0, 1.1, 0.9, 1.2, 1.0, 1.05, 0.95, 4.2]))
    assert not is_split(torch.tensor([4.0, 4.1, 3.9, 4.2, 4.3, 4.6, 4.7, 4.8]))


def draw_kinds(*sizes: int, spread: float = 0.1) -> torch.Tensor:
    """Draw patches of photographs of several kinds of things."""
    kinds = directions(0, len(sizes), 1, 6, 16)
    photographs = torch.cat([kind.expand(size, -1, -1) for kind, size in zip(kinds, sizes, strict=True)])
    return nn.functional.normalize(photographs + spread * directions(1, sum(sizes), 6, 16), dim=-1)


@pytest.mark.parametrize(
    ("sizes", "kinds"),
    [((12,), None), ((6, 6), {6}), ((9, 3), {9, 3}), ((11, 1), None), ((4, 4, 4), {8, 4})],
    ids=["one", "two", "one is small", "an outlier", "three"],
)
def test_kinds(sizes: tuple[int, ...], kinds: set[int] | None) -> None:
    distances = photograph_distances(MemoryBank(draw_kinds(*sizes)))
    found = find_kinds(distances)
    assert (None if found is None else {*found}) == kinds
    assert not are_unalike(distances)


@property_test
@given(seeds, st.integers(2, 6), st.integers(2, 6), st.floats(0.3, 0.7))
def test_kinds_have_a_silhouette_above_a_half(seed: int, first: int, second: int, spread: float) -> None:
    kinds = directions(seed, 2, 4)
    points = torch.cat([kinds[:1].expand(first, -1), kinds[1:].expand(second, -1)])
    points += spread * directions(seed + 1, first + second, 4)
    distances = torch.cdist(points, points)
    pairs = combinations(range(len(points)), 2)
    nearest = min(pairs, key=lambda pair: distances[list(pair)].amin(dim=0).sum().item())
    groups = distances[list(nearest)].argmin(dim=0).numpy()
    sizes = int((groups == 0).sum()), int((groups == 1).sum())
    silhouette = silhouette_score(distances.fill_diagonal_(0), groups, metric="precomputed")
    assume(abs(silhouette - 0.5) > 1e-3)
    are_two = silhouette > 0.5 and min(sizes) >= max(0.2 * len(points), 2)
    assert find_kinds(distances) == (sizes if are_two else None)


def test_some_rows_tell_the_distance_of_photographs() -> None:
    patches = directions(0, 3, 250, 6)
    assert photograph_distances(MemoryBank(patches)).equal(photograph_distances(MemoryBank(patches[:, ::3])))


def test_photographs_of_all_kinds() -> None:
    assert are_unalike(photograph_distances(MemoryBank(draw_kinds(*[1] * 10))))


def test_distances_of_photographs() -> None:
    patches = directions(0, 3, 4, 6)
    distances = photograph_distances(MemoryBank(patches))
    for first, second in ((0, 1), (2, 0)):
        both = [
            np.mean([oracle.distance([token], [[row] for row in b])[0] for token in a])
            for a, b in (patches[[first, second]].double().numpy(), patches[[second, first]].double().numpy())
        ]
        assert distances[first, second].item() == pytest.approx(np.mean(both), abs=1e-5)
    assert distances.diag().tolist() == [0, 0, 0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of eleven good parts and a defective one."""
    folder = tmp_path_factory.mktemp("unlabeled")
    for seed in range(11):
        draw_part(seed).save(folder / f"{seed:02}.png")
    draw_part(11, defective=True).save(folder / "spot.png")
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> FBClip:
    """The bundled model, with the folder compared."""
    model = FBClip("fbclip-small")
    model.use_unlabeled(sorted(folder.iterdir()))
    return model.eval()


class TestChoice:
    def test_what_can_not_be_read_is_not_chosen(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "damaged.png").write_bytes(b"no image")
        draw_part(0).resize((4, 4)).save(tmp_path / "small.png")
        found = sorted([*folder.iterdir(), *tmp_path.iterdir()])
        assert {*UnlabeledSet(found, minimum_side=16).images} == {*folder.iterdir()}

    def test_some_of_many_the_same_for_a_seed(self, folder: Path) -> None:
        found = [folder / "00.png", *[draw_part(seed) for seed in range(20, 20 + MOST + 8)]]
        chosen = [UnlabeledSet(found, seed).images for seed in (0, 0, 1)]
        assert chosen[0] == chosen[1] != chosen[2]
        assert len(chosen[0]) <= MOST

    def test_copies_count_as_one(self, folder: Path) -> None:
        found = sorted(folder.iterdir())[:3] * 4
        assert len(UnlabeledSet(found).images) == 3


class TestModel:
    def test_the_odd_one_stands_out(self, model: FBClip, folder: Path) -> None:
        scores = {path.stem: float(model.explain(path).pred_score) for path in folder.iterdir()}
        assert max(scores, key=scores.__getitem__) == "spot"
        assert scores["spot"] > 0.5
        assert sum(score < 0.5 for score in scores.values()) >= 9

    def test_thresholds_and_learning_type(self, model: FBClip) -> None:
        assert model.post_processor.image_threshold_source == "12 unlabeled photographs"
        assert model.learning_type == LearningType.ZERO_SHOT
        assert model.references == []

    def test_the_nearest_place_names_another_photograph(self, model: FBClip, folder: Path) -> None:
        assert model.nearest_reference(model.explain(folder / "spot.png")).name != str(folder / "spot.png")

    def test_a_file_of_adapters_holds_them(self, model: FBClip, folder: Path, tmp_path: Path) -> None:
        model.save_adapters(tmp_path / "part.safetensors", with_references=True)
        loaded = FBClip("fbclip-small", weights=tmp_path / "part.safetensors").eval()
        assert isinstance(loaded.model.decision, MutualScoring)
        assert loaded.post_processor.image_threshold_source == "12 unlabeled photographs"
        photograph = folder / "spot.png"
        assert loaded.explain(photograph).pred_score.equal(model.explain(photograph).pred_score)

    def test_few_photographs_are_looked_at_alone(self, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        model = FBClip("fbclip-small")
        model.use_unlabeled(sorted(folder.iterdir())[: FEWEST - 1])
        assert model.model.decision is model.model.zero_shot
        assert model.post_processor.image_threshold_source == "default"
        assert "by itself" in caplog.text

    def test_good_ones_afterwards(self, folder: Path) -> None:
        model = FBClip("fbclip-small")
        model.use_unlabeled(sorted(folder.iterdir())[:FEWEST])
        model.use_references(sorted(folder.iterdir())[:2])
        assert type(model.model.decision) is FewShot
        assert model.learning_type == LearningType.FEW_SHOT

    def test_not_beside_good_ones(self, folder: Path) -> None:
        with pytest.raises(ValueError, match="unlabeled_source"):
            FBClip("fbclip-small", few_shot_source=folder, unlabeled_source=folder)


class TestRuns:
    @pytest.mark.parametrize("source", ["folder", "dataset"])
    def test_predict(self, arguments: dict, folder: Path, tmp_path: Path, source: str) -> None:
        asked = FBClip(**arguments, unlabeled_source=folder if source == "folder" else source)
        engine = Engine(default_root_dir=tmp_path, logger=False, devices=1)
        batches = engine.predict(asked, data_path=folder)
        predicted = [pair for batch in batches for pair in zip(batch.image_path, batch.pred_score, strict=True)]
        scores = {Path(path).stem: score for path, score in predicted}
        assert len(scores) == 12
        model = FBClip(**arguments)
        model.use_unlabeled(sorted(folder.iterdir()))
        for name, score in scores.items():
            assert score.item() == pytest.approx(model.explain(folder / f"{name}.png").pred_score.item(), abs=1e-3)

    def test_dataset_without_a_run(self) -> None:
        with pytest.raises(ValueError, match="dataset"):
            FBClip("fbclip-small", unlabeled_source="dataset")(torch.zeros(1, 3, 64, 64))


@pytest.mark.slow
def test_an_exported_file_decides_as_the_model(arguments: dict, folder: Path, tmp_path: Path) -> None:
    model = FBClip(**arguments, feature_layers=[4], views=["identity"], unlabeled_source=folder).eval()
    inferencer = EdgeInferencer(model.to_onnx(tmp_path), precision="f32")
    draw_part(12).save(tmp_path / "new.png")
    for path in (folder / "00.png", folder / "spot.png", tmp_path / "new.png"):
        with torch.no_grad():
            expected = model(load_image(path)[None])
        found = inferencer.predict(path)
        assert found.score == pytest.approx(expected.pred_score.item(), abs=1e-3)
        assert found.is_anomalous == expected.pred_label.item()
    assert isinstance(model.model.decision, MutualScoring)
    assert inferencer.threshold_sources()[0] == "12 unlabeled photographs"


@pytest.mark.slow
def test_the_papers_model(folder: Path, tmp_path: Path) -> None:
    """The way is the same, with random weights, at a small size."""
    config = tmp_path / "fbclip-test-vit-l-mutual.json"
    architecture = open_clip.get_model_config("ViT-L-14-336")
    architecture["text_cfg"]["layers"] = 1  # the text is not what is tried
    config.write_text(json.dumps(architecture))
    model = FBClip(str(config), weights=None, image_size=112).eval()
    model.use_unlabeled(sorted(folder.iterdir()))
    assert isinstance(model.model.decision, MutualScoring)
    assert model.model.decision.memory.patches.shape == (12, 64, 3072)
    scores = {path.stem: float(model.explain(path).pred_score) for path in folder.iterdir()}
    assert max(scores, key=scores.__getitem__) == "spot"
