# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""FBClip as it is used from Python, outside a trainer."""

import io
from pathlib import Path

import pytest
import torch
from anomalib import LearningType
from anomalib.data import ImageBatch
from anomalib.models import get_model
from omegaconf import OmegaConf

from anomalib_fbclip import FBClip
from anomalib_fbclip.errors import WeightsUnavailableError
from anomalib_fbclip.modeling.decision import ModelOutput
from anomalib_fbclip.weights.adapters import PUBLISHED
from anomalib_fbclip.weights.source import canonical_name


@pytest.fixture
def model(small_backbone: str, small_adapters: Path) -> FBClip:
    return FBClip(backbone=small_backbone, weights=small_adapters)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))


def test_ready_after_construction(model: FBClip, images: torch.Tensor) -> None:
    predictions = model.model(images)
    assert isinstance(predictions, ModelOutput)
    assert predictions.pred_score.shape == (2,)
    assert predictions.anomaly_map.shape == (2, 56, 56)
    for values in (predictions.pred_score, predictions.anomaly_map):
        assert ((values >= 0) & (values <= 1)).all()
    model.setup("test")
    assert torch.equal(model.model(images).pred_score, predictions.pred_score)


def test_the_same_arguments_give_the_same_numbers(small_backbone: str, images: torch.Tensor) -> None:
    torch.manual_seed(1)
    first = FBClip(backbone=small_backbone, weights=None).model(images)
    torch.manual_seed(2)
    second = FBClip(backbone=small_backbone, weights=None).model(images)
    other = FBClip(backbone=small_backbone, weights=None, seed=1).model(images)
    assert torch.equal(first.anomaly_map, second.anomaly_map)
    assert not torch.equal(first.anomaly_map, other.anomaly_map)


def test_predictions_do_not_depend_on_the_batch(model: FBClip, images: torch.Tensor) -> None:
    together = model.model(images)
    alone = [model.model(image.unsqueeze(0)) for image in images]
    torch.testing.assert_close(torch.cat([prediction.pred_score for prediction in alone]), together.pred_score)
    torch.testing.assert_close(torch.cat([prediction.anomaly_map for prediction in alone]), together.anomaly_map)


