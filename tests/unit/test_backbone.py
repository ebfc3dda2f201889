# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The frozen CLIP: what can be a backbone, which weights it gets, and what it computes."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import open_clip
import open_clip.pretrained
import pytest
import torch
from safetensors.torch import save_file

from anomalib_fbclip.errors import WeightsUnavailableError
from anomalib_fbclip.modeling.clip import ClipBackbone, DeferredText, patch_grid
from anomalib_fbclip.weights import bundled
from anomalib_fbclip.weights.backbones import (
    resolve_backbone,
    resolve_feature_layers,
    resolve_image_size,
)
from anomalib_fbclip.weights.clip_files import create_clip, default_pretrained
from support.small import CONFIG, write_backbone


@pytest.fixture(scope="module")
def name(small_backbone: str) -> str:
    return resolve_backbone(small_backbone)


@pytest.fixture
def clip(name: str) -> torch.nn.Module:
    return create_clip(name, None)


def test_a_model_of_open_clip_is_found_by_its_name(name: str) -> None:
    """Also one that was added by open_clip.add_model_config, as a path adds it."""
    assert resolve_backbone("ViT-B-16") == "ViT-B-16"
    assert resolve_backbone(name) == "fbclip-test-small"


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("ViT-L-14-333", "'ViT-L-14-333'.*ViT-L-14-336"),
        ("fbclip_small", "'fbclip_small'.*fbclip-small"),
        ("RN50", "'RN50' has no vision transformer"),
        ("convnext_base", "no vision transformer"),
        ("coca_ViT-B-32", "pools its image tokens by attention"),
        ("roberta-ViT-B-32", "text tower of another library"),
        ("missing.json", "missing.json can't be read"),
    ],
)
def test_unusable_backbones(backbone: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve_backbone(backbone)


def test_unusable_configs(tmp_path: Path, name: str) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    with pytest.raises(ValueError, match="can't be read"):
        resolve_backbone(broken)
    broken.write_text('{"embed_dim": 1}')
    with pytest.raises(ValueError, match="needs embed_dim"):
        resolve_backbone(broken)
    taken = write_backbone(tmp_path, name, embed_dim=8)
    with pytest.raises(ValueError, match="name of another open_clip model"):
        resolve_backbone(taken)


def test_image_size(name: str) -> None:
    assert resolve_image_size("ViT-L-14-336", None) == (518, 518)
    assert resolve_image_size("ViT-B-16", None) == (224, 224)
    assert resolve_image_size(name, 98) == (98, 98)
    assert resolve_image_size(name, [42, 98]) == (42, 98)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (100, "size of 100 .*14 x 14.*Give 98, say"),
        ((98, 99), "height 98 and width 99 does not fit"),
        (14, "at least 3 patches"),
        (0, "neither a side nor"),
        ((14, 14, 14), "neither a side nor"),
    ],
)
def test_unusable_image_sizes(name: str, size: int | tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve_image_size(name, size)


def test_feature_layers(name: str) -> None:
    assert resolve_feature_layers("ViT-L-14-336", None, 6) == (1, 6, 12, 18, 24)
    assert resolve_feature_layers("ViT-B-16", None, 6) == (1, 3, 6, 9, 12)
    assert resolve_feature_layers(name, None, 6) == (1, 2, 3, 4)
    assert resolve_feature_layers(name, [2, 4], 6) == (2, 4)


@pytest.mark.parametrize("layers", [[], [0, 1], [1, 5], [2, 1], [1, 1], [1, 2, 3, 4]])
def test_unusable_feature_layers(name: str, layers: list[int]) -> None:
    with pytest.raises(ValueError, match=r"1 to 3 of the layers 1 to 4"):
        resolve_feature_layers(name, layers, max_layers=3)


def test_usual_weights(name: str) -> None:
    assert default_pretrained("ViT-L-14-336") == "openai"
    assert default_pretrained("ViT-H-14") == "laion2b_s32b_b79k"
    assert default_pretrained(name) is None


def test_random_weights_are_always_the_same(name: str) -> None:
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = create_clip(name, None).state_dict()
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    second = create_clip(name, None).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("kind", ["safetensors", "state dict", "training checkpoint", "OpenAI archive"])
def test_weights_from_a_file(tmp_path: Path, name: str, kind: str) -> None:
    state = {key: torch.randn_like(tensor) for key, tensor in create_clip(name, None).state_dict().items()}
    path = tmp_path / "weights.pt"
    if kind == "safetensors":
        path = path.with_suffix(".safetensors")
        save_file(state, path)
    elif kind == "state dict":
        torch.save(state, path)
    elif kind == "training checkpoint":
        torch.save({"epoch": 3, "state_dict": {f"module.{key}": tensor for key, tensor in state.items()}}, path)
    else:
        torch.jit.script(as_module(state | {"input_resolution": torch.tensor(56)})).save(path)
    loaded = create_clip(name, str(path)).state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in state if key != "logit_scale")


