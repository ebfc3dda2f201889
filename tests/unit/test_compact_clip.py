# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Files of CLIPs: matrices in 8 bits, all else in half precision, and a part of the vocabulary."""

from pathlib import Path

import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from anomalib_fbclip import FBClip
from anomalib_fbclip.weights import bundled
from anomalib_fbclip.weights.backbones import resolve_backbone
from anomalib_fbclip.weights.clip_files import (
    SCALE,
    TOKEN_IDS,
    TOKEN_ROWS,
    VOCABULARY,
    create_clip,
    read_clip,
    round_clip,
    save_clip,
)

VOCABULARY_SIZE = 49408


@pytest.fixture(scope="module")
def small_clip(small_backbone: str) -> open_clip.CLIP:
    return create_clip(resolve_backbone(small_backbone), None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


def randomize(clip: open_clip.CLIP, seed: int) -> open_clip.CLIP:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in clip.parameters():
            scale = 10.0 ** torch.randint(-3, 4, (), generator=generator).item()
            parameter.normal_(std=scale, generator=generator)
    return clip


def is_matrix(name: str, tensor: torch.Tensor) -> bool:
    return tensor.ndim > 1 and (".resblocks." in name or name == "visual.conv1.weight")


@settings(max_examples=15)
@given(ids=st.sets(st.integers(0, VOCABULARY_SIZE - 1), min_size=1, max_size=40), seed=st.integers(0, 2**32 - 1))
def test_round_trip(small_backbone: str, folder: Path, ids: set[int], seed: int) -> None:
    clip = randomize(create_clip(resolve_backbone(small_backbone), None), seed)
    save_clip(clip, ids, folder / "round_trip.safetensors")
    tensors = read_clip(folder / "round_trip.safetensors")
    expected = clip.state_dict()
    del expected["logit_scale"]
    expected[VOCABULARY] = torch.zeros(VOCABULARY_SIZE, 32)
    expected[VOCABULARY][list(ids)] = clip.token_embedding.weight.detach()[list(ids)]
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == torch.float32
        if is_matrix(name, tensor):
            largest = expected[name].flatten(1).abs().amax(dim=1, keepdim=True)
            errors = (tensor - expected[name]).flatten(1).abs()
            assert (errors <= 0.5 * 1.01 * largest / 127).all(), name
        else:
            assert torch.equal(tensor, expected[name].half().float()), name


def test_what_was_read_is_saved_unchanged(tmp_path: Path) -> None:
    clip = create_clip(resolve_backbone(bundled.NAME), bundled.TAG)
    ids = load_file(bundled.CLIP_FILE)[TOKEN_IDS].tolist()
    save_clip(clip, ids, tmp_path / "again.safetensors")
    again, packaged = load_file(tmp_path / "again.safetensors"), load_file(bundled.CLIP_FILE)
    assert again.keys() == packaged.keys()
    assert all(torch.equal(again[name], packaged[name]) for name in again)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15)
def test_a_rounded_clip_is_what_its_file_gives(small_backbone: str, folder: Path, seed: int) -> None:
    clip = randomize(create_clip(resolve_backbone(small_backbone), None), seed)
    round_clip(clip)
    rounded = {name: tensor.clone() for name, tensor in clip.state_dict().items()}
    save_clip(clip, range(VOCABULARY_SIZE), folder / "rounded.safetensors")
    tensors = read_clip(folder / "rounded.safetensors")
    assert rounded.keys() - tensors.keys() == {"logit_scale"}
    assert all(torch.equal(tensor, rounded[name]) for name, tensor in tensors.items())
    round_clip(clip)
    assert all(torch.equal(tensor, rounded[name]) for name, tensor in clip.state_dict().items())


def test_rounding_is_fine(small_backbone: str) -> None:
    """A step is the 127th part of a row's largest value: about 0.02 standard deviations."""
    clip = randomize(create_clip(resolve_backbone(small_backbone), None), seed=0)
    exact = {name: tensor.clone() for name, tensor in clip.state_dict().items()}
    round_clip(clip)
    for name, tensor in clip.state_dict().items():
        error = (tensor - exact[name]).norm() / exact[name].norm()
        assert error < (0.008 if is_matrix(name, tensor) else 0.0005), name


