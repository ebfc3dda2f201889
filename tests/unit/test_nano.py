# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""fbclip-nano, which comes with the package, and the files of its CLIP."""

import json
import socket
from pathlib import Path

import gdown
import open_clip
import pytest
import torch
from anomalib import LearningType
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from anomalib_fbclip import FBClip, FBClipModel, bundled
from anomalib_fbclip.checkpoints.adapters import Adapters, adapter_tensors
from anomalib_fbclip.checkpoints.clip_files import create_clip
from anomalib_fbclip.checkpoints.compact_clip import TOKEN_IDS, TOKEN_ROWS, VOCABULARY, read_clip, save_clip
from anomalib_fbclip.checkpoints.registry import default_pretrained, resolve_backbone, resolve_image_size
from anomalib_fbclip.modeling.clip import ClipBackbone
from anomalib_fbclip.modeling.prompt_learner import CONTEXT_LENGTH, tokenize_states
from support.small import write_backbone

VOCABULARY_SIZE = 49408


@pytest.fixture(scope="module")
def small_clip(small_backbone: str) -> open_clip.CLIP:
    return create_clip(resolve_backbone(small_backbone), None)


@pytest.fixture
def nano_clip() -> open_clip.CLIP:
    return create_clip(resolve_backbone(bundled.NAME), bundled.TAG)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))


class TestFilesOfClips:
    @settings(max_examples=15, deadline=None)
    @given(ids=st.sets(st.integers(0, VOCABULARY_SIZE - 1), min_size=1, max_size=40), seed=st.integers(0, 2**32 - 1))
    def test_round_trip(self, small_backbone: str, folder: Path, ids: set[int], seed: int) -> None:
        clip = create_clip(resolve_backbone(small_backbone), None)
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in clip.parameters():
                parameter.normal_(std=10.0 ** torch.randint(-5, 4, ()))
        save_clip(clip, ids, folder / "round_trip.safetensors")
        tensors = read_clip(folder / "round_trip.safetensors")
        expected = clip.state_dict()
        del expected["logit_scale"]
        expected[VOCABULARY] = torch.zeros(VOCABULARY_SIZE, 32)
        expected[VOCABULARY][list(ids)] = clip.token_embedding.weight.detach()[list(ids)]
        assert tensors.keys() == expected.keys()
        for name, tensor in tensors.items():
            assert tensor.dtype == torch.float32
            assert torch.equal(tensor, expected[name].half().float()), name

    def test_what_was_read_is_saved_unchanged(self, nano_clip: open_clip.CLIP, tmp_path: Path) -> None:
        ids = load_file(bundled.CLIP_FILE)[TOKEN_IDS].tolist()
        save_clip(nano_clip, ids, tmp_path / "again.safetensors")
        again, packaged = read_clip(tmp_path / "again.safetensors"), read_clip(bundled.CLIP_FILE)
        assert again.keys() == packaged.keys()
        assert all(torch.equal(again[name], packaged[name]) for name in again)

    def test_the_vocabulary_is_compact(self, small_clip: open_clip.CLIP, tmp_path: Path) -> None:
        save_clip(small_clip, [7, 3, 7], tmp_path / "clip.safetensors")
        tensors = load_file(tmp_path / "clip.safetensors")
        assert tensors[TOKEN_IDS].dtype == torch.int32
        assert tensors[TOKEN_IDS].tolist() == [3, 7]
        assert tensors[TOKEN_ROWS].shape == (2, 32)
        assert {tensor.dtype for name, tensor in tensors.items() if name != TOKEN_IDS} == {torch.float16}
        assert not {VOCABULARY, "logit_scale", "attn_mask"} & tensors.keys()

    @pytest.mark.parametrize("ids", [[], [-1], [VOCABULARY_SIZE], [3, VOCABULARY_SIZE + 5]])
    def test_unusable_ids(self, small_clip: open_clip.CLIP, tmp_path: Path, ids: list[int]) -> None:
        with pytest.raises(ValueError, match="ids of tokens from 0 to 49407"):
            save_clip(small_clip, ids, tmp_path / "clip.safetensors")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
    def test_what_has_no_half_precision(self, small_backbone: str, tmp_path: Path, value: float) -> None:
        clip = create_clip(resolve_backbone(small_backbone), None)
        with torch.no_grad():
            clip.visual.proj[0, 0] = value
        with pytest.raises(ValueError, match=r"in half precision: visual\.proj would not be finite"):
            save_clip(clip, [1], tmp_path / "clip.safetensors")

    def test_another_suffix(self, small_clip: open_clip.CLIP, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"give '.*clip.safetensors' instead of '.*clip.pt'"):
            save_clip(small_clip, [1], tmp_path / "clip.pt")

    @pytest.mark.parametrize("length", [0, 7, 100, 5000, -1])
    def test_truncated(self, small_clip: open_clip.CLIP, tmp_path: Path, length: int) -> None:
        path = tmp_path / "clip.safetensors"
        save_clip(small_clip, [1, 2], path)
        path.write_bytes(path.read_bytes()[:length])
        with pytest.raises(ValueError, match=r"clip.safetensors' can't be read") as caught:
            read_clip(path)
        assert "\n" not in str(caught.value)
        with pytest.raises(ValueError, match="can't be read"):
            FBClip(backbone=bundled.NAME, pretrained=path, weights=None)

    def test_unreadable(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"none.safetensors' can't be read"):
            read_clip(tmp_path / "none.safetensors")
        save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
        with pytest.raises(ValueError, match=r"other.safetensors' were not saved by save_clip"):
            read_clip(tmp_path / "other.safetensors")

    def test_of_another_model(self, small_clip: open_clip.CLIP, tmp_path: Path) -> None:
        save_clip(small_clip, [1, 2], tmp_path / "clip.safetensors")
        with pytest.raises(
            ValueError, match=r"for backbone fbclip-nano does not fit this model\. missing: .*resblocks"
        ):
            create_clip(resolve_backbone(bundled.NAME), str(tmp_path / "clip.safetensors"))

    def test_as_pretrained_weights_of_any_backbone(
        self,
        small_backbone: str,
        small_clip: open_clip.CLIP,
        tmp_path: Path,
    ) -> None:
        save_clip(small_clip, [1, 2], tmp_path / "clip.safetensors")
        model = FBClip(backbone=small_backbone, pretrained=tmp_path / "clip.safetensors", weights=None)
        assert torch.equal(model.model.backbone.visual.proj, small_clip.visual.proj.half().float())


