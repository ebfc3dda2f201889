# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The reference's numbers, stage by stage."""

from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import torch

from anomalib_fbclip import FBClip
from anomalib_fbclip.lightning.model import FBClip as LightningFBClip
from anomalib_fbclip.modeling.build import create_model
from anomalib_fbclip.modeling.mvfbe import create_views
from anomalib_fbclip.modeling.text_fusion import STRATEGY_WEIGHTS
from anomalib_fbclip.weights.adapters import Adapters, adapter_tensors
from support.golden import Golden, save_as_numpy_1

LAYERS = range(5)
MAPS = range(15)


@pytest.fixture(scope="module")
def tiny() -> Golden:
    return Golden("tiny")


@pytest.fixture(scope="module")
def make_model(tiny: Golden, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], FBClip]:
    folder = tmp_path_factory.mktemp("golden")
    backbone = tiny.write_clip_config(folder)
    weights = save_as_numpy_1(tiny.reference_checkpoint(), folder / "reference.pth")
    FBClip(backbone=str(backbone), weights=None)  # makes the config known to open_clip
    pretrained = tiny.write_clip_weights(folder, backbone.stem)

    def make() -> FBClip:
        return FBClip(backbone=str(backbone), pretrained=pretrained, weights=weights, image_size=98)

    return make


@pytest.fixture(scope="module")
def model(make_model: Callable[[], FBClip]) -> FBClip:
    return make_model()


@pytest.fixture(scope="module")
def layer_tokens(model: FBClip, tiny: Golden) -> list[torch.Tensor]:
    return model.model.backbone.encode_image(tiny.images)[0]


@pytest.fixture(scope="module")
def attended(model: FBClip, tiny: Golden, layer_tokens: list[torch.Tensor]) -> list[torch.Tensor]:
    """What the suppression is given."""
    mvfbe, given = model.model.mvfbe, []
    hook = mvfbe.suppression.register_forward_pre_hook(lambda _, maps: given.extend(*maps))
    with torch.no_grad():
        mvfbe(layer_tokens, tiny.grid)
    hook.remove()
    return given


def assert_meets(actual: torch.Tensor, expected: torch.Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(actual.detach(), expected.reshape(actual.shape), atol=atol, rtol=0)


def test_feature_layers(model: FBClip, tiny: Golden) -> None:
    """The default layers of a depth of 6 are those of the golden file, whose indices count from 0."""
    assert list(model.model.backbone.feature_layers) == tiny.config["feature_layers"]


def test_prompt_tokens(model: FBClip, tiny: Golden) -> None:
    assert torch.equal(model.model.prompt_learner.token_ids, tiny["prompt_tokens"].long())


def test_text_features(model: FBClip, tiny: Golden) -> None:
    assert_meets(model.model.text_features(), tiny["text_features"])


@pytest.mark.parametrize("layer", LAYERS)
def test_layer_tokens(layer_tokens: list[torch.Tensor], tiny: Golden, layer: int) -> None:
    assert_meets(layer_tokens[layer], tiny[f"layer_tokens.{layer}"])


@pytest.mark.parametrize("layer", LAYERS)
def test_foreground_mask_and_views(model: FBClip, tiny: Golden, layer: int) -> None:
    tokens = tiny[f"layer_tokens.{layer}"]
    mask = model.model.mvfbe.foreground_mask(tokens, tiny[f"layer_tokens.{layer - 1}"] if layer else None)
    assert torch.equal(mask, tiny[f"foreground_mask.{layer}"])
    assert_meets(model.model.mvfbe.views["semantic"](tokens, mask, tiny.grid)(tokens), tiny[f"view_sem.{layer}"])
    assert_meets(model.model.mvfbe.views["spatial"](tokens, mask, tiny.grid)(tokens), tiny[f"view_spa.{layer}"])


@pytest.mark.parametrize("index", MAPS)
def test_attention(attended: list[torch.Tensor], tiny: Golden, index: int) -> None:
    assert_meets(attended[index], tiny[f"attended.{index}"])


def test_background_suppression(model: FBClip, tiny: Golden, attended: list[torch.Tensor]) -> None:
    assert_meets(model.model.mvfbe.suppression.prototype(attended), tiny["background_prototype"])
    with torch.no_grad():
        embeddings = model.model.intermediate_outputs(tiny.images, model.model.text_features()).embeddings
    assert_meets(embeddings[0], tiny["aligned.0"])
    assert_meets(embeddings[14], tiny["aligned.14"])


def test_scores_and_maps(model: FBClip, tiny: Golden) -> None:
    with torch.no_grad():
        predictions = model.model(tiny.images)
        patch_map = model.model.intermediate_outputs(tiny.images, model.model.text_features()).patch_map
    assert_meets(predictions.pred_score, tiny["pred_score"])
    assert_meets(patch_map, tiny["patch_map"])
    assert_meets(predictions.anomaly_map, tiny["anomaly_map_blurred"])


def test_training_step(make_model: Callable[[], FBClip], tiny: Golden) -> None:
    """Losses, gradient norms, and what the model gives after one step of Adam."""
    model = make_model()
    network = model.model
    (optimizer,) = [model.configure_optimizers()]
    outputs = network.intermediate_outputs(tiny.images, network.encode_text())
    parts = model.loss(outputs, tiny["label"], tiny["mask"].squeeze(1))
    for part, name in zip(parts, ("focal_label", "focal_mask", "dice_mask", "consistency"), strict=True):
        torch.testing.assert_close(part, tiny[f"loss.{name}"].squeeze(), rtol=1e-4, atol=0)
    torch.testing.assert_close(parts.total, tiny["loss.total"].squeeze(), rtol=1e-4, atol=0)

    parts.total.backward()
    expected = {name.removeprefix("grad_norm."): norm for name, norm in tiny.tensors.items() if "grad_norm" in name}
    norms = reference_names({name: parameter.grad.norm() for name, parameter in trainable(model).items()})
    assert norms.keys() == expected.keys()
    for name, norm in norms.items():
        # A softmax does not change when all of its logits move: the true gradient of that bias is zero.
        tolerance = {"rtol": 1e-4, "atol": 0} if expected[name] > 1e-6 else {"rtol": 0, "atol": 1e-6}
        torch.testing.assert_close(norm, expected[name].squeeze(), **tolerance)

    optimizer.step()
    with torch.no_grad():
        outputs = network.intermediate_outputs(tiny.images, network.text_features())
        parts = model.loss(outputs, tiny["label"], tiny["mask"].squeeze(1))
    assert_meets(outputs.class_score, tiny["after_step.pred_score"])
    assert_meets(outputs.patch_map, tiny["after_step.patch_map"])
    assert_meets(parts.consistency, tiny["after_step.consistency_loss"])


def trainable(model: LightningFBClip) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in model.model.named_parameters() if parameter.requires_grad}