def test_rows_of_zeros_stay(small_backbone: str) -> None:
    clip = create_clip(resolve_backbone(small_backbone), None)
    matrix = clip.visual.transformer.resblocks[0].mlp.c_fc.weight
    with torch.no_grad():
        matrix[3] = 0
    round_clip(clip)
    assert not matrix[3].any()
    assert matrix[4].any()


def test_the_vocabulary_is_compact(small_clip: open_clip.CLIP, tmp_path: Path) -> None:
    save_clip(small_clip, [7, 3, 7], tmp_path / "clip.safetensors")
    tensors = load_file(tmp_path / "clip.safetensors")
    assert tensors[TOKEN_IDS].dtype == torch.int32
    assert tensors[TOKEN_IDS].tolist() == [3, 7]
    assert tensors[TOKEN_ROWS].shape == (2, 32)
    matrices = {name.removesuffix(SCALE) for name in tensors if name.endswith(SCALE)}
    assert "visual.conv1.weight" in matrices
    assert "transformer.resblocks.1.mlp.c_proj.weight" in matrices
    for name, tensor in tensors.items():
        if name != TOKEN_IDS and not name.endswith(SCALE):
            assert tensor.dtype == (torch.int8 if name in matrices else torch.float16), name
    assert not {VOCABULARY, "logit_scale", "attn_mask"} & tensors.keys()


@pytest.mark.parametrize("ids", [[], [-1], [VOCABULARY_SIZE], [3, VOCABULARY_SIZE + 5]])
def test_unusable_ids(small_clip: open_clip.CLIP, tmp_path: Path, ids: list[int]) -> None:
    with pytest.raises(ValueError, match="token ids from 0 to 49407"):
        save_clip(small_clip, ids, tmp_path / "clip.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("visual.proj", float("nan")),
        ("visual.proj", float("inf")),
        ("visual.proj", 1e6),
        ("visual.conv1.weight", float("nan")),
        ("visual.conv1.weight", float("inf")),
    ],
)
def test_what_cannot_be_rounded(small_backbone: str, tmp_path: Path, name: str, value: float) -> None:
    clip = create_clip(resolve_backbone(small_backbone), None)
    with torch.no_grad():
        clip.get_parameter(name).view(-1)[5] = value
    with pytest.raises(ValueError, match=f"{name}.* finite"):
        save_clip(clip, [1], tmp_path / "clip.safetensors")
    with pytest.raises(ValueError, match="would not be finite"):
        round_clip(clip)


def test_another_suffix(small_clip: open_clip.CLIP, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"clip\.safetensors"):
        save_clip(small_clip, [1], tmp_path / "clip.pt")


@pytest.mark.parametrize("length", [0, 7, 100, 5000, -1])
def test_truncated(small_clip: open_clip.CLIP, tmp_path: Path, length: int) -> None:
    path = tmp_path / "clip.safetensors"
    save_clip(small_clip, [1, 2], path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"clip.safetensors' can't be read") as caught:
        read_clip(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="can't be read"):
        FBClip(backbone=bundled.NAME, pretrained=path, weights=None)


def test_unreadable(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none.safetensors' can't be read"):
        read_clip(tmp_path / "none.safetensors")
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="save_clip"):
        read_clip(tmp_path / "other.safetensors")


def test_of_another_model(small_clip: open_clip.CLIP, tmp_path: Path) -> None:
    save_clip(small_clip, [1, 2], tmp_path / "clip.safetensors")
    with pytest.raises(ValueError, match=r"missing: .*resblocks"):
        create_clip(resolve_backbone(bundled.NAME), str(tmp_path / "clip.safetensors"))


def test_as_pretrained_weights_of_any_backbone(
    small_backbone: str,
    small_clip: open_clip.CLIP,
    tmp_path: Path,
) -> None:
    save_clip(small_clip, [1, 2], tmp_path / "clip.safetensors")
    model = FBClip(backbone=small_backbone, pretrained=tmp_path / "clip.safetensors", weights=None)
    assert torch.equal(model.model.backbone.visual.proj, small_clip.visual.proj.half().float())
