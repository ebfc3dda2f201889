# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Input size, tiles, region of interest and turned copies: the same answers whichever way a user takes."""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch, MVTecAD, PredictDataset
from anomalib.deploy import CompressionType
from anomalib.engine import Engine
from lightning.pytorch import Callback
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch.utils.data import DataLoader

from anomalib_fbclip import FBClip
from anomalib_fbclip.__main__ import main
from anomalib_fbclip.data import AuxiliaryDataModule
from anomalib_fbclip.data.image_source import load_image
from anomalib_fbclip.data.unlabeled_set import FEWEST
from anomalib_fbclip.errors import ImageError
from anomalib_fbclip.exported import EdgeInferencer
from anomalib_fbclip.modeling import tiling
from anomalib_fbclip.modeling.few_shot import MutualScoring
from anomalib_fbclip.modeling.loss import LossParts
from anomalib_fbclip.weights.adapters import adapter_tensors
from support.command_line import anomalib, run
from support.parts import draw_part


class Views(NamedTuple):
    """What is asked for, in the words of each way."""

    model: dict[str, object]
    fbclip: tuple[str, ...]
    export: str


VIEWS = {
    "few-shot": Views(
        {"image_size": (56, 84), "tiles": (1, 2), "region": "0.25,0,0.75,1", "reference_rotations": 2},
        ("--image-size", "84x56", "--tiles", "2x1", "--region", "0.25,0,0.75,1", "--rotations", "2"),
        "onnx",
    ),
    "zero-shot": Views(
        {"image_size": (56, 56), "tiles": (2, 1), "region": "mask.png"},
        ("--image-size", "56", "--tiles", "1x2", "--region", "mask.png", "--threshold", "0.5"),
        "openvino",
    ),
}


def write_mask(path: Path) -> Path:
    mask = np.zeros((30, 30), dtype=np.uint8)
    mask[:, 8:] = 255
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(mask).save(path)
    return path


Answers = dict[str, tuple[float, str]]
"""Score and verdict of each photograph, by its name and that of its folder."""


def ask(model: FBClip, photographs: Path) -> Answers:
    """Ask in Python, in two ways."""
    answers = {}
    for path in sorted(photographs.rglob("*.png")):
        with torch.no_grad():
            prediction = model(load_image(path)[None])
        verdict = "anomalous" if prediction.pred_label.item() else "normal"
        answers[f"{path.parent.name}/{path.name}"] = (prediction.pred_score.item(), verdict)
        assert model.explain(path).pred_score.item() == pytest.approx(prediction.pred_score.item(), abs=1e-6)
    return answers


def check(root: Path, expected: Answers) -> None:
    """Check the latest table in a folder."""
    table = max(root.rglob("predictions.jsonl"), key=lambda path: path.stat().st_mtime_ns)
    rows = [json.loads(line) for line in table.read_text(encoding="utf-8").splitlines()]
    found = {"/".join(Path(row["path"]).parts[-2:]): (row["score"], row["verdict"]) for row in rows}
    assert found.keys() == expected.keys()
    for name, (score, verdict) in found.items():
        assert score == pytest.approx(expected[name][0], abs=1e-3)
        assert verdict == expected[name][1]


def to_arguments(settings: dict[str, object]) -> list[str]:
    """Write arguments of the model for anomalib's command line."""
    texts = {
        name: str(value) if isinstance(value, str | Path) else json.dumps(value) for name, value in settings.items()
    }
    return ["--model=FBClip", *(f"--model.{name}={text}" for name, text in texts.items())]


