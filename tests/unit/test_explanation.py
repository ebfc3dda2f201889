# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""What FBClip.explain shows is what the model computes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anomalib_fbclip import FBClip
from anomalib_fbclip.data.image_source import crop_patch, load_image
from anomalib_fbclip.data.reference_set import turned_copies
from anomalib_fbclip.errors import ImageError
from anomalib_fbclip.modeling.explanation import Explanation
from support.photographs import store_in_12_bits


@pytest.fixture(scope="module")
def model(small_backbone: str, small_adapters: Path) -> FBClip:
    return FBClip(backbone=small_backbone, weights=small_adapters, image_size=(56, 70))


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def explanation(model: FBClip, pixels: np.ndarray) -> Explanation:
    return model.explain(pixels)


def normalized(model: FBClip, pixels: np.ndarray) -> torch.Tensor:
    return model.pre_processor(load_image(pixels).unsqueeze(0))


def test_it_ends_where_the_model_ends(model: FBClip, pixels: np.ndarray, explanation: Explanation) -> None:
    with torch.no_grad():
        predictions = model.model(normalized(model, pixels))
    assert torch.equal(explanation.pred_score, predictions.pred_score[0])
    assert torch.equal(explanation.anomaly_map, predictions.anomaly_map[0])
    assert not explanation.anomaly_map.requires_grad


def test_shapes(explanation: Explanation) -> None:
    assert len(explanation.layers) == 4
    assert explanation.views == ("identity", "semantic", "spatial")
    assert explanation.foreground_masks.shape == (4, 4, 5)
    assert (
        explanation.gates.shape
        == explanation.suppression_strength.shape
        == explanation.similarities.shape
        == (4, 3, 4, 5)
    )
    assert explanation.layer_weights.shape == (4,)
    assert explanation.patch_map.shape == (4, 5)
    assert explanation.anomaly_map.shape == (56, 70)
    assert explanation.pred_score.shape == ()


def test_the_merged_similarities_are_the_patch_map(explanation: Explanation) -> None:
    merged = (explanation.layer_weights.view(4, 1, 1, 1) * explanation.similarities).sum(dim=(0, 1))
    torch.testing.assert_close(merged.sigmoid(), explanation.patch_map)


def test_the_maps_are_those_of_the_parts(model: FBClip, pixels: np.ndarray, explanation: Explanation) -> None:
    """Of the second layer and the last view, computed one after the other."""
    parts = model.model.mvfbe
    with torch.no_grad():
        layer_tokens, _ = model.model.backbone.encode_image(normalized(model, pixels))
        mask = parts.foreground_mask(layer_tokens[1], layer_tokens[0])
        assert torch.equal(explanation.foreground_masks[1], mask.view(4, 5))
        view = parts.views["spatial"](layer_tokens[1], mask, (4, 5))(layer_tokens[1])
        gate = parts.attention.gate(view @ parts.attention.gate[0].weight.T)[0, 1:, 0]
        torch.testing.assert_close(explanation.gates[1, 2], gate.view(4, 5))
        attended = given_to(parts.suppression, lambda: parts(layer_tokens, (4, 5)))
        torch.testing.assert_close(attended[5], parts.attention.attend(view))
        removed = (attended[5] - parts.suppression(attended)[5]).norm(dim=-1) / attended[5].norm(dim=-1)
        torch.testing.assert_close(explanation.suppression_strength[1, 2], removed[0, 1:].view(4, 5))


def given_to(module: torch.nn.Module, run: Callable[[], object]) -> list[torch.Tensor]:
    """The argument of a module's call."""
    given: list[list[torch.Tensor]] = []
    hook = module.register_forward_pre_hook(lambda _, arguments: given.extend(arguments))
    run()
    hook.remove()
    return given[0]


def test_values(explanation: Explanation) -> None:
    assert set(explanation.foreground_masks.unique().tolist()) <= {0.5, 1.0}
    assert ((explanation.gates > 0) & (explanation.gates < 1)).all()
    assert (explanation.suppression_strength > 0).all()