@pytest.mark.parametrize("custom_text", [False, True])
def test_a_clip_from_a_file_is_whole(tmp_path: Path, custom_text: bool) -> None:
    """It computes what the saved one does: also what no file holds, such as the causal mask of its text tower."""
    name = resolve_backbone(write_backbone(tmp_path, f"fbclip-test-whole-{custom_text}", custom_text=custom_text))
    saved = create_clip(name, None).eval()
    path = tmp_path / "weights.safetensors"
    save_file({key: tensor.clone() for key, tensor in saved.state_dict().items()}, path)
    torch.manual_seed(1)
    random_state = torch.random.get_rng_state()
    loaded = create_clip(name, str(path)).eval()
    assert torch.equal(torch.random.get_rng_state(), random_state)
    images, tokens = torch.randn(2, 3, 56, 56), torch.randint(1, 49408, (2, 77))
    for expected, actual in zip(saved(images, tokens), loaded(images, tokens), strict=True):
        assert torch.equal(actual, expected)
    buffers = dict(loaded.named_buffers())
    assert buffers.keys() == dict(saved.named_buffers()).keys()
    assert all(torch.equal(buffers[key], buffer) for key, buffer in saved.named_buffers())
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def as_module(state: dict[str, torch.Tensor]) -> torch.nn.Module:
    """Build a module without code that has these tensors, as in the archives that OpenAI publishes."""
    root = torch.nn.Module()
    for key, tensor in state.items():
        module = root
        *parents, last = key.split(".")
        for parent in parents:
            if not hasattr(module, parent):
                module.add_module(parent, torch.nn.Module())
            module = getattr(module, parent)
        module.register_buffer(last, tensor)
    return root


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "tags of ViT-B-16: .*'openai'"),
        (b"not weights", "can't be read"),
        (b"", "can't be read"),
    ],
)
def test_unusable_files(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "weights.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        create_clip("ViT-B-16", str(path))


def test_a_file_of_another_model(tmp_path: Path, name: str, clip: torch.nn.Module) -> None:
    state = {key: tensor.clone() for key, tensor in clip.state_dict().items()}
    state["visual.proj"] = torch.zeros(3, 3)
    state["surprise"] = state.pop("ln_final.weight")
    path = tmp_path / "weights.safetensors"
    save_file(state, path)
    message = r"missing: ln_final.weight; unknown: surprise; wrong shape: visual.proj is \[3, 3\], not \[64, 32\]"
    with pytest.raises(ValueError, match=message):
        create_clip(name, str(path))


def test_files_with_code_are_not_run(tmp_path: Path, name: str) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"state_dict": Path("a class that is no tensor")}, path)
    with pytest.raises(ValueError, match="can't be read"):
        create_clip(name, str(path))