class TestBackbone:
    def test_it_is_found_by_its_name(self) -> None:
        assert resolve_backbone(bundled.NAME) == resolve_backbone(bundled.NAME) == resolve_backbone(bundled.CONFIG_FILE)
        assert resolve_image_size(bundled.NAME, None) == (128, 128)
        assert default_pretrained(bundled.NAME) == "procedural"

    def test_its_name_is_taken(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="name of another open_clip model, 'fbclip-nano'"):
            resolve_backbone(write_backbone(tmp_path, bundled.NAME))

    def test_its_weights_are_those_of_the_package(self, nano_clip: open_clip.CLIP) -> None:
        state = nano_clip.state_dict()
        packaged = read_clip(bundled.CLIP_FILE)
        assert state.keys() - packaged.keys() == {"logit_scale"}
        assert all(torch.equal(tensor, state[name]) for name, tensor in packaged.items())

    def test_unknown_weights(self) -> None:
        message = r"'openai' are neither a file nor one of the tags of fbclip-nano: \['procedural'\]"
        with pytest.raises(ValueError, match=message):
            FBClip(backbone=bundled.NAME, pretrained="openai", weights=None)

    def test_the_words_of_the_states_are_in_its_vocabulary(self, nano_clip: open_clip.CLIP) -> None:
        """And the padding, which the text tower sees too. The learned context takes the placeholders' places."""
        token_ids = tokenize_states(open_clip.get_tokenizer(bundled.NAME))
        read = torch.cat([token_ids[:, :1], token_ids[:, 1 + CONTEXT_LENGTH :]], dim=1).unique()
        assert set(read.tolist()) <= set(load_file(bundled.CLIP_FILE)[TOKEN_IDS].tolist())
        assert nano_clip.token_embedding.weight[read].any(dim=1).all()