def reference_names(named: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Bring values from our names to the reference's, by what a reference checkpoint turns into when it is read."""
    renamed = {}
    for name, value in named.items():
        renamed[NAMES[name]] = value
    return renamed


NAMES = {
    "prompt_learner.normal_context": "ctx_pos",
    "prompt_learner.abnormal_context": "ctx_neg",
    "alignment.scale_weights": "scale_weights",
    "mvfbe.attention.norm.weight": "fb_Attention.norm.weight",
    "mvfbe.attention.norm.bias": "fb_Attention.norm.bias",
}
for _kind in ("weight", "bias"):
    for _index in (0, 2):
        NAMES[f"mvfbe.attention.gate.{_index}.{_kind}"] = f"fb_Attention.gate.{_index}.{_kind}"
        NAMES[f"text_fusion.strategies.attention.selector.{_index}.{_kind}"] = f"token_selector.{_index}.{_kind}"
        NAMES[f"text_fusion.strategies.attention.mlp.{_index}.{_kind}"] = f"text_projection_mlp.{_index}.{_kind}"
    for _ours, _theirs in (("foreground", "fg"), ("background", "bg")):
        NAMES[f"mvfbe.attention.{_ours}.norm.{_kind}"] = f"fb_Attention.{_theirs}_norm.{_kind}"
        NAMES[f"mvfbe.attention.{_ours}.to_out.{_kind}"] = f"fb_Attention.{_theirs}_to_out.0.{_kind}"
for _ours, _theirs in (("foreground", "fg"), ("background", "bg")):
    NAMES[f"mvfbe.attention.{_ours}.scale"] = f"fb_Attention.{_theirs}_scale"
    for _kind in "qkv":
        NAMES[f"mvfbe.attention.{_ours}.to_{_kind}.weight"] = f"fb_Attention.{_theirs}_to_{_kind}.weight"


def test_reference_checkpoint(make_model: Callable[[], FBClip], golden: Path) -> None:
    """The checkpoint that the reference itself saved holds the same adapters as ours of the same names."""
    model = make_model()
    expected = {name: tensor.clone() for name, tensor in adapter_tensors(model.model).items()}
    adapters = Adapters.read(golden / "tiny_reference_checkpoint.pth")
    assert adapters.metadata == {"source": "mvtec"}
    adapters.load_into(model.model)
    for name, tensor in adapter_tensors(model.model).items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.slow
def test_vit_l_14_336(tmp_path: Path) -> None:
    """The paper's architecture at 518 pixels, with the default arguments."""
    golden = Golden("vit_l_14_336")
    pretrained = golden.write_clip_weights(tmp_path, "ViT-L-14-336")
    weights = save_as_numpy_1(golden.reference_checkpoint(), tmp_path / "reference.pth")
    model = FBClip(pretrained=pretrained, weights=weights)
    assert model.image_size == (518, 518)
    assert model.model.backbone.feature_layers == (1, 6, 12, 18, 24)
    with torch.no_grad():
        predictions = model.model(golden.images)
    assert_meets(model.model.text_features(), golden["text_features"])
    assert_meets(predictions.pred_score, golden["pred_score"])
    assert_meets(predictions.anomaly_map, golden["anomaly_map_blurred"])


def test_parts_can_be_exchanged(make_model: Callable[[], FBClip], tiny: Golden) -> None:
    """A view handed in from Python takes the place of the paper's. The other parts are the paper's."""
    model = make_model()
    backbone, tokenizer = model.model.backbone, open_clip.get_tokenizer("ViT-L-14-336")
    views = create_views(["identity", "semantic", "spatial"])
    paper = create_model(backbone, tokenizer, views, STRATEGY_WEIGHTS)
    paper.load_state_dict(model.model.state_dict())
    views["semantic"] = views["identity"]
    other = create_model(backbone, tokenizer, views, STRATEGY_WEIGHTS)
    with torch.no_grad():
        assert_meets(paper(tiny.images).pred_score, tiny["pred_score"])
        assert_meets(paper(tiny.images).anomaly_map, tiny["anomaly_map_blurred"])
        changed = other.mvfbe(*backbone.encode_image(tiny.images))
    assert torch.equal(changed[0], changed[1])
    assert not torch.equal(changed[0], changed[2])
