# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Adapters in files, and the authors' published ones."""

from collections import OrderedDict
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import gdown
import pytest
import torch
from gdown.exceptions import DownloadError
from safetensors import safe_open
from safetensors.torch import save_file

from anomalib_fbclip import FBClip
from anomalib_fbclip.errors import WeightsUnavailableError
from anomalib_fbclip.weights.adapters import PUBLISHED, Adapters, adapter_tensors
from anomalib_fbclip.weights.backbones import resolve_backbone
from anomalib_fbclip.weights.clip_files import create_clip
from anomalib_fbclip.weights.source import fetch_published
from support.golden import Golden, save_as_numpy_1


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reference") / "reference.pth"
    return save_as_numpy_1(Golden("tiny").reference_checkpoint(), path)


def test_reading_a_reference_checkpoint(reference: Path) -> None:
    adapters = Adapters.read(reference)
    assert adapters.metadata == {"source": "mvtec"}
    assert adapters.tensors["prompt_learner.normal_context"].shape == (12, 64)
    assert not any("compound" in name or "fusion_weight" in name for name in adapters.tensors)


def test_only_the_numpy_scalar_is_allowed(tmp_path: Path) -> None:
    checkpoint = Golden("tiny").reference_checkpoint()
    checkpoint["epoch"] = Path("code that a pickle could run")
    torch.save(checkpoint, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match=r"bad\.pth.*run code"):
        Adapters.read(tmp_path / "bad.pth")


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (None, "none.pth", "not exist.* 'auto', 'mvtec'"),
        (b"", "empty.pth", "can't be read"),
        (b"PK\x03\x04 truncated", "truncated.pth", "can't be read"),
        (b"", "empty.safetensors", "can't be read"),
        (b"<html>quota exceeded</html>", "page.pth", "can't be read"),
    ],
)
def test_unreadable_files(tmp_path: Path, content: bytes | None, name: str, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        Adapters.read(tmp_path / name)


def test_foreign_files(tmp_path: Path) -> None:
    torch.save({"state_dict": OrderedDict(weight=torch.zeros(1))}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="checkpoint of FB-CLIP"):
        Adapters.read(tmp_path / "other.pth")
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="save_adapters"):
        Adapters.read(tmp_path / "other.safetensors")