@pytest.fixture
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise AssertionError((args, kwargs))

    monkeypatch.setattr(socket.socket, "connect", fail)
    monkeypatch.setattr(socket, "getaddrinfo", fail)
    monkeypatch.setattr("anomalib_fbclip.checkpoints.clip_files.download_pretrained", fail)
    monkeypatch.setattr(gdown, "download", fail)
    monkeypatch.setattr(gdown, "download_folder", fail)
    monkeypatch.setattr("anomalib_fbclip.lightning_model.fetch_published", fail)
    monkeypatch.setattr("anomalib_fbclip.lightning_model.get_pretrained_weights_dir", fail)


@pytest.mark.usefixtures("_no_network")
class TestModel:
    def test_the_defaults_find_what_comes_with_the_package(self, caplog: pytest.LogCaptureFixture) -> None:
        model = FBClip(backbone=bundled.NAME)
        assert model.pretrained == "procedural"
        assert torch.equal(model.model.backbone.visual.proj, read_clip(bundled.CLIP_FILE)["visual.proj"])
        packaged = Adapters.read(bundled.ADAPTERS_FILE)
        adapters = adapter_tensors(model.model)
        assert adapters.keys() == packaged.tensors.keys()
        assert all(torch.equal(tensor, packaged.tensors[name]) for name, tensor in adapters.items())
        warnings = [record for record in caplog.records if record.levelname == "WARNING"]
        assert not [record for record in warnings if record.name.startswith("anomalib_fbclip")]

    def test_it_is_zero_shot(self) -> None:
        model = FBClip(backbone=bundled.NAME)
        assert model.source == "procedural images"
        assert model.learning_type == LearningType.ZERO_SHOT

    def test_it_goes_through_the_same_classes(self) -> None:
        model = FBClip(backbone=bundled.NAME).model
        assert type(model) is FBClipModel
        assert type(model.backbone) is ClipBackbone

    def test_the_same_numbers_every_time(self, images: torch.Tensor) -> None:
        torch.manual_seed(1)
        first = FBClip(backbone=bundled.NAME).model(images)
        torch.manual_seed(2)
        second = FBClip(backbone=bundled.NAME).model(images)
        assert torch.equal(first.pred_score, second.pred_score)
        assert torch.equal(first.anomaly_map, second.anomaly_map)
        assert first.anomaly_map.shape == (2, 128, 128)

    @pytest.mark.parametrize("weights", ["mvtec", "visa"])
    def test_published_adapters_are_refused(self, weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr("anomalib_fbclip.checkpoints.building.create_clip")
        message = "fit backbone ViT-L-14-336 only, not 'fbclip-nano': set 'weights' to 'auto' for those that come with"
        with pytest.raises(ValueError, match=message) as caught:
            FBClip(backbone=bundled.NAME, weights=weights)
        assert "\n" not in str(caught.value)

    def test_its_adapters_fit_no_other_weights(self, nano_clip: open_clip.CLIP, tmp_path: Path) -> None:
        with torch.no_grad():
            nano_clip.visual.class_embedding.add_(1)
        path = tmp_path / "retrained.safetensors"
        save_clip(nano_clip, [1, 2], path)
        with pytest.raises(
            ValueError, match=r"'auto' holds adapters that were trained on other weights .*'procedural'"
        ):
            FBClip(backbone=bundled.NAME, pretrained=path)
        retrained = FBClip(backbone=bundled.NAME, pretrained=path, weights=None)
        assert torch.equal(retrained.model.backbone.visual.class_embedding, read_clip(path)["visual.class_embedding"])

    def test_adapters_name_no_path(self, tmp_path: Path) -> None:
        FBClip(backbone=bundled.NAME).save_adapters(tmp_path / "adapters.safetensors")
        for path in (bundled.ADAPTERS_FILE, tmp_path / "adapters.safetensors"):
            assert "/" not in json.dumps(Adapters.read(path).metadata)
        with safe_open(bundled.CLIP_FILE, "pt") as file:
            assert "/" not in json.dumps(file.metadata())
