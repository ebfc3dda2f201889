# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Text features in files of adapters: with them, inference loads neither text tower nor vocabulary."""

from itertools import starmap
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from anomalib.data import MVTecAD, PredictDataset
from anomalib.deploy import ExportType
from anomalib.engine import Engine
from safetensors.torch import save_file

from anomalib_fbclip import FBClip
from anomalib_fbclip.cli.torch_inferencer import TorchInferencer
from anomalib_fbclip.data import AuxiliaryDataModule
from anomalib_fbclip.modeling.text_encoder import text_digest
from anomalib_fbclip.weights import bundled
from anomalib_fbclip.weights.adapters import TEXT_FEATURES, Adapters, adapter_tensors
from anomalib_fbclip.weights.backbones import build_model, resolve_backbone
from anomalib_fbclip.weights.clip_files import create_clip
from support.images import write_mvtec_category


@pytest.fixture
def model(small_backbone: str, small_adapters: Path) -> FBClip:
    return FBClip(small_backbone, weights=small_adapters).eval()


@pytest.fixture
def without(small_backbone: str, small_adapters: Path, tmp_path: Path) -> FBClip:
    """The same adapters in a file as it was before it had text features."""
    adapters = Adapters.read(small_adapters)
    tensors = {name: tensor for name, tensor in adapters.tensors.items() if name != TEXT_FEATURES}
    Adapters(tensors, adapters.metadata, "The model").save(tmp_path / "old.safetensors")
    return FBClip(small_backbone, weights=tmp_path / "old.safetensors").eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))


def create_image_tower(*call: object, towers: str) -> torch.nn.Module:
    assert towers == "image"
    return create_clip(*call, towers=towers)