def test_a_reference_checkpoint_of_another_backbone(reference: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused before a CLIP is fetched and built."""
    monkeypatch.delattr("anomalib_fbclip.weights.backbones.create_clip")
    message = r"another backbone, with widths \(image, text, joint\) \[128, 64, 768\] instead of \[1024, 768, 768\]"
    with pytest.raises(ValueError, match=message):
        FBClip(weights=reference)


def test_a_reference_checkpoint_of_other_shapes_and_names(tmp_path: Path) -> None:
    backbone = str(Golden("tiny").write_clip_config(tmp_path))
    checkpoint = Golden("tiny").reference_checkpoint()
    checkpoint["model_trainable_params"]["fb_Attention.fg_to_q.weight"] = torch.zeros(3, 128)
    checkpoint["model_trainable_params"]["surprise"] = torch.zeros(1)
    del checkpoint["model_trainable_params"]["scale_weights"]
    path = save_as_numpy_1(checkpoint, tmp_path / "reference.pth")
    message = r"missing: alignment\.scale_weights; unknown: surprise; wrong shape: mvfbe.attention.foreground.to_q"
    with pytest.raises(ValueError, match=message):
        FBClip(backbone=backbone, weights=path)


def test_saving_and_loading(tmp_path: Path, small_backbone: str) -> None:
    model = FBClip(backbone=small_backbone, weights=None, seed=3)
    model.source = "MVTecAD"
    path = tmp_path / "new folder" / "adapters.safetensors"
    model.save_adapters(path)
    with safe_open(path, "pt") as file:
        assert sorted(file.keys()) == sorted([*adapter_tensors(model.model), "text_features"])
    loaded = FBClip(backbone=small_backbone, weights=path)
    assert loaded.source == "MVTecAD"
    for name, tensor in adapter_tensors(model.model).items():
        assert torch.equal(adapter_tensors(loaded.model)[name], tensor)
    metadata = Adapters.read(path).metadata
    assert metadata["backbone"] == "fbclip-test-small"
    assert metadata["pretrained"] is None
    assert metadata["image_size"] == [56, 56]
    assert metadata["feature_layers"] == [1, 2, 3, 4]
    assert metadata["version"] == version("anomalib-fbclip")


def test_others_may_read_what_is_saved(tmp_path: Path, small_adapters: Path) -> None:
    """As far as the user's mask of permissions allows: a service on a line has another user."""
    plain = tmp_path / "plain"
    plain.touch()
    assert small_adapters.stat().st_mode == plain.stat().st_mode


@pytest.mark.usefixtures("full_disk")
def test_saving_keeps_what_stood_there_when_the_disk_is_full(tmp_path: Path, small_backbone: str) -> None:
    model = FBClip(backbone=small_backbone, weights=None)
    path = tmp_path / "adapters.safetensors"
    path.write_text("the old file")
    with pytest.raises(OSError, match=rf"{tmp_path} .* [\d,]+ MB left"):
        model.save_adapters(path)
    assert path.read_text() == "the old file"
    assert list(tmp_path.iterdir()) == [path]


def test_saving_to_another_format(tmp_path: Path, small_backbone: str) -> None:
    with pytest.raises(ValueError, match=r"adapters\.safetensors"):
        FBClip(backbone=small_backbone, weights=None).save_adapters(tmp_path / "adapters.pth")


def test_adapters_of_another_backbone(small_adapters: Path) -> None:
    message = "holds adapters of backbone 'fbclip-test-small', but this model has 'ViT-B-32'"
    with pytest.raises(ValueError, match=message):
        FBClip(backbone="ViT-B-32", pretrained=None, weights=small_adapters)


def test_adapters_of_other_clip_weights(tmp_path: Path, small_backbone: str, small_adapters: Path) -> None:
    state = create_clip(resolve_backbone(small_backbone), None).state_dict()
    clip = {name: tensor + 1 for name, tensor in state.items()}
    save_file(clip, tmp_path / "clip.safetensors")
    with pytest.raises(ValueError, match=r"other weights of the backbone"):
        FBClip(backbone=small_backbone, pretrained=tmp_path / "clip.safetensors", weights=small_adapters)


def test_adapters_of_other_feature_layers(
    small_backbone: str,
    small_adapters: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    FBClip(backbone=small_backbone, weights=small_adapters, feature_layers=[2, 4])
    assert "was trained on feature layers [1, 2, 3, 4], but [2, 4] are used" in caplog.text


class Drive:
    """A local stand-in for the authors' Google Drive folder."""

    def __init__(self, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
        self.files = files
        self.fetched: list[str] = []
        monkeypatch.setattr(gdown, "download_folder", self.download_folder)
        monkeypatch.setattr(gdown, "download", self.download)

    def download_folder(
        self,
        *,
        id: str,  # noqa: A002
        skip_download: bool,
        quiet: bool,
        use_cookies: bool,
    ) -> list[SimpleNamespace]:
        assert id == "1YnNLLfdoQFNlvFB8ez_3XZ9Ox5ZrGDCa"
        assert skip_download
        assert quiet
        assert not use_cookies
        return [SimpleNamespace(id=f"id of {name}", path=f"weights/{name}") for name in self.files]

    def download(self, *, id: str, output: str, use_cookies: bool) -> str:  # noqa: A002
        assert not use_cookies
        name = id.removeprefix("id of ")
        self.fetched.append(name)
        Path(output).write_bytes(self.files[name])
        return output


def test_fetching_published_adapters(tmp_path: Path, reference: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drive = Drive({"readme.txt": b"", **dict.fromkeys(PUBLISHED.values(), reference.read_bytes())}, monkeypatch)
    folder = tmp_path / "cache" / "fbclip"
    path = fetch_published("visa", folder)
    assert path == folder / "visa_epoch_2_model.pth"
    assert path.read_bytes() == reference.read_bytes()
    fetch_published("visa", folder)
    assert drive.fetched == ["visa_epoch_2_model.pth"]
    assert list(folder.iterdir()) == [path]


def test_published_adapters_that_were_put_there_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drive = Drive({}, monkeypatch)
    path = tmp_path / "mvtec_epoch_1_model.pth"
    path.write_bytes(b"by hand")
    assert fetch_published("mvtec", tmp_path) == path
    assert not drive.fetched


def test_a_page_instead_of_the_file_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Drive(dict.fromkeys(PUBLISHED.values(), b"<html>too many downloads</html>"), monkeypatch)
    with pytest.raises(WeightsUnavailableError, match="could not be fetched"):
        fetch_published("mvtec", tmp_path)
    assert not list(tmp_path.iterdir())


def test_another_folder_than_expected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Drive({"new_name.pth": b""}, monkeypatch)
    message = r"the folder holds \['new_name.pth'\], not mvtec_epoch_1_model.pth"
    with pytest.raises(WeightsUnavailableError, match=message):
        fetch_published("mvtec", tmp_path)


@pytest.mark.parametrize("error", [OSError("network is unreachable"), DownloadError("cannot retrieve")])
def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(**kwargs: object) -> None:
        raise error

    monkeypatch.setattr(gdown, "download_folder", fail)
    with pytest.raises(WeightsUnavailableError) as caught:
        fetch_published("mvtec", tmp_path / "cache")
    message = str(caught.value)
    assert "\n" not in message
    assert str(error) in message
    assert str(tmp_path / "cache" / "mvtec_epoch_1_model.pth") in message
    for way in ("by hand", "'weights'", "train your own"):
        assert way in message
    assert not (tmp_path / "cache").exists()