def check_8_bits(model: FBClip, onnx: Path, mvtec: Path, expected: Answers) -> None:
    """Check that files of 8 bits give the same verdicts, also where OpenVINO computes the rest in 16 bits."""
    calibration = MVTecAD(mvtec, "cable", num_workers=0, val_split_mode="same_as_test")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "to_onnx", lambda *_: onnx)
        for compression, data in (CompressionType.INT8, None), (CompressionType.INT8_PTQ, calibration):
            file = model.to_openvino(compression.name, compression_type=compression, datamodule=data)
            for precision in "f32", "default":
                edge = EdgeInferencer(file, precision=precision)
                for name, (score, verdict) in expected.items():
                    prediction = edge.predict(mvtec / "bottle" / "test" / name)
                    assert prediction.is_anomalous == (verdict == "anomalous")
                    assert prediction.score == pytest.approx(score, abs=0.25)  # of random weights
                    assert not prediction.anomaly_map[~edge.region].any()


@pytest.fixture(scope="module")
def one_layer(tmp_path_factory: pytest.TempPathFactory, small_backbone: str) -> dict[str, object]:
    """A model of which little is to be traced in an export."""
    model = FBClip(small_backbone, weights=None, seed=7, feature_layers=[4])
    model.source = "auxiliary"
    path = tmp_path_factory.mktemp("one_layer") / "adapters.safetensors"
    model.save_adapters(path)
    return {"backbone": small_backbone, "weights": path, "feature_layers": [4]}