@pytest.fixture
def no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the test fail where a text tower or a vocabulary is loaded."""
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda *call: pytest.fail(f"loaded a vocabulary: {call}"))
    monkeypatch.setattr("anomalib_fbclip.weights.backbones.create_clip", create_image_tower)


def names(model: FBClip) -> set[str]:
    return {name.split(".")[1] for name, _ in model.model.named_parameters() if name.startswith("backbone.")}


@pytest.mark.usefixtures("no_text")
class TestInferenceLoadsNoText:
    def test_forward(self, small_backbone: str, small_adapters: Path, images: torch.Tensor) -> None:
        model = FBClip(small_backbone, weights=small_adapters)
        model.model(images)
        assert names(model) == {"visual"}

    def test_runs_and_exports(self, small_backbone: str, small_adapters: Path, tmp_path: Path) -> None:
        category = write_mvtec_category(tmp_path / "data", "bottle", seed=1) / "bottle"
        model = FBClip(small_backbone, weights=small_adapters)
        engine = Engine(accelerator="cpu", default_root_dir=tmp_path / "results", logger=False)
        engine.predict(model, dataset=PredictDataset(category / "test" / "good"))
        path = engine.export(model, ExportType.TORCH)
        loaded = torch.load(path, weights_only=False)["model"]
        assert names(model) == names(loaded) == {"visual"}

    def test_fbclip(self, small_backbone: str, small_adapters: Path) -> None:
        inferencer = TorchInferencer(small_backbone, str(small_adapters), "cpu", "float32", None, None)
        list(inferencer.stream([np.zeros((60, 60, 3), np.uint8)]))
        assert not inferencer._model.backbone.has_text_tower

    def test_with_good_photographs(self, small_backbone: str, small_adapters: Path, images: torch.Tensor) -> None:
        model = FBClip(small_backbone, weights=small_adapters)
        model.use_references([torch.rand(3, 56, 56), torch.rand(3, 56, 56)])
        model.model(images)
        assert names(model) == {"visual"}

    def test_after_conversion(self, small_backbone: str, small_adapters: Path) -> None:
        features = FBClip(small_backbone, weights=small_adapters).to(torch.bfloat16).model.text_features()
        assert features.dtype == torch.bfloat16


def test_given_ones_have_the_type_of_the_parameters_and_no_graph(model: FBClip) -> None:
    network = model.model.double()
    network.use_text_features(network.encode_text().float())
    assert network.text_features().dtype == torch.float64
    assert not network.text_features().requires_grad


def test_digest() -> None:
    """Other values, names and weights give another; other parts, types and orders do not."""
    tensors = {"prompt_learner.a": torch.ones(2), "text_fusion.b": torch.zeros(2)}
    weights = {"global": 1.0, "attention": 0.5}
    halves = {name: tensor.bfloat16() for name, tensor in tensors.items()}
    same = [
        ({**tensors, "mvfbe.c": torch.ones(2)}, weights),
        (halves, weights),
        (dict(reversed(tensors.items())), weights),
        (tensors, dict(reversed(weights.items()))),
    ]
    others = [
        (tensors | {"text_fusion.b": torch.tensor([0.0, 1.0])}, weights),
        (dict(zip(("prompt_learner.a", "prompt_learner.c"), tensors.values(), strict=True)), weights),
        (tensors, weights | {"attention": 1.0}),
        (tensors, {"global": 1.0}),
    ]
    expected = text_digest(tensors, weights)
    assert set(starmap(text_digest, same)) == {expected}
    assert len({expected, *starmap(text_digest, others)}) == 1 + len(others)


def test_the_bundled_adapters_have_text_features() -> None:
    assert TEXT_FEATURES in Adapters.read(bundled.ADAPTERS_FILE).tensors


def test_the_same_numbers(model: FBClip, without: FBClip, images: torch.Tensor) -> None:
    given, computed = model.model(images), without.model(images)
    assert without.model.backbone.has_text_tower
    torch.testing.assert_close(model.model.text_features(), without.model.text_features(), atol=1e-6, rtol=0)
    torch.testing.assert_close(given.anomaly_map, computed.anomaly_map, atol=1e-6, rtol=0)
    torch.testing.assert_close(given.pred_score, computed.pred_score, atol=1e-6, rtol=0)


def test_text_features_of_other_adapters_are_refused(small_backbone: str, tmp_path: Path) -> None:
    ours, others = tmp_path / "ours.safetensors", tmp_path / "others.safetensors"
    for seed, path in enumerate((ours, others)):
        FBClip(small_backbone, weights=None, seed=seed).save_adapters(path)
    mixed = Adapters.read(ours)
    tensors = {**mixed.tensors, "prompt_learner.normal_context": torch.zeros(12, 32)}
    Adapters(tensors, mixed.metadata, "The model").save(tmp_path / "mixed.safetensors")
    with pytest.raises(ValueError, match="text features of other adapters"):
        FBClip(small_backbone, weights=tmp_path / "mixed.safetensors")


def test_text_features_of_another_clip_are_refused(small_backbone: str, small_adapters: Path, tmp_path: Path) -> None:
    state = create_clip(resolve_backbone(small_backbone), None).state_dict()
    save_file({name: tensor + 1 for name, tensor in state.items()}, tmp_path / "clip.safetensors")
    with pytest.raises(ValueError, match="other weights"):
        FBClip(small_backbone, pretrained=tmp_path / "clip.safetensors", weights=small_adapters)


def test_other_strategies_have_other_text_features(
    small_backbone: str, small_adapters: Path, without: FBClip, images: torch.Tensor
) -> None:
    ablation = FBClip(small_backbone, weights=small_adapters, text_strategies={"global": 1.0})
    assert not torch.allclose(ablation.model.text_features(), without.model.text_features(), atol=1e-3)
    assert ablation.model.backbone.has_text_tower


def test_text_features_of_16_bits_are_not_stored(small_backbone: str, tmp_path: Path) -> None:
    path = tmp_path / "adapters.safetensors"
    FBClip(small_backbone, weights=None, backbone_precision="bfloat16").save_adapters(path)
    assert TEXT_FEATURES not in Adapters.read(path).tensors


def test_a_change_in_place_is_seen_by_the_next_run(model: FBClip, tmp_path: Path) -> None:
    """As of a callback that averages weights."""
    before = model.model.text_features()
    model.model.forget_outdated_text_features()
    assert model.model.text_features() is before
    model.model.prompt_learner.normal_context.data += 1
    model.model.forget_outdated_text_features()
    assert not torch.allclose(model.model.text_features(), before)


@pytest.mark.parametrize("direction", ["with into without", "without into with"])
def test_state_dicts_load_both_ways(direction: str, model: FBClip, without: FBClip, images: torch.Tensor) -> None:
    without.model.text_features()
    source, target = (without, model) if direction == "with into without" else (model, without)
    expected = source.model(images)
    for parameter in target.model.prompt_learner.parameters():
        parameter.data += 1
    target.load_state_dict(source.state_dict())
    torch.testing.assert_close(target.model(images).anomaly_map, expected.anomaly_map, atol=1e-6, rtol=0)


def test_the_text_tower_comes_in_the_model_s_types(small_backbone: str) -> None:
    backbone = build_model(resolve_backbone(small_backbone), None, precision="bfloat16").backbone
    backbone.load_text_tower()
    assert backbone.token_embedding.weight.dtype == torch.bfloat16
    assert backbone.ln_final.weight.dtype == torch.float32
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert not any(module.training for module in backbone.modules())


def test_a_training_gets_the_text_tower(model: FBClip, mvtec: Path, tmp_path: Path) -> None:
    """Its prompts are trained, and its checkpoint has no text tower."""
    data = AuxiliaryDataModule(sources=MVTecAD(mvtec), categories=["bottle"], train_batch_size=8, num_workers=0)
    before = adapter_tensors(model.model)["prompt_learner.normal_context"].clone()
    engine = Engine(default_root_dir=tmp_path, max_steps=1, accelerator="cpu", logger=False)
    model.source = None  # anomalib trains no model that is zero-shot
    engine.fit(model, datamodule=data)
    assert model.model.backbone.has_text_tower
    assert not torch.equal(model.model.prompt_learner.normal_context, before)
    checkpoint = torch.load(engine.trainer.checkpoint_callback.best_model_path, weights_only=False)
    assert not any(name.startswith("model.backbone.") for name in checkpoint["state_dict"])
    loaded = FBClip.load_from_checkpoint(engine.trainer.checkpoint_callback.best_model_path)
    torch.testing.assert_close(loaded.model.text_features(), model.model.text_features(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_only_the_image_tower_is_read(suffix: str, small_backbone: str, tmp_path: Path) -> None:
    name, path = resolve_backbone(small_backbone), tmp_path / f"clip.{suffix}"
    clip = create_clip(name, None)
    if suffix == "pt":
        torch.save(clip.state_dict(), path)
    else:
        save_file(clip.state_dict(), path)
    image, text = (create_clip(name, str(path), towers=towers) for towers in ("image", "text"))
    assert {key for key, tensor in image.state_dict().items() if not tensor.is_meta} == {
        key for key in clip.state_dict() if key.startswith("visual.")
    }
    assert {key for key, tensor in text.state_dict().items() if tensor.is_meta} == {
        key for key in clip.state_dict() if key.startswith("visual.")
    }
    for tower in (image, text):
        for key, tensor in tower.state_dict().items():
            assert tensor.is_meta or torch.equal(tensor, clip.state_dict()[key])