class TestTextFeatures:
    """They are computed once, and again only after a text parameter has changed."""

    @pytest.fixture
    def model(self, small_backbone: str) -> FBClip:
        return FBClip(backbone=small_backbone, weights=None)

    @pytest.fixture(autouse=True)
    def count(self, model: FBClip, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        calls: list[int] = []
        encode = model.model.backbone.encode_prompts
        monkeypatch.setattr(
            model.model.backbone,
            "encode_prompts",
            lambda prompts: calls.append(1) or encode(prompts),
        )
        return calls

    def test_cached(self, model: FBClip, images: torch.Tensor, count: list[int]) -> None:
        model.model(images)
        with torch.inference_mode():
            model.model(images)
        model.eval()
        model.model(images)
        assert len(count) == 1

    @pytest.mark.parametrize("way", ["in place", "data", "optimizer", "state dict"])
    def test_computed_anew(self, model: FBClip, images: torch.Tensor, count: list[int], way: str) -> None:
        before = model.model.text_features()
        context = model.model.prompt_learner.normal_context
        if way == "in place":
            with torch.no_grad():
                context.add_(1)
            model.model.forget_text_features()
        elif way == "data":
            context.data[0, 0] += 1
            model.model.forget_text_features()
        elif way == "optimizer":
            model.model.encode_text()[0, 0].backward()
            model.configure_optimizers().step()
            count.clear()
            count.append(1)
        else:
            state = model.state_dict()
            state["model.backbone.ln_final.weight"] = state["model.backbone.ln_final.weight"].mul(2)
            model.load_state_dict(state)
        after = model.model.text_features()
        assert len(count) == 2
        assert not torch.equal(before, after)
        model.model.text_features()
        assert len(count) == 2

    def test_features_from_inference_mode_serve_autograd(self, model: FBClip, images: torch.Tensor) -> None:
        with torch.inference_mode():
            model.model(images)
        model.model(images).anomaly_map.sum().backward()
        assert model.model.mvfbe.attention.norm.weight.grad is not None


def test_only_adapters_are_trained(model: FBClip, images: torch.Tensor) -> None:
    model.train()
    assert not any(module.training for module in model.model.backbone.modules())
    trained = {name.split(".")[1] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"prompt_learner", "text_fusion", "mvfbe", "alignment"}
    outputs = model.model.intermediate_outputs(images, model.model.encode_text())
    mask = torch.zeros(2, 56, 56)
    model.loss(outputs, torch.tensor([0, 1]), mask).total.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"views": []}, "choose one or several"),
        ({"views": ["identity", "identity"]}, "each once"),
        ({"views": ["identity", "depth"]}, "'depth'.*'identity', 'semantic', 'spatial'"),
        ({"text_strategies": {"mean": 1.0}}, "Unknown text strategies \\['mean'\\]"),
        ({"text_strategies": {"global": 0.0}}, "No text strategy has a weight"),
        ({"backbone": "ViT-L-14-337"}, "Unknown backbone"),
        ({"backbone": "RN50x4"}, "no vision transformer"),
        ({"feature_layers": [1, 9]}, "layers 1 to 4"),
        ({"image_size": 57}, "multiples of its patch"),
        ({"weights": "nowhere.pth"}, "'nowhere.pth' do not exist"),
        ({"text_strategies": {}}, "No text strategy has a weight"),
        ({"backbone_precision": "bf16"}, "'bf16' .*'bfloat16'"),
    ],
)
def test_unusable_arguments(
    small_backbone: str,
    arguments: dict[str, object],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are refused before a CLIP is fetched and built."""
    monkeypatch.delattr("anomalib_fbclip.weights.backbones.create_clip")
    with pytest.raises(ValueError, match=message) as caught:
        FBClip(**{"backbone": small_backbone, "weights": None, **arguments})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "map_count"),
    [
        ({}, 12),
        ({"views": ["identity"]}, 4),
        ({"views": ("semantic", "spatial"), "feature_layers": (2, 4)}, 4),
        ({"background_suppression": False}, 12),
        ({"text_strategies": {"end_of_text": 1.0}}, 12),
    ],
)
def test_ablations(
    small_backbone: str,
    small_adapters: Path,
    images: torch.Tensor,
    arguments: dict[str, object],
    map_count: int,
) -> None:
    """An ablation takes the same adapters and gives another result."""
    model = FBClip(backbone=small_backbone, weights=small_adapters, **arguments)
    assert len(model.model.intermediate_outputs(images, model.model.text_features()).embeddings) == map_count
    assert model.model.alignment.views_per_layer == map_count / len(model.model.backbone.feature_layers)
    full = FBClip(backbone=small_backbone, weights=small_adapters).model(images)
    assert torch.equal(model.model(images).pred_score, full.pred_score) == (not arguments)


def test_text_strategies_that_are_left_out_are_not_trained(small_backbone: str) -> None:
    model = FBClip(backbone=small_backbone, weights=None, text_strategies={"global": 1.0})
    assert not any(parameter.requires_grad for parameter in model.model.text_fusion.parameters())


def test_consistency_weight(small_backbone: str) -> None:
    assert FBClip(backbone=small_backbone, weights=None, consistency_weight=0.0).loss.consistency_weight == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_images_that_are_not_finite(model: FBClip, images: torch.Tensor, value: float) -> None:
    images[1, 0, 3, 3] = value
    with pytest.raises(ValueError, match=r"\[1\].* finite"):
        model.model(images)


@pytest.mark.parametrize("value", [0.0, 1.0, -1.7])
def test_constant_images(model: FBClip, value: float) -> None:
    predictions = model.model(torch.full((1, 3, 56, 56), value))
    assert predictions.pred_score.isfinite().all()
    assert predictions.anomaly_map.isfinite().all()


def test_images_of_another_size_than_the_patch(model: FBClip) -> None:
    with pytest.raises(ValueError, match="height 57 and width 56"):
        model.model(torch.zeros(1, 3, 57, 56))


@pytest.mark.parametrize("size", [(1, 40), (56, 56), (33, 500)])
def test_images_of_any_size_through_the_pre_processor(model: FBClip, size: tuple[int, int]) -> None:
    predictions = model(torch.rand(1, 3, *size))
    assert predictions.anomaly_map.shape == (1, 56, 56)
    assert predictions.pred_score.isfinite().all()


def test_learning_type(small_backbone: str, model: FBClip) -> None:
    assert FBClip(backbone=small_backbone, weights=None).learning_type == LearningType.ONE_CLASS
    assert FBClip(backbone=small_backbone, weights="auto").learning_type == LearningType.ZERO_SHOT
    assert model.learning_type == LearningType.ZERO_SHOT


@pytest.mark.parametrize("name", ["FBClip", "fbclip", "fb_clip", "f_b_clip"])
def test_get_model_by_name(small_backbone: str, name: str) -> None:
    assert isinstance(get_model(name, backbone=small_backbone, weights=None), FBClip)


def test_hyper_parameters_are_plain_data(small_backbone: str) -> None:
    """A checkpoint takes nothing else, and dict-form get_model hands in containers of OmegaConf."""
    arguments = {
        "backbone": small_backbone,
        "weights": None,
        "views": ["identity", "spatial"],
        "image_size": [56, 70],
        "feature_layers": [1, 4],
        "text_strategies": {"global": 0.5},
        "betas": [0.4, 0.9],
    }
    config = OmegaConf.create({"class_path": "FBClip", "init_args": arguments})
    model = get_model(config)
    assert isinstance(model, FBClip)
    plain = {bool, int, float, str, list, tuple, dict, type(None)}
    assert {type(value) for value in dict(model.hparams).values()} <= plain
    assert model.image_size == (56, 70)
    assert model.betas == (0.4, 0.9)


@pytest.mark.usefixtures("published_adapters_fit")
class TestPublishedWeights:
    """They are fetched when they are first needed."""

    @pytest.fixture(autouse=True)
    def asked(self, small_adapters: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        asked: list[str] = []
        monkeypatch.setattr(
            "anomalib_fbclip.weights.source.fetch_published",
            lambda name, folder: asked.append(f"{folder.name}/{name}") or small_adapters,
        )
        return asked

    def test_auto_means_mvtec_outside_a_trainer(
        self,
        small_backbone: str,
        model: FBClip,
        images: torch.Tensor,
        asked: list[str],
    ) -> None:
        automatic = FBClip(backbone=small_backbone)
        automatic.setup("test")
        assert asked == []
        assert torch.equal(automatic.model(images).pred_score, model.model(images).pred_score)
        automatic.model(images)
        assert asked == ["fbclip/mvtec"]

    def test_by_name(self, small_backbone: str, images: torch.Tensor, asked: list[str]) -> None:
        FBClip(backbone=small_backbone, weights="visa").model(images)
        assert asked == ["fbclip/visa"]

    def test_export_and_saving_need_them(self, small_backbone: str, tmp_path: Path, asked: list[str]) -> None:
        FBClip(backbone=small_backbone).to_torch(tmp_path)
        FBClip(backbone=small_backbone).save_adapters(tmp_path / "adapters.safetensors")
        assert asked == ["fbclip/mvtec"] * 2

    def test_not_after_others_were_given(self, small_backbone: str, images: torch.Tensor, asked: list[str]) -> None:
        model = FBClip(backbone=small_backbone)
        assert model.source is None
        assert model.learning_type == LearningType.ZERO_SHOT
        model.source = "my parts"
        model.model(images)
        assert model.source == "my parts"
        assert asked == []

    def test_fetching_is_tried_again(
        self,
        small_backbone: str,
        small_adapters: Path,
        images: torch.Tensor,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        answers = iter([WeightsUnavailableError("not found"), small_adapters])

        def fetch(*args: object) -> Path:
            answer = next(answers)
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr("anomalib_fbclip.weights.source.fetch_published", fetch)
        model = FBClip(backbone=small_backbone)
        with pytest.raises(WeightsUnavailableError):
            model.model(images)
        assert model.source is None
        model.model(images)
        assert model.source == "auxiliary"

    def test_without_a_network(
        self,
        small_backbone: str,
        images: torch.Tensor,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def fail(name: str, folder: Path) -> None:
            msg = f"{name} not found"
            raise WeightsUnavailableError(msg)

        monkeypatch.setattr("anomalib_fbclip.weights.source.fetch_published", fail)
        with pytest.raises(WeightsUnavailableError, match="mvtec not found"):
            FBClip(backbone=small_backbone).model(images)


def test_published_weights_of_another_backbone(small_backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is fetched. With 'auto' a checkpoint may still come, so that waits until they are needed."""
    monkeypatch.delattr("anomalib_fbclip.weights.source.fetch_published")
    message = "fit backbone ViT-L-14-336 only, not 'fbclip-test-small'"
    for name in PUBLISHED:
        with pytest.raises(ValueError, match=message):
            FBClip(backbone=small_backbone, weights=name)
    automatic = FBClip(backbone=small_backbone)
    with pytest.raises(ValueError, match=message):
        automatic.model(torch.zeros(1, 3, 56, 56))


def test_training_step_outside_a_trainer(model: FBClip, images: torch.Tensor) -> None:
    mask = torch.zeros(2, 56, 56, dtype=torch.bool)
    mask[1, 10:30, 10:30] = True
    batch = ImageBatch(image=images, gt_label=torch.tensor([False, True]), gt_mask=mask)
    with pytest.warns(UserWarning, match="trainer. reference is not registered"):
        loss = model.training_step(batch)
    loss.backward()
    assert model.model.prompt_learner.normal_context.grad.abs().sum() > 0


def test_a_batch_without_masks_can_not_be_trained_on(model: FBClip, images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="labeled images with masks"):
        model.training_step(ImageBatch(image=images, gt_label=torch.tensor([0, 1])))


def test_the_model_can_be_pickled(model: FBClip, images: torch.Tensor) -> None:
    """With its text features, as the export to torch does."""
    predictions = model.model(images)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    copy = torch.load(file, weights_only=False)
    assert torch.equal(copy.model(images).pred_score, predictions.pred_score)


@pytest.mark.parametrize("fullgraph", [True])
def test_compiled_graph_has_no_breaks(model: FBClip, images: torch.Tensor, fullgraph: bool) -> None:
    model.eval()
    with torch.no_grad():
        expected = model.model(images)
        compiled = torch.compile(model.model, backend="eager", fullgraph=fullgraph)(images)
    torch.testing.assert_close(compiled.anomaly_map, expected.anomaly_map)


def test_channels_last(model: FBClip, images: torch.Tensor) -> None:
    expected = model.model(images).anomaly_map
    actual = model.model(images.contiguous(memory_format=torch.channels_last)).anomaly_map
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
class TestHalfPrecision:
    """What decides stays in single precision."""

    def test_autocast(self, model: FBClip, images: torch.Tensor, precision: str) -> None:
        expected = model.model(images)
        with torch.autocast("cpu", getattr(torch, precision)):
            actual = model.model(images)
            layer_tokens, _ = model.model.backbone.encode_image(images)
            gate = model.model.mvfbe.attention.gate
            share = gate(gate.project(layer_tokens[0]))
        assert {tokens.dtype for tokens in layer_tokens} == {share.dtype} == {torch.float32}
        assert actual.pred_score.dtype == actual.anomaly_map.dtype == torch.float32
        torch.testing.assert_close(actual.anomaly_map, expected.anomaly_map, atol=0.1, rtol=0)

    def test_the_mask_of_the_same_tokens_is_the_same(self, model: FBClip, precision: str) -> None:
        tokens = torch.randn(2, 17, 64, generator=torch.Generator().manual_seed(0))
        with torch.autocast("cpu", getattr(torch, precision)):
            mask = model.model.mvfbe.foreground_mask(tokens, tokens + 1)
        assert torch.equal(mask, model.model.mvfbe.foreground_mask(tokens, tokens + 1))

    def test_a_backbone_that_is_kept_in_it(
        self,
        small_backbone: str,
        small_adapters: Path,
        model: FBClip,
        images: torch.Tensor,
        precision: str,
    ) -> None:
        half = FBClip(small_backbone, weights=small_adapters, backbone_precision=precision)
        parameters = list(half.model.backbone.parameters())
        assert {parameter.dtype for parameter in parameters if parameter.ndim > 1} == {getattr(torch, precision)}
        assert {parameter.dtype for parameter in half.model.mvfbe.attention.parameters()} == {torch.float32}
        actual = half.model(images)
        assert actual.anomaly_map.dtype == torch.float32
        torch.testing.assert_close(actual.anomaly_map, model.model(images).anomaly_map, atol=0.1, rtol=0)
        half.model.encode_text().sum().backward()
        assert half.model.prompt_learner.normal_context.grad.dtype == torch.float32

    def test_training_step(self, small_backbone: str, images: torch.Tensor, precision: str) -> None:
        model = FBClip(small_backbone, weights=None, backbone_precision=precision).train()
        mask = torch.zeros(2, 56, 56)
        mask[0, 10:20, 10:20] = 1
        batch = ImageBatch(image=images, gt_label=torch.tensor([1, 0]), gt_mask=mask)
        with pytest.warns(UserWarning, match="trainer"), torch.autocast("cpu", getattr(torch, precision)):
            loss = model.training_step(batch)
        loss.backward()
        for name, parameter in model.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("MVTecAD", "mvtec"),
        ("mvtec", "mvtec"),
        ("mvtec_anomaly_detection", "mvtec"),
        ("MVTecAD2", "mvtecad2"),
        ("MVTecLOCO", "mvtecloco"),
        ("Visa", "visa"),
        ("VisA_20220922", "visa"),
        ("my parts", "myparts"),
    ],
)
def test_names_of_datasets(name: str, expected: str) -> None:
    assert canonical_name(name) == expected
