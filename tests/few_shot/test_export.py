# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Exported files carry the good photographs, and decide as torch does."""

import json
import pickletools
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from zipfile import ZipFile

import numpy as np
import onnxruntime
import openvino
import pytest
import torch
from anomalib.data import MVTecAD
from anomalib.deploy import CompressionType, ExportType, TorchInferencer
from anomalib.engine import Engine
from PIL import Image
from sklearn.metrics import roc_auc_score

import anomalib_fbclip
from anomalib_fbclip import FBClip
from anomalib_fbclip.__main__ import main
from anomalib_fbclip.exported import EdgeInferencer
from support.command_line import anomalib, run
from support.graphs import EXACT, ONE_IMAGE
from tools.bundled_model.parts import draw_category

FIELDS = ("pred_score", "anomaly_map", "pred_label", "pred_mask")


class Exported(NamedTuple):
    """A model with good photographs, and its files."""

    model: FBClip
    onnx: Path
    xml: Path
    pt: Path


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), dtype=np.float32).transpose(2, 0, 1)[None] / 255


def answer(model: FBClip, path: Path) -> dict[str, np.ndarray]:
    with torch.no_grad():
        prediction = model(torch.from_numpy(read(path)))
    return {field: getattr(prediction, field).numpy() for field in FIELDS}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for field in ("pred_score", "anomaly_map"):
        np.testing.assert_allclose(found[field], expected[field], atol=1e-3, rtol=0)
    assert np.array_equal(found["pred_label"], expected["pred_label"])
    certain = np.abs(expected["anomaly_map"] - 0.5) > 1e-3
    assert np.array_equal(found["pred_mask"][certain], expected["pred_mask"][certain])


def write_files(model: FBClip, folder: Path, input_size: tuple[int, int] | None = None) -> tuple[Path, Path]:
    onnx = model.to_onnx(folder, input_size=input_size)
    with pytest.MonkeyPatch.context() as patch:  # it takes longest, and both come from it
        patch.setattr(model, "to_onnx", lambda *_: onnx)
        return onnx, model.to_openvino(folder)


@pytest.fixture(scope="module")
def exported(
    tmp_path_factory: pytest.TempPathFactory, small_backbone: str, small_adapters: Path, good: Path
) -> Exported:
    folder = tmp_path_factory.mktemp("exported")
    model = FBClip(
        small_backbone, weights=small_adapters, feature_layers=[2, 4], views=["identity"], few_shot_source=good
    ).eval()
    return Exported(model, *write_files(model, folder), model.to_torch(folder))