def test_the_file_of_openai_weights_means_quick_gelu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """open_clip's config of ViT-L-14-336 says GELU, and its tag says otherwise."""
    asked = []
    monkeypatch.setattr(open_clip, "create_model", lambda *args, **kwargs: asked.append((args, kwargs)) or 1 / 0)
    path = tmp_path / "weights.safetensors"
    save_file({"visual.proj": torch.zeros(1)}, path)
    monkeypatch.setattr("anomalib_fbclip.weights.clip_files.download_pretrained", lambda _: str(path))
    for pretrained in (str(path), "openai"):
        with pytest.raises(ZeroDivisionError):
            create_clip("ViT-L-14-336", pretrained)
    assert [kwargs["force_quick_gelu"] for _, kwargs in asked] == [True, True]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A local stand-in for where open_clip fetches weights: its folder and its address."""
    folder = tmp_path / "server"
    folder.mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http_server:
        threading.Thread(target=http_server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{http_server.server_port}"
        http_server.shutdown()


def test_weights_of_a_tag_are_fetched_once(
    tmp_path: Path,
    server: tuple[Path, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """open_clip's own code fetches them into its cache."""
    name = resolve_backbone(write_backbone(tmp_path, "fbclip-test-published"))
    state = {key: torch.randn_like(tensor) for key, tensor in create_clip(name, None).state_dict().items()}
    folder, address = server
    torch.save(state, folder / "weights.pt")
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, name, {"published": {"url": f"{address}/weights.pt"}})
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_pretrained(name) == "published"
    fetched = create_clip(name, "published").state_dict()
    assert all(torch.equal(fetched[key], state[key]) for key in state)
    (folder / "weights.pt").unlink()
    again = create_clip(name, "published").state_dict()
    assert all(torch.equal(again[key], state[key]) for key in state)