def test_of_ablations(small_backbone: str, small_adapters: Path, pixels: np.ndarray) -> None:
    model = FBClip(
        backbone=small_backbone,
        weights=small_adapters,
        feature_layers=[2, 4],
        views=["spatial"],
        background_suppression=False,
    )
    explanation = model.explain(pixels)
    assert explanation.layers == (2, 4)
    assert explanation.views == ("spatial",)
    assert explanation.similarities.shape == (2, 1, 4, 4)
    assert not explanation.suppression_strength.any()
    torch.testing.assert_close(explanation.pred_score, model.model(normalized(model, pixels)).pred_score[0])


def test_the_model_is_left_as_it_was(model: FBClip, pixels: np.ndarray) -> None:
    hooks = [module._forward_hooks for module in model.modules()]
    before = [len(hook) for hook in hooks]
    model.explain(pixels)
    assert [len(hook) for hook in hooks] == before


@pytest.mark.parametrize("kind", ["path", "string", "Pillow", "array of fractions", "tensor", "tensor of bytes"])
def test_sources(model: FBClip, pixels: np.ndarray, explanation: Explanation, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(pixels).save(path)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    source = {
        "path": path,
        "string": str(path),
        "Pillow": Image.open(path),
        "array of fractions": pixels.astype(np.float32) / 255,
        "tensor": tensor / 255,
        "tensor of bytes": tensor,
    }[kind]
    torch.testing.assert_close(model.explain(source).anomaly_map, explanation.anomaly_map)


def test_grey_images_of_pillow(model: FBClip) -> None:
    assert model.explain(Image.new("L", (40, 30), 99)).pred_score.isfinite()


@pytest.mark.parametrize(
    ("source", "what"),
    [
        (np.zeros((8, 8), dtype=np.uint8), r"uint8 \[8, 8\]"),
        (np.zeros((8, 8, 4), dtype=np.uint8), r"uint8 \[8, 8, 4\]"),
        (np.full((8, 8, 3), 255.0), r"float64 \[8, 8, 3\]"),
        (torch.zeros(1, 3, 8, 8), r"float32 \[1, 3, 8, 8\]"),
        (torch.zeros(3, 0, 8), r"float32 \[3, 0, 8\]"),
        (-torch.ones(3, 8, 8), r"float32 \[3, 8, 8\]"),
    ],
)
def test_what_is_no_image(model: FBClip, source: np.ndarray | torch.Tensor, what: str) -> None:
    with pytest.raises(ValueError, match=f"An image must be .*not .*{what}"):
        model.explain(source)


def test_a_missing_file(model: FBClip, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"none\.png .*no such file"):
        model.explain(tmp_path / "none.png")


def test_a_damaged_file(model: FBClip, pixels: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(pixels).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ImageError, match=r"image\.png can't be read.*truncated"):
        model.explain(path)


@pytest.mark.parametrize("kind", ["path", "Pillow"])
def test_photographs_stand_upright(model: FBClip, pixels: np.ndarray, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "image.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # the phone was held upright: the image is stored lying on its left side
    Image.fromarray(np.rot90(pixels).copy()).save(path, exif=exif)
    source = path if kind == "path" else Image.open(path)
    assert torch.equal(load_image(source), load_image(pixels))


def test_16_bits_are_the_same_picture(model: FBClip, pixels: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    grey = pixels[..., 0]
    Image.fromarray(grey.astype(np.uint16) * 257).save(path)
    expected = model.explain(Image.fromarray(grey))
    assert torch.equal(model.explain(path).anomaly_map, expected.anomaly_map)
    assert torch.equal(model.explain(Image.open(path)).anomaly_map, expected.anomaly_map)


def test_12_bits_without_a_tag_are_refused(model: FBClip, pixels: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 16 + 15).save(path)
    with pytest.raises(ImageError, match=r"image\.png has 16 bits"):
        model.explain(path)


def test_12_bits_with_a_white_level(
    small_backbone: str, small_adapters: Path, pixels: np.ndarray, tmp_path: Path
) -> None:
    """Good photographs, what is explained, and what is cut out of them are those of 8 bits."""
    for index in range(2):
        Image.fromarray(np.roll(pixels, 31 * index, axis=0)).save(tmp_path / f"{index}.png")
    files = sorted(tmp_path.iterdir())
    found = []
    for white_level in (None, 4095):
        model = FBClip(small_backbone, weights=small_adapters, image_size=(56, 70), white_level=white_level)
        model.use_references(files)
        explanation = model.explain(files[0])
        found.append((explanation.anomaly_map, model.reference_crop(model.nearest_reference(explanation))))
        store_in_12_bits(tmp_path)
    (usual_map, usual_crop), (deep_map, deep_crop) = found
    assert torch.equal(usual_map, deep_map)
    assert np.array_equal(usual_crop, deep_crop)


@pytest.mark.parametrize(("white_level", "told"), [(None, None), (4095, "4095")])
def test_the_white_level_is_described(
    small_backbone: str, small_adapters: Path, white_level: int | None, told: str | None
) -> None:
    """So that an exported file reads photographs as the model did."""
    model = FBClip(small_backbone, weights=small_adapters, white_level=white_level)
    assert model.description().get("white_level") == told


def test_what_is_no_white_level(small_backbone: str) -> None:
    with pytest.raises(ValueError, match="white_level"):
        FBClip(small_backbone, weights=None, white_level=0)


def test_photographs_that_are_too_small(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.new("RGB", (30, 13)).save(path)
    assert load_image(path).shape == (3, 13, 30)
    with pytest.raises(ImageError, match=r"image\.png has 30 x 13 pixels"):
        load_image(path, minimum_side=14)


GRID = (4, 5)


@pytest.fixture(scope="module")
def good() -> list[np.ndarray]:
    return list(np.random.default_rng(1).integers(0, 256, (2, 56, 70, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def few_shot_model(small_backbone: str, small_adapters: Path, good: list[np.ndarray]) -> FBClip:
    model = FBClip(backbone=small_backbone, weights=small_adapters, image_size=(56, 70))
    model.use_references(good)
    return model


class TestReferences:
    def test_without_any(self, model: FBClip, explanation: Explanation) -> None:
        assert explanation.reference_maps is None
        with pytest.raises(ValueError, match="use_references"):
            model.nearest_reference(explanation)

    def test_it_ends_where_the_model_ends(self, few_shot_model: FBClip, pixels: np.ndarray) -> None:
        explanation = few_shot_model.explain(pixels)
        assert explanation.reference_maps is not None
        few_shot = few_shot_model.model.decision
        deviations = explanation.reference_maps.deviations
        values = few_shot_model.model.anomaly_map_generator.values(deviations[None, None], (56, 70), None)
        score, anomaly_map = few_shot.predict(None, values)
        torch.testing.assert_close(explanation.anomaly_map, anomaly_map[0])
        torch.testing.assert_close(explanation.pred_score, score[0])
        assert torch.equal(explanation.reference_maps.probabilities, few_shot.calibration(deviations))

    def test_the_text_speaks_as_before(
        self, few_shot_model: FBClip, pixels: np.ndarray, explanation: Explanation
    ) -> None:
        assert torch.equal(few_shot_model.explain(pixels).patch_map, explanation.patch_map)

    @pytest.mark.parametrize("turn", [0, 2])
    @pytest.mark.parametrize("photograph", [0, 1])
    def test_a_good_photograph_is_nearest_to_itself(
        self, few_shot_model: FBClip, good: list[np.ndarray], photograph: int, turn: int
    ) -> None:
        """Turned by half a turn, its patches are those of another copy."""
        image = list(turned_copies(load_image(good[photograph]), 4))[turn]
        explanation = few_shot_model.explain(image)
        maps = explanation.reference_maps
        assert maps is not None
        assert maps.distances.shape == maps.rows.shape == maps.deviations.shape == GRID
        remembered = (maps.distances < 1e-5).nonzero().tolist()  # the coreset leaves some out
        assert remembered
        for row, column in remembered:
            nearest = few_shot_model.nearest_reference(explanation, (row, column))
            assert nearest == (photograph, f"Good photograph {photograph + 1}", turn, (row, column), GRID)
            crop = few_shot_model.reference_crop(nearest)
            assert np.array_equal(crop, crop_patch(image, (row, column), GRID))

    def test_the_most_anomalous_place(self, few_shot_model: FBClip, pixels: np.ndarray) -> None:
        explanation = few_shot_model.explain(pixels)
        row, column = explanation.most_anomalous
        values = explanation.anomaly_map.unflatten(0, (4, 14)).unflatten(2, (5, 14))
        assert values[row, :, column].max() == explanation.anomaly_map.max()
        nearest = few_shot_model.nearest_reference(explanation)
        assert nearest == few_shot_model.nearest_reference(explanation, (row, column))

    def test_of_a_folder(
        self, small_backbone: str, small_adapters: Path, good: list[np.ndarray], pixels: np.ndarray, tmp_path: Path
    ) -> None:
        """Photographs that lie on their side are read as the model reads them, and cut out the same way."""
        exif = Image.Exif()
        exif[0x0112] = 6
        for index, image in enumerate(good):
            Image.fromarray(np.rot90(image).copy()).save(tmp_path / f"{index}.png", exif=exif)
        model = FBClip(small_backbone, weights=small_adapters, image_size=(56, 70), few_shot_source=tmp_path)
        nearest = model.nearest_reference(model.explain(pixels))
        assert nearest.name == str(tmp_path / f"{nearest.photograph}.png")
        upright = list(turned_copies(load_image(good[nearest.photograph]), 4))[nearest.turn]
        assert np.array_equal(model.reference_crop(nearest), crop_patch(upright, nearest.place, GRID))

    def test_other_photographs_take_their_place(
        self, small_backbone: str, small_adapters: Path, good: list[np.ndarray], pixels: np.ndarray
    ) -> None:
        model = FBClip(small_backbone, weights=small_adapters, image_size=(56, 70))
        model.use_references([pixels, pixels])
        before = model.explain(good[0]).pred_score
        model.use_references(good)
        assert model.explain(good[0]).pred_score < before
        assert np.array_equal(model.references, good)

    @pytest.mark.usefixtures("published_adapters_fit")
    def test_adapters_are_fetched_first(
        self,
        small_backbone: str,
        small_adapters: Path,
        few_shot_model: FBClip,
        good: list[np.ndarray],
        pixels: np.ndarray,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """What the text says of good photographs depends on them."""
        monkeypatch.setattr("anomalib_fbclip.weights.source.fetch_published", lambda *_: small_adapters)
        model = FBClip(small_backbone, image_size=(56, 70))
        model.use_references(good)
        assert torch.equal(model.explain(pixels).anomaly_map, few_shot_model.explain(pixels).anomaly_map)

    def test_of_a_file_of_adapters(
        self, few_shot_model: FBClip, small_backbone: str, pixels: np.ndarray, tmp_path: Path
    ) -> None:
        """It keeps the photographs, as large as is enough for the model."""
        few_shot_model.save_adapters(tmp_path / "adapters.safetensors", with_references=True)
        model = FBClip(small_backbone, weights=tmp_path / "adapters.safetensors")
        explanation, expected = model.explain(pixels), few_shot_model.explain(pixels)
        assert torch.equal(explanation.anomaly_map, expected.anomaly_map)
        nearest = model.nearest_reference(explanation)
        assert nearest == few_shot_model.nearest_reference(expected)
        pieces = [np.asarray(each.reference_crop(nearest), dtype=float) for each in (model, few_shot_model)]
        assert np.abs(pieces[0] - pieces[1]).max() <= 1


@pytest.mark.parametrize(
    ("place", "box"),
    [((1, 2), (0, 10, 30, 40)), ((0, 0), (0, 0, 20, 20)), ((3, 4), (20, 30, 40, 50))],
)
def test_a_patch_is_cut_out_with_those_around_it(place: tuple[int, int], box: tuple[int, int, int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    top, left, bottom, right = box
    assert np.array_equal(crop_patch(image, place, GRID), image[top:bottom, left:right])