def test_a_product(
    exported: Exported,
    photographs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    """``fbclip export`` writes beside the product what decides as it does; another product never takes its place."""
    monkeypatch.chdir(tmp_path)
    exported.model.save_adapters("bolt.fbclip", with_references=True)
    assert main(["export", "bolt.fbclip", "--format", "onnx"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"bolt.fbclip", "bolt.onnx"}
    inferencer = EdgeInferencer("bolt.onnx")
    assert inferencer.metadata["product"] == "bolt"
    assert "product bolt" in inferencer.describe()
    for path in sorted(photographs.iterdir()):
        expected = answer(exported.model, path)["pred_score"].item()
        assert inferencer.predict(path).score == pytest.approx(expected, abs=1e-3)
    before = Path("bolt.onnx").read_bytes()
    exported.model.save_adapters("nut.fbclip", with_references=True)
    for mistake, message in (
        (["nut.fbclip", "--output", "bolt.onnx"], "--output"),
        (["nut.fbclip", "--output", "nut.pt"], "must end in .onnx"),
        (["good"], "is not a product"),
        (["missing.fbclip"], "does not exist"),
    ):
        capsys.readouterr()
        with suppress(SystemExit):
            assert main(["export", *mistake, "--format", "onnx"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    assert Path("bolt.onnx").read_bytes() == before


@pytest.mark.slow
def test_both_runtimes(exported: Exported, photographs: Path) -> None:
    session = onnxruntime.InferenceSession(exported.onnx, providers=["CPUExecutionProvider"])
    compiled = openvino.Core().compile_model(exported.xml, "CPU", EXACT)
    verdicts = set()
    for path in sorted(photographs.iterdir()):
        expected = answer(exported.model, path)
        assert_same(dict(zip(FIELDS, session.run(list(FIELDS), {"input": read(path)}), strict=True)), expected)
        result = compiled(read(path))
        assert_same({field: result[field] for field in FIELDS}, expected)
        verdicts.add(bool(expected["pred_label"]))
    assert verdicts == {True, False}


@pytest.mark.slow
def test_anomalibs_inferencers(
    exported: Exported, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    script = Path(__file__).parents[1] / "integration" / "run_inferencers.py"
    files = (exported.onnx, exported.xml, exported.pt)
    path = photographs / "defect.png"
    result = run(tmp_path, sys.executable, script, "answers.npz", *(f"{file}={path}" for file in files))
    assert result.returncode == 0, result.stdout + result.stderr
    answers = np.load(tmp_path / "answers.npz")
    for file in files:
        assert_same({field: answers[f"{file}/{field}"] for field in FIELDS}, answer(exported.model, path))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "xml"])
def test_edge(exported: Exported, photographs: Path, tmp_path: Path, kind: str) -> None:
    result = run(
        tmp_path,
        *(sys.executable, "-m", "anomalib_fbclip", photographs, "--model", getattr(exported, kind)),
    )
    assert result.returncode == 1, result.stdout + result.stderr
    table = tmp_path / "fbclip-results" / "v0" / "predictions.jsonl"
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    assert len(rows) == 4
    for row in rows:
        expected = answer(exported.model, Path(row["path"]))
        assert row["score"] == pytest.approx(expected["pred_score"].item(), abs=1e-3)
        assert row["verdict"] == ("anomalous" if expected["pred_label"] else "normal")
        assert (row["threshold"], row["threshold_source"]) == (0.5, "good photographs")
        assert (row["pixel_threshold"], row["pixel_threshold_source"]) == (0.5, "good photographs")
    told = EdgeInferencer(getattr(exported, kind)).metadata
    assert (int(told["k_shot"]), told["image_threshold_source"]) == (5, "good photographs")
    assert len(json.loads(told["good_scores"])) == 5


@pytest.mark.slow
def test_a_fixed_size(exported: Exported, photographs: Path, tmp_path: Path) -> None:
    onnx, xml = write_files(exported.model, tmp_path, input_size=(72, 72))
    path = photographs / "defect.png"
    for file in (onnx, xml):
        result = openvino.Core().compile_model(file, "CPU", EXACT)(read(path))
        assert_same({field: result[field] for field in FIELDS}, answer(exported.model, path))


def test_a_file_of_torch_holds_no_photographs(
    small_backbone: str, small_adapters: Path, good: Path, photographs: Path, tmp_path: Path, monkeypatch
) -> None:
    """Nor where they lie: another machine has no such folder, nor perhaps this kind of path."""
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    model = FBClip(small_backbone, weights=small_adapters, few_shot_source=good).eval()
    file = model.to_torch(tmp_path)
    with ZipFile(file) as archive:
        (pickle,) = [archive.read(name) for name in archive.namelist() if name.endswith("data.pkl")]
    assert not [
        value for _, value, _ in pickletools.genops(pickle) if isinstance(value, str) and value.endswith("0.png")
    ]
    assert "PosixPath" not in {value for _, value, _ in pickletools.genops(pickle) if isinstance(value, str)}
    assert len(model.references) == 5
    path = photographs / "defect.png"
    prediction = TorchInferencer(file, device="cpu").predict(path)
    assert_same({field: getattr(prediction, field).numpy() for field in FIELDS}, answer(model, path))


@pytest.mark.slow
def test_on_the_command_line(
    tmp_path: Path, small_backbone: str, small_adapters: Path, good: Path, photographs: Path
) -> None:
    model = ("--model", "FBClip", "--model.backbone", small_backbone, "--model.weights", small_adapters)
    arguments = ("--model.few_shot_source", good, "--model.k_shot", "3", "--model.feature_layers", "[4]")
    kind = ("--export_type", "onnx", "--export_root", "exported", "--input_size", "[72, 72]")
    result = anomalib(tmp_path, "export", *model, *arguments, *kind)
    assert result.returncode == 0, result.stderr
    (file,) = (tmp_path / "exported").rglob("*.onnx")
    edge = EdgeInferencer(file)
    assert int(edge.metadata["k_shot"]) == 3
    expected = FBClip(small_backbone, weights=small_adapters, few_shot_source=good, k_shot=3, feature_layers=[4]).eval()
    path = photographs / "defect.png"
    assert edge.predict(path).score == pytest.approx(answer(expected, path)["pred_score"].item(), abs=1e-3)


class TestTrainingSplit:
    """With ``k_shot`` alone, an export to OpenVINO takes the training split of its data."""

    @pytest.fixture
    def model(self, small_backbone: str, small_adapters: Path, monkeypatch: pytest.MonkeyPatch) -> FBClip:
        model = FBClip(small_backbone, weights=small_adapters, k_shot=2)

        def stop(*_: object) -> None:
            raise InterruptedError

        monkeypatch.setattr(model, "to_onnx", stop)
        return model

    @pytest.mark.parametrize("compression", [None, CompressionType.INT8_PTQ])
    def test_of_the_datamodule(self, tmp_path: Path, model: FBClip, mvtec: Path, compression) -> None:
        data = MVTecAD(root=mvtec, category="cable", num_workers=0, val_split_mode="same_as_test")
        with pytest.raises(InterruptedError):
            Engine(accelerator="cpu", logger=False).export(
                model, ExportType.OPENVINO, export_root=tmp_path, compression_type=compression, datamodule=data
            )
        assert {path.parent for path in model.references} == {mvtec / "cable" / "train" / "good"}
        assert model.model.decision.k_shot == 2
        told = model.description()
        assert told["k_shot"] == "2"
        source = "good photographs" if compression else "labels"  # images for calibration may be of other objects
        assert told["image_threshold_source"] == source

    def test_those_that_were_tested_stay(self, tmp_path: Path, model: FBClip, mvtec: Path) -> None:
        tested, others = (MVTecAD(root=mvtec, category=name, num_workers=0) for name in ("bottle", "cable"))
        engine = Engine(accelerator="cpu", logger=False, default_root_dir=tmp_path)
        engine.test(model, datamodule=tested)
        decision, threshold = model.model.decision, model.post_processor.image_threshold.item()
        with pytest.raises(InterruptedError):
            engine.export(
                model,
                ExportType.OPENVINO,
                export_root=tmp_path,
                compression_type=CompressionType.INT8_PTQ,
                datamodule=others,
            )
        assert model.model.decision is decision
        assert model.post_processor.image_threshold.item() == threshold


@pytest.fixture(scope="module")
def ball_screws() -> tuple[list[Path], list[Path]]:
    """Eight good photographs, and others to be judged."""
    folder = Path(__file__).resolve().parents[3] / "shared" / "data" / "decide" / "ball_screw"
    if not folder.is_dir():
        pytest.skip(f"no photographs: {folder} does not exist")
    return sorted((folder / "train").rglob("*.jpg"))[:8], sorted((folder / "test").rglob("*.jpg"))


@pytest.mark.slow
def test_8_bits_lose_a_point_at_most(tmp_path: Path, ball_screws: tuple[list[Path], list[Path]]) -> None:
    good, tested = ball_screws
    model = FBClip("fbclip-small").eval()
    model.use_references(good)
    onnx = model.to_onnx(tmp_path, dynamic_axes=ONE_IMAGE)
    draw_category(tmp_path, "tile", train_images=1, test_images=15, image_seed=1)
    parts = MVTecAD(tmp_path, "tile", num_workers=0)
    labels = [path.parent.name != "good" for path in tested]
    accuracy = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "to_onnx", lambda *_: onnx)
        for compression in (None, CompressionType.INT8, CompressionType.INT8_PTQ):
            data = parts if compression == CompressionType.INT8_PTQ else None
            xml = model.to_openvino(tmp_path, f"model_{compression}", compression_type=compression, datamodule=data)
            compiled = openvino.Core().compile_model(xml, "CPU", EXACT)
            scores = [compiled(read(path))["pred_score"].item() for path in tested]
            accuracy[compression] = roc_auc_score(labels, scores)
    assert min(accuracy.values()) >= accuracy[None] - 0.01


@pytest.mark.slow
def test_openvino_decides_alike_in_bfloat16(tmp_path: Path) -> None:
    """Its default on processors that have it. Thresholds come from float32, so scores must not shift."""
    core = openvino.Core()
    if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("OpenVINO does not compute in bfloat16 on this processor")
    example = Path(anomalib_fbclip.__file__).parent / "data" / "example"
    model = FBClip("fbclip-small").eval()
    model.use_references(sorted(example.glob("good/*.jpg")))
    xml = model.to_openvino(tmp_path, onnx_kwargs={"dynamic_axes": ONE_IMAGE})
    images = [read(path) for path in sorted(example.glob("photographs/*/*.jpg"))]
    exact, rounded = (
        np.array([compiled(image)["pred_score"].item() for image in images])
        for compiled in (
            core.compile_model(xml, "CPU", EXACT | {"INFERENCE_PRECISION_HINT": precision})
            for precision in ("f32", "bf16")
        )
    )
    assert abs((rounded - exact).mean()) <= 0.005
    assert np.abs(rounded - exact).max() <= 0.01
    certain = np.abs(exact - 0.5) > 0.01
    assert np.array_equal((rounded > 0.5)[certain], (exact > 0.5)[certain])