def test_weights_of_a_tag_that_are_damaged(
    tmp_path: Path,
    server: tuple[Path, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The error names the file in open_clip's cache, which has to be removed."""
    name = resolve_backbone(write_backbone(tmp_path, "fbclip-test-damaged"))
    folder, address = server
    (folder / "damaged.pt").write_bytes(b"<html>quota exceeded</html>")
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, name, {"published": {"url": f"{address}/damaged.pt"}})
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with pytest.raises(ValueError, match=rf"{tmp_path}/home/.*/damaged\.pt can't be read"):
        create_clip(name, "published")


def test_weights_of_a_tag_that_are_gone(
    tmp_path: Path,
    server: tuple[Path, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = resolve_backbone(write_backbone(tmp_path, "fbclip-test-gone"))
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, name, {"published": {"url": f"{server[1]}/weights.pt"}})
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with pytest.raises(RuntimeError, match=r"fbclip-test-gone.*404"):
        create_clip(name, "published")


def test_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        msg = "no route to host"
        raise OSError(msg)

    monkeypatch.setattr("anomalib_fbclip.weights.clip_files.download_pretrained", fail)
    monkeypatch.setenv("HOME", "/home/somebody")
    with pytest.raises(WeightsUnavailableError, match="no route to host") as caught:
        create_clip("ViT-B-16", "openai")
    message = str(caught.value)
    assert "ViT-B-16.pt by hand to '/home/somebody/.cache/clip/ViT-B-16.pt'" in message
    assert message.endswith(f"Or give a file as 'pretrained'. --model.backbone {bundled.NAME} needs no network.")
    assert caught.value.message.endswith("ViT-B-16.pt'.")
    with pytest.raises(WeightsUnavailableError, match=r"open_clip_\S+ of timm/ViT-B-16-SigLIP.*hub'"):
        create_clip("ViT-B-16-SigLIP", "webli")


def test_the_backbone_is_frozen(clip: torch.nn.Module) -> None:
    backbone = ClipBackbone(clip, [1, 4])
    backbone.train()
    assert not any(module.training for module in backbone.modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    tokens, _ = backbone.encode_image(torch.randn(1, 3, 56, 56, requires_grad=True))
    assert not any(token.requires_grad for token in tokens)


@pytest.mark.parametrize("is_deferred", [False, True])
def test_of_half_precision_are_matrices_alone(clip: torch.nn.Module, is_deferred: bool) -> None:
    """Whether the text tower comes with the image tower or later."""
    deferred = DeferredText(CONFIG["text_cfg"]["width"], lambda: clip) if is_deferred else None
    backbone = ClipBackbone(clip, [1], torch.bfloat16, deferred)
    backbone.load_text_tower()
    assert any(name.startswith("transformer.") for name, _ in backbone.named_parameters())
    for name, parameter in backbone.named_parameters():
        assert parameter.dtype == (torch.bfloat16 if parameter.ndim > 1 else torch.float32), name


def test_the_signature_is_of_four_weights_of_two_parameters(clip: torch.nn.Module) -> None:
    with torch.no_grad():
        clip.visual.class_embedding[:5] = torch.tensor([0.12344, 0.2, 0.3, 0.4, 9])
        clip.visual.proj[0, :5] = torch.tensor([0.5, 0.6, 0.7, 0.81236, 9])
    assert ClipBackbone(clip, [1]).signature == [0.1234, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8124]


def test_three_patches_are_enough() -> None:
    assert patch_grid((14, 42), (14, 14)) == (1, 3)
    with pytest.raises(ValueError, match="at least 3 patches"):
        patch_grid((14, 28), (14, 14))


def test_layer_tokens_are_those_of_open_clip(clip: torch.nn.Module) -> None:
    """At the backbone's own size: what open_clip's blocks give, and at the end of it its image features."""
    captured = {}
    for layer in (2, 4):
        clip.visual.transformer.resblocks[layer - 1].register_forward_hook(
            lambda module, args, output, layer=layer: captured.update({layer: output}),
        )
    backbone = ClipBackbone(clip.eval(), [2, 4])
    images = torch.randn(3, 3, 56, 56)
    tokens, _ = backbone.encode_image(images)
    assert [token.shape for token in tokens] == [(3, 17, 64)] * 2
    captured.clear()
    with torch.no_grad():
        features = clip.encode_image(images)
    for layer, token in zip((2, 4), tokens, strict=True):
        expected = captured[layer]
        expected = expected if expected.shape[0] == 3 else expected.transpose(0, 1)
        torch.testing.assert_close(token, expected)
    torch.testing.assert_close(backbone.project_image(clip.visual.ln_post(tokens[-1][:, 0])), features)


def test_text_states_without_the_causal_mask(clip: torch.nn.Module) -> None:
    """A change of the last position reaches the first one."""
    backbone = ClipBackbone(clip, [4])
    prompts = torch.randn(2, 77, 32)
    changed = prompts.clone()
    changed[:, -1] = torch.randn(2, 32)
    assert not torch.allclose(backbone.encode_prompts(prompts)[:, 0], backbone.encode_prompts(changed)[:, 0])


def test_images_that_are_not_square(clip: torch.nn.Module) -> None:
    backbone = ClipBackbone(clip, [4])
    tokens, grid = backbone.encode_image(torch.randn(1, 3, 28, 98))
    assert tokens[0].shape == (1, 1 + 2 * 7, 64)
    assert grid == (2, 7)
    with pytest.raises(ValueError, match="height 30 and width 98 does not fit"):
        backbone.encode_image(torch.randn(1, 3, 30, 98))


def test_text_tower_of_its_own_module(tmp_path: Path) -> None:
    """open_clip keeps the text tower of some models under 'text'; the numbers are the same."""
    custom = resolve_backbone(write_backbone(tmp_path, "fbclip-test-custom-text", custom_text=True))
    plain = resolve_backbone(write_backbone(tmp_path, "fbclip-test-plain-text"))
    weights = tmp_path / "weights.safetensors"
    state = create_clip(plain, None).state_dict()
    save_file({key: tensor.clone() for key, tensor in state.items()}, weights)
    prompts = torch.randn(2, CONFIG["text_cfg"]["context_length"], CONFIG["text_cfg"]["width"])
    backbones = [ClipBackbone(create_clip(name, str(weights)), [4]) for name in (custom, plain)]
    torch.testing.assert_close(*(backbone.encode_prompts(prompts) for backbone in backbones))