@pytest.mark.slow
@pytest.mark.parametrize("kind", VIEWS)
def test_every_way_gives_the_same_answers(
    kind: str, tmp_path: Path, one_layer: dict[str, object], mvtec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In Python, ``anomalib predict`` and ``test``, ``fbclip``, and an exported file with ``fbclip --model``."""
    monkeypatch.chdir(tmp_path)
    write_mask(tmp_path / "mask.png")
    photographs, good = mvtec / "bottle" / "test", mvtec / "bottle" / "train" / "good"
    few_shot = {"few_shot_source": good} if kind == "few-shot" else {}
    settings = one_layer | VIEWS[kind].model | few_shot

    model = FBClip(**settings).eval()
    expected = ask(model, photographs)
    assert {verdict for _, verdict in expected.values()} == {"anomalous", "normal"}

    for way, options in {
        "predict": [f"--data={photographs}"],
        "test": ["--data=MVTecAD", f"--data.root={mvtec}", "--data.category=bottle", "--data.val_split_mode=none"],
        "export": [f"--export_type={VIEWS[kind].export}", "--export_root=exported"],
    }.items():
        result = anomalib(tmp_path, way, *to_arguments(settings), *options)
        assert result.returncode == 0, result.stdout + result.stderr
        if way == "predict":
            check(tmp_path / "results", expected)
        if way == "test":
            (area,) = re.findall(r"image_AUROC\W+([\d.]+)", result.stdout)
            scores, labels = zip(*((score, "hole" in name) for name, (score, _) in expected.items()), strict=True)
            assert float(area) == pytest.approx(roc_auc_score(labels, scores), abs=1e-3)

    (file,) = [path for path in Path("exported").rglob("*") if path.suffix in {".xml", ".onnx"}]
    of_torch = ("--backbone", one_layer["backbone"], "--weights", one_layer["weights"], *VIEWS[kind].fbclip)
    for way, options in {
        "torch": (*of_torch, *(("--good", good) if few_shot else ("--alone",))),
        "exported": ("--model", file),
    }.items():
        result = run(tmp_path, sys.executable, "-m", "anomalib_fbclip", photographs, *options, "--output", way)
        assert result.returncode == 1, result.stderr
        assert "2 tiles besides the whole" in result.stdout
        check(tmp_path / way / "v0", expected)

    if few_shot:
        check_8_bits(model, file, mvtec, expected)
    edge = EdgeInferencer(file)
    assert np.array_equal(edge.region, model.model.region.pixels)
    found = edge.predict(photographs / "hole" / "000.png")
    assert not found.anomaly_map[~edge.region].any()
    assert not found.mask[~edge.region].any()


@pytest.fixture(scope="module")
def tiled(small_backbone: str, small_adapters: Path, mvtec: Path) -> FBClip:
    model = FBClip(small_backbone, weights=small_adapters, tiles=(2, 3))
    model.use_references(sorted((mvtec / "bottle" / "train" / "good").iterdir()))
    return model.eval()


@pytest.mark.parametrize("at_once", [1, 3, 8, 100])
def test_neither_the_batch_nor_the_number_of_views_at_once_matters(
    tiled: FBClip, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.rand(3, 3, 90, 70, generator=torch.manual_seed(0))
    expected = [tiled(image[None]) for image in images]
    explained = tiled.explain(images[1])
    monkeypatch.setattr(tiling, "VIEWS_AT_ONCE", at_once)
    together = tiled(images)
    for index, one in enumerate(expected):
        torch.testing.assert_close(together.pred_score[index], one.pred_score[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(together.anomaly_map[index], one.anomaly_map[0], atol=1e-5, rtol=0)
    explanation = tiled.explain(images[1])
    assert explanation.pred_score.item() == pytest.approx(expected[1].pred_score.item(), abs=1e-5)
    for name in ("foreground_masks", "gates", "suppression_strength", "similarities", "patch_map"):
        torch.testing.assert_close(getattr(explanation, name), getattr(explained, name), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(explanation.reference_maps.distances, explained.reference_maps.distances)


def test_an_explanation_has_the_joined_maps(tiled: FBClip) -> None:
    explanation = tiled.explain(torch.rand(3, 90, 70, generator=torch.manual_seed(0)))
    grid = tiled.model.tiling.grid
    assert explanation.patch_map.shape == explanation.reference_maps.rows.shape == grid == (7, 10)
    assert explanation.gates.shape[-2:] == explanation.foreground_masks.shape[-2:] == grid
    assert explanation.anomaly_map.shape == tiled.model.tiling.image_size


class TestMasksOfPhotographs:
    """A folder of masks as region: one for each photograph, by the name of its file."""

    @pytest.fixture
    def folder(self, tmp_path: Path, mvtec: Path) -> Path:
        """Photographs, good ones, and masks of all: of two, one half each."""
        names = {"good": "train/good", "photographs": "test/hole"}
        for name, source in names.items():
            for path in sorted((mvtec / "bottle" / source).iterdir()):
                (tmp_path / name).mkdir(exist_ok=True)
                shutil.copy(path, tmp_path / name / f"{name}_{path.name}")
                write_mask(tmp_path / "masks" / f"{name}_{path.name}")
        with Image.open(tmp_path / "masks" / "photographs_000.png") as mask:
            mask.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "masks" / "photographs_001.png")
        return tmp_path

    @pytest.mark.parametrize("is_few_shot", [False, True], ids=["zero-shot", "few-shot"])
    def test_every_way_gives_the_same_answers(self, is_few_shot: bool, folder: Path, one_layer: dict) -> None:
        few_shot = {"few_shot_source": folder / "good"} if is_few_shot else {}
        model = FBClip(**one_layer, region=folder / "masks", tiles=(1, 2), **few_shot).eval()
        paths = sorted((folder / "photographs").iterdir())
        expected = [model.explain(path) for path in paths]
        areas = [(explanation.anomaly_map > 0).sum() for explanation in expected]
        left, right = (explanation.anomaly_map > 0 for explanation in expected[:2])
        assert torch.equal(left, right.flip(1))
        assert len({int(area) for area in areas}) == 1

        engine = Engine(default_root_dir=folder, accelerator="cpu", devices=1, enable_progress_bar=False)
        data = PredictDataset(folder / "photographs")
        batches = engine.predict(model, DataLoader(data, batch_size=2, collate_fn=data.collate_fn))
        found = {Path(item.image_path): item for batch in batches for item in batch}
        options = ["--output", str(folder / "own"), "--region", str(folder / "masks"), "--tiles", "2x1"]
        options += ["--backbone", one_layer["backbone"], "--weights", str(one_layer["weights"])]
        options += ["--good", str(folder / "good")] if is_few_shot else ["--alone"]
        assert main([str(folder / "photographs"), *options]) in {0, 1}
        rows = (folder / "own/v0/predictions.jsonl").read_text(encoding="utf-8").splitlines()
        own = {Path(row["path"]): row["score"] for row in map(json.loads, rows)}
        assert len(own) == len(found) == 4
        for path, explanation in zip(paths, expected, strict=True):
            score = explanation.pred_score.item()
            assert own[path] == pytest.approx(score, abs=1e-5)
            assert found[path].pred_score.item() == pytest.approx(score, abs=1e-5)

    def test_a_test(self, one_layer: dict, mvtec: Path, tmp_path: Path) -> None:
        for index in range(4):
            write_mask(tmp_path / "masks" / f"{index:03}.png")
        model = FBClip(**one_layer, region=tmp_path / "masks").eval()
        expected = ask(FBClip(**one_layer, region=tmp_path / "masks" / "000.png").eval(), mvtec / "bottle" / "test")
        data = MVTecAD(mvtec, "bottle", eval_batch_size=3, num_workers=0, val_split_mode="none")
        scores = {}

        class Keep(Callback):
            def on_test_batch_end(self, _: object, __: object, outputs: ImageBatch, *___: object) -> None:
                scores.update(zip(outputs.image_path, outputs.pred_score.tolist(), strict=True))

        Engine(default_root_dir=tmp_path, accelerator="cpu", devices=1, callbacks=[Keep()]).test(model, datamodule=data)
        found = {"/".join(Path(path).parts[-2:]): score for path, score in scores.items()}
        assert found == pytest.approx({name: score for name, (score, _) in expected.items()}, abs=1e-5)

    def test_a_missing_mask(self, folder: Path, one_layer: dict) -> None:
        (folder / "masks" / "photographs_002.png").unlink()
        result = anomalib(
            folder, "predict", *to_arguments(one_layer | {"region": "masks"}), f"--data={folder / 'photographs'}"
        )
        assert result.returncode == 2, result.stderr
        (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert "photographs_002.png has no mask" in line
        assert "Traceback" not in result.stderr

    def test_images_without_names(self, folder: Path, one_layer: dict) -> None:
        model = FBClip(**one_layer, region=folder / "masks").eval()
        with pytest.raises(ValueError, match="one mask for all"):
            model(torch.zeros(1, 3, 60, 60))
        with pytest.raises(ImageError, match="one mask for all"):
            model.explain(np.zeros((60, 60, 3), dtype=np.uint8))


class TestTraining:
    def test_tiles_have_labels_of_their_own(
        self, small_backbone: str, small_adapters: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The whole has the image's, even if it shows nothing of a small defect; a tile, whether one lies in it."""
        model = FBClip(small_backbone, weights=small_adapters, tiles=(1, 2))
        height, width = model.model.tiling.image_size
        masks = torch.zeros(3, height, width, dtype=torch.bool)
        masks[1, 20:30, 5:20] = True
        masks[2, 3, -2:] = True
        given = []
        monkeypatch.setattr(
            model.loss, "forward", lambda *arguments: given.extend(arguments) or LossParts(*torch.zeros(4))
        )
        monkeypatch.setattr(model, "log", lambda *_, **__: None)
        model.training_step(ImageBatch(torch.rand(3, 3, height, width), gt_label=masks.any((1, 2)), gt_mask=masks))
        outputs, labels, of_views = given
        assert labels.tolist() == [False, False, False, True, True, False, True, False, True]
        assert outputs.class_score.shape == (9,)
        assert torch.equal(of_views[4], masks[1, :, :height])
        assert torch.equal(of_views[8], masks[2, :, -height:])
        assert of_views[3].float().mean().item() == pytest.approx(masks[1].float().mean().item(), rel=0.2)

    def test_fit(self, small_backbone: str, mvtec: Path, tmp_path: Path) -> None:
        model = FBClip(small_backbone, weights=None, tiles=(1, 2), learning_rate=1e-3)
        before = {name: tensor.clone() for name, tensor in adapter_tensors(model.model).items()}
        data = MVTecAD(mvtec, "bottle", train_batch_size=2, eval_batch_size=2, num_workers=0)
        engine = Engine(default_root_dir=tmp_path, max_epochs=1, accelerator="cpu", devices=1)
        engine.fit(model, datamodule=AuxiliaryDataModule(data, train_batch_size=2, num_workers=0))
        after = adapter_tensors(model.model)
        assert not all(torch.equal(after[name], tensor) for name, tensor in before.items())
        loaded = FBClip.load_from_checkpoint(engine.best_model_path)
        assert loaded.model.tiling.count == (1, 2)


def test_photographs_are_not_compared_with_their_own_views(tmp_path: Path) -> None:
    paths = [tmp_path / f"{seed}.png" for seed in range(FEWEST)]
    for seed, path in enumerate(paths):
        draw_part(seed).save(path)
    model = FBClip("fbclip-small", tiles=(3, 3)).eval()
    model.use_unlabeled(paths)
    assert isinstance(model.model.decision, MutualScoring)
    origins = model.reference_set.fit.origins
    for index in (0, 5):
        maps = model.explain(paths[index]).reference_maps
        assert maps.distances.min() > 0.001
        assert not (origins[maps.rows.flatten(), 0] == index).any()


class TestFiles:
    def test_adapters_with_good_photographs_in_other_tiles(
        self, tiled: FBClip, small_backbone: str, tmp_path: Path
    ) -> None:
        path = tmp_path / "part.safetensors"
        tiled.save_adapters(path, with_references=True)
        again = FBClip(small_backbone, weights=path).eval()
        image = torch.rand(1, 3, 90, 70, generator=torch.manual_seed(0))
        assert again(image).pred_score.equal(tiled(image).pred_score)
        for settled in ({"tiles": 2}, {"tiles": (3, 2)}, {"image_size": 28}):
            with pytest.raises(ValueError, match=f"leave '{next(iter(settled))}' out") as raised:
                FBClip(small_backbone, weights=path, **settled)
            assert "\n" not in str(raised.value)

    def test_adapters_with_good_photographs_and_a_region(
        self, small_backbone: str, small_adapters: Path, mvtec: Path, tmp_path: Path
    ) -> None:
        source = mvtec / "bottle" / "train" / "good"
        model = FBClip(small_backbone, weights=small_adapters, few_shot_source=source, region="0,0,0.5,1").eval()
        model.save_adapters(tmp_path / "part.fbclip", with_references=True)
        again = FBClip(small_backbone, weights=tmp_path / "part.fbclip").eval()
        image = torch.rand(1, 3, 90, 70, generator=torch.manual_seed(0))
        assert again(image).anomaly_map.equal(model(image).anomaly_map)
        with pytest.raises(ValueError, match="leave out region"):
            FBClip(small_backbone, weights=tmp_path / "part.fbclip", region="0,0,1,1")
        (tmp_path / "masks").mkdir()
        for photograph in source.iterdir():
            write_mask(tmp_path / "masks" / f"{photograph.stem}.png")
        own = FBClip(small_backbone, weights=small_adapters, few_shot_source=source, region=tmp_path / "masks")
        with pytest.raises(ValueError, match="one region"):
            own.save_adapters(tmp_path / "own.fbclip", with_references=True)
        assert not (tmp_path / "own.fbclip").exists()

    @pytest.mark.parametrize("kind", ["to_torch", "to_onnx", "to_openvino"])
    def test_an_export_with_a_mask_for_each_photograph(
        self, small_backbone: str, small_adapters: Path, tmp_path: Path, kind: str
    ) -> None:
        (tmp_path / "masks").mkdir()
        write_mask(tmp_path / "masks" / "000.png")
        model = FBClip(small_backbone, weights=small_adapters, region=tmp_path / "masks")
        with pytest.raises(ValueError, match="one mask") as raised:
            getattr(model, kind)(tmp_path / "exported")
        assert "\n" not in str(raised.value)
        assert not (tmp_path / "exported").exists()
