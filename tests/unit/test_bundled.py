# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""fbclip-small, which comes with the package."""

import json
import socket
from pathlib import Path

import gdown
import open_clip
import pytest
import torch
from anomalib import LearningType
from safetensors import safe_open
from safetensors.torch import load_file

from anomalib_fbclip import FBClip, FBClipModel
from anomalib_fbclip.modeling.clip import ClipBackbone
from anomalib_fbclip.modeling.prompt_learner import CONTEXT_LENGTH, tokenize_states
from anomalib_fbclip.weights import bundled
from anomalib_fbclip.weights.adapters import Adapters, adapter_tensors
from anomalib_fbclip.weights.backbones import resolve_backbone, resolve_image_size
from anomalib_fbclip.weights.clip_files import TOKEN_IDS, create_clip, default_pretrained, read_clip, save_clip
from support.small import write_backbone


@pytest.fixture
def bundled_clip() -> open_clip.CLIP:
    return create_clip(resolve_backbone(bundled.NAME), bundled.TAG)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))


class TestBackbone:
    def test_it_is_found_by_its_name(self) -> None:
        assert resolve_backbone(bundled.NAME) == resolve_backbone(bundled.NAME) == resolve_backbone(bundled.CONFIG_FILE)
        assert resolve_image_size(bundled.NAME, None) == (224, 224)
        assert default_pretrained(bundled.NAME) == bundled.TAG

    def test_its_name_is_taken(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"another.* 'fbclip-small'"):
            resolve_backbone(write_backbone(tmp_path, bundled.NAME))

    def test_its_weights_are_those_of_the_package(self, bundled_clip: open_clip.CLIP) -> None:
        state = bundled_clip.state_dict()
        packaged = read_clip(bundled.CLIP_FILE)
        assert state.keys() - packaged.keys() == {"logit_scale"}
        assert all(torch.equal(tensor, state[name]) for name, tensor in packaged.items())

    def test_unknown_weights(self) -> None:
        message = r"'openai' are neither a file nor one of the tags of fbclip-small: \['dinov2_procedural'\]"
        with pytest.raises(ValueError, match=message):
            FBClip(backbone=bundled.NAME, pretrained="openai", weights=None)

    def test_the_words_of_the_states_are_in_its_vocabulary(self, bundled_clip: open_clip.CLIP) -> None:
        """And the padding, which the text tower sees too. The learned context takes the placeholders' places."""
        token_ids = tokenize_states(open_clip.get_tokenizer(bundled.NAME))
        read = torch.cat([token_ids[:, :1], token_ids[:, 1 + CONTEXT_LENGTH :]], dim=1).unique()
        assert set(read.tolist()) <= set(load_file(bundled.CLIP_FILE)[TOKEN_IDS].tolist())
        assert bundled_clip.token_embedding.weight[read].any(dim=1).all()


@pytest.fixture
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise AssertionError((args, kwargs))

    monkeypatch.setattr(socket.socket, "connect", fail)
    monkeypatch.setattr(socket, "getaddrinfo", fail)
    monkeypatch.setattr("anomalib_fbclip.weights.clip_files.download_pretrained", fail)
    monkeypatch.setattr(gdown, "download", fail)
    monkeypatch.setattr(gdown, "download_folder", fail)
    monkeypatch.setattr("anomalib_fbclip.weights.source.fetch_published", fail)
    monkeypatch.setattr("anomalib_fbclip.lightning.saving.get_pretrained_weights_dir", fail)


@pytest.mark.usefixtures("_no_network")
class TestModel:
    def test_the_defaults_find_what_comes_with_the_package(self, caplog: pytest.LogCaptureFixture) -> None:
        model = FBClip(backbone=bundled.NAME)
        assert model.pretrained == bundled.TAG
        assert torch.equal(model.model.backbone.visual.proj, read_clip(bundled.CLIP_FILE)["visual.proj"])
        packaged = Adapters.read(bundled.ADAPTERS_FILE)
        adapters = adapter_tensors(model.model)
        assert adapters.keys() == packaged.tensors.keys() - {"text_features"}
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
        assert first.anomaly_map.shape == (2, 224, 224)

    @pytest.mark.parametrize("weights", ["mvtec", "visa"])
    def test_published_adapters_are_refused(self, weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr("anomalib_fbclip.weights.backbones.create_clip")
        message = "fit backbone ViT-L-14-336 only, not 'fbclip-small': set 'weights' to 'auto' for those that come with"
        with pytest.raises(ValueError, match=message) as caught:
            FBClip(backbone=bundled.NAME, weights=weights)
        assert "\n" not in str(caught.value)

    def test_its_adapters_fit_no_other_weights(self, bundled_clip: open_clip.CLIP, tmp_path: Path) -> None:
        with torch.no_grad():
            bundled_clip.visual.class_embedding.add_(1)
        path = tmp_path / "retrained.safetensors"
        save_clip(bundled_clip, [1, 2], path)
        with pytest.raises(ValueError, match=r"other weights .*'dinov2_procedural'"):
            FBClip(backbone=bundled.NAME, pretrained=path)
        retrained = FBClip(backbone=bundled.NAME, pretrained=path, weights=None)
        assert torch.equal(retrained.model.backbone.visual.class_embedding, read_clip(path)["visual.class_embedding"])

    def test_adapters_name_no_path(self, tmp_path: Path) -> None:
        FBClip(backbone=bundled.NAME).save_adapters(tmp_path / "adapters.safetensors")
        for path in (bundled.ADAPTERS_FILE, tmp_path / "adapters.safetensors"):
            assert "/" not in json.dumps(Adapters.read(path).metadata)
        with safe_open(bundled.CLIP_FILE, "pt") as file:
            assert "/" not in json.dumps(file.metadata())
