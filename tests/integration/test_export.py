# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Exported files give the answer of the tested model, on the same image files."""

import json
import pickletools
import shutil
from pathlib import Path
from typing import NamedTuple
from zipfile import ZipFile

import numpy as np
import onnx_ir as ir
import onnxruntime
import open_clip
import openvino
import pytest
import torch
from anomalib.data import MVTecAD, PredictDataset
from anomalib.deploy import CompressionType, ExportType, OpenVINOInferencer, TorchInferencer
from anomalib.engine import Engine
from anomalib.pre_processing import PreProcessor
from PIL import Image
from torchvision.transforms.v2 import Resize

from anomalib_fbclip import FBClip
from anomalib_fbclip.export.description import model_info
from anomalib_fbclip.export.graph import PRECISE_PREFIX, convert_to_openvino, save_openvino
from anomalib_fbclip.lightning.pre_processing import AntialiasedPreProcessor
from support.command_line import anomalib, run
from support.graphs import EXACT, ONE_IMAGE
from tools.bundled_model.parts import draw_category

SIZES = {"larger": (576, 768), "long": (1260, 500), "smaller": (90, 70)}
"""Height and width in pixels of images that are shrunk, shrunk unevenly, and enlarged."""

FEATURE_LAYERS = (4, 6, 8)
"""Layers of fbclip-small that are read, and have a mask each."""

TOLERANCE = {None: 1e-3, CompressionType.FP16: 5e-3, CompressionType.INT8: 0.05}
"""Largest difference of scores and maps from torch."""


class Decision(NamedTuple):
    """What a model says of one image."""

    pred_score: np.ndarray
    anomaly_map: np.ndarray
    pred_label: np.ndarray
    pred_mask: np.ndarray


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Photographs of a part, at sizes that are not the model's."""
    folder = tmp_path_factory.mktemp("photographs")
    leather = draw_category(folder, "leather", train_images=1, test_images=1)
    (part,) = leather.glob("test/[!g]*/*.png")
    paths = {name: folder / f"{name}.png" for name in SIZES}
    for name, (height, width) in SIZES.items():
        with Image.open(part) as image:
            image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC).save(paths[name])
    return paths


@pytest.fixture(scope="module")
def model() -> FBClip:
    """The model as after a test: with thresholds and limits of its normalization."""
    model = FBClip("fbclip-small").eval()
    fitted = {"_image_threshold": 0.4, "_pixel_threshold": 0.3, "image_min": 0.1, "image_max": 0.9}
    for name, value in (fitted | {"pixel_min": 0.05, "pixel_max": 0.95}).items():
        getattr(model.post_processor, name).fill_(value)
    return model


@pytest.fixture(scope="module")
def tested(
    model: FBClip, photographs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Decision]:
    """What the engine predicts with torch."""
    engine = Engine(accelerator="cpu", default_root_dir=tmp_path_factory.mktemp("results"), logger=False)
    decisions = {}
    for name, path in photographs.items():
        (prediction,) = engine.predict(model, dataset=PredictDataset(path)) or []
        decisions[name] = Decision(*(getattr(prediction, field).numpy() for field in Decision._fields))
    return decisions


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exported")


@pytest.fixture(scope="module")
def onnx_file(model: FBClip, exported: Path) -> Path:
    return Engine(accelerator="cpu", logger=False).export(model, ExportType.ONNX, export_root=exported)


@pytest.fixture(scope="module")
def openvino_files(model: FBClip, exported: Path, onnx_file: Path) -> dict[CompressionType | None, Path]:
    """The model in OpenVINO's formats that need no images; all of them from one ONNX file, which takes longest."""

    def to_onnx(export_root: str, model_file_name: str, *args: object) -> Path:
        del args
        return Path(shutil.copy(onnx_file, Path(export_root, f"{model_file_name}.onnx")))

    engine = Engine(accelerator="cpu", logger=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "to_onnx", to_onnx)
        return {
            compression: engine.export(
                model,
                ExportType.OPENVINO,
                export_root=exported,
                model_file_name=f"model_{compression.value if compression else 'fp32'}",
                compression_type=compression,
            )
            for compression in TOLERANCE
        }


@pytest.fixture(scope="module")
def light_model() -> FBClip:
    """A model of one layer and view, whose export takes seconds."""
    return FBClip("fbclip-small", feature_layers=[6], views=["identity"]).eval()


def read(path: Path) -> np.ndarray:
    """Read an image as a batch ``[1, 3, H, W]`` of values 0..1."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), dtype=np.float32).transpose(2, 0, 1)[None] / 255


def compile_exact(path: Path) -> openvino.CompiledModel:
    return openvino.Core().compile_model(path, "CPU", EXACT)


def assert_same(outputs: Decision, expected: Decision, tolerance: float) -> None:
    np.testing.assert_allclose(outputs.pred_score, expected.pred_score, atol=tolerance, rtol=0)
    np.testing.assert_allclose(outputs.anomaly_map, expected.anomaly_map, atol=tolerance, rtol=0)
    assert outputs.pred_label.dtype == outputs.pred_mask.dtype == bool
    certain = np.abs(expected.anomaly_map - 0.5) > tolerance
    assert np.array_equal(outputs.pred_mask[certain], expected.pred_mask[certain])
    if abs(expected.pred_score.item() - 0.5) > tolerance:
        assert np.array_equal(outputs.pred_label, expected.pred_label)


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_onnx_runtime_decides_as_torch(name: str, photographs, tested, onnx_file: Path) -> None:
    session = onnxruntime.InferenceSession(onnx_file, providers=["CPUExecutionProvider"])
    outputs = Decision(*session.run(list(Decision._fields), {"input": read(photographs[name])}))
    assert_same(outputs, tested[name], tolerance=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("compression", TOLERANCE)
def test_openvino_decides_as_torch(compression, photographs, tested, openvino_files) -> None:
    compiled = compile_exact(openvino_files[compression])
    for name, path in photographs.items():
        result = compiled(read(path))
        outputs = Decision(*(result[field] for field in Decision._fields))
        assert_same(outputs, tested[name], TOLERANCE[compression])


@pytest.mark.slow
def test_images_of_a_batch_do_not_mix(photographs, openvino_files) -> None:
    image = read(photographs["smaller"])
    compiled = compile_exact(openvino_files[None])
    alone = [compiled(batch)["anomaly_map"].copy() for batch in (image, image[..., ::-1].copy())]
    together = compiled(np.concatenate([image, image[..., ::-1]]))["anomaly_map"]
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-4)


@pytest.mark.slow
def test_default_precision_decides_nearly_the_same(photographs, tested, openvino_files) -> None:
    compiled = openvino.Core().compile_model(openvino_files[None], "CPU")
    for name, path in photographs.items():
        result = compiled(read(path))
        np.testing.assert_allclose(result["pred_score"], tested[name].pred_score, atol=0.05)
        assert np.abs(result["anomaly_map"] - tested[name].anomaly_map).mean() < 0.02


def with_masks(path: Path) -> openvino.Model:
    """Read a file, and let its graph give the foreground masks of the layers too, in its last outputs."""
    exported_model = openvino.Core().read_model(path)
    exported_model.add_outputs([
        node.output(0)
        for node in exported_model.get_ordered_ops()
        if node.get_type_name() == "Select"
        and node.get_friendly_name().startswith(PRECISE_PREFIX)
        and str(node.get_output_partial_shape(0)) == "[?,256]"
    ])
    return exported_model


@pytest.mark.slow
def test_foreground_masks_of_a_half_precision_file_rarely_flip(model: FBClip, photographs, openvino_files) -> None:
    compiled = openvino.Core().compile_model(with_masks(openvino_files[CompressionType.FP16]), "CPU", EXACT)
    flips = 0
    for path in photographs.values():
        expected: list[np.ndarray] = []
        with model.model.mvfbe.foreground_mask.register_forward_hook(
            lambda *call, masks=expected: masks.append(call[-1])
        ):
            model(torch.from_numpy(read(path)))
        found = list(compiled(read(path)).values())[-len(FEATURE_LAYERS) :]
        flips += int((np.stack(found) != np.stack(expected)).sum())
    patches = len(SIZES) * len(FEATURE_LAYERS) * 256
    assert flips <= 0.005 * patches


@pytest.mark.slow
def test_files_hold_the_image_tower_and_the_attention_alone(model: FBClip, onnx_file: Path, openvino_files) -> None:
    parts = (model.model.backbone.visual, model.model.mvfbe.attention)
    weights = sum(parameter.numel() for part in parts for parameter in part.parameters())
    sizes = {
        4: [onnx_file.stat().st_size, openvino_files[None].with_suffix(".bin").stat().st_size],
        2: [openvino_files[CompressionType.FP16].with_suffix(".bin").stat().st_size],
    }
    # The rest are the graph itself and the matrices of neighbourhoods, which weigh something beside so small a tower.
    for bytes_per_weight, found in sizes.items():
        assert max(found) <= 1.03 * bytes_per_weight * weights
    # In 8 bits, embeddings, biases and scales weigh more beside the small matrices of fbclip-small.
    assert openvino_files[CompressionType.INT8].with_suffix(".bin").stat().st_size <= 1.15 * weights


@pytest.mark.slow
def test_files_say_what_they_are(model: FBClip, onnx_file: Path, openvino_files) -> None:
    expected = model.description()
    thresholds = {
        f"{of}_{what}" for of in ("image", "pixel") for what in ("threshold", "threshold_source", "min", "max")
    }
    of_model = {"backbone", "pretrained", "source", "adapters", "image_size", "tiles", "patch_size", "version"}
    assert expected.keys() == of_model | thresholds | {"score_threshold", "map_threshold"}
    for_others = model_info(expected)
    assert for_others["image_threshold"] == expected["score_threshold"]
    assert ir.load(onnx_file).metadata_props == {f"fbclip.{name}": value for name, value in expected.items()} | {
        f"model_info {name}": value for name, value in for_others.items()
    }
    for path in openvino_files.values():
        read_model = openvino.Core().read_model(path)
        for section, values in ("fbclip", expected), ("model_info", for_others):
            assert {name: read_model.get_rt_info([section, name]).astype(str) for name in values} == values
    for compression, path in openvino_files.items():
        told = openvino.Core().read_model(path).get_rt_info(["fbclip", "compression"]).astype(str)
        assert told == (compression.name if compression else "FP32")


@pytest.mark.slow
def test_nothing_else_is_left_beside_the_files(exported: Path, onnx_file: Path, openvino_files) -> None:
    names = {path.stem for path in openvino_files.values()}
    expected = {f"{name}{suffix}" for name in names for suffix in (".xml", ".bin")} | {onnx_file.name}
    assert {path.name for path in exported.rglob("*") if path.is_file()} == expected


@pytest.mark.slow
def test_anomalibs_openvino_inferencer(photographs, tested, openvino_files, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)  # it leaves a cache
    inferencer = OpenVINOInferencer(openvino_files[None], device="CPU", config=EXACT)
    prediction = inferencer.predict(photographs["long"])
    np.testing.assert_allclose(prediction.pred_score, tested["long"].pred_score, atol=1e-3)
    np.testing.assert_allclose(prediction.anomaly_map, tested["long"].anomaly_map, atol=1e-3)


def test_anomalibs_torch_inferencer(model: FBClip, photographs, tested, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    path = Engine(accelerator="cpu", logger=False).export(model, ExportType.TORCH, export_root=tmp_path)
    prediction = TorchInferencer(path, device="cpu").predict(photographs["long"])
    np.testing.assert_allclose(prediction.pred_score.detach(), tested["long"].pred_score, atol=1e-3)
    np.testing.assert_allclose(prediction.anomaly_map.detach(), tested["long"].anomaly_map, atol=1e-3)


@pytest.mark.slow
def test_benchmark_app(openvino_files, tmp_path: Path) -> None:
    program = Path(shutil.which("benchmark_app") or pytest.fail("OpenVINO's benchmark_app is not installed"))
    result = run(
        tmp_path, program, "-m", openvino_files[None], "-d", "CPU", "-niter", "2", "-data_shape", "[1,3,90,70]"
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Throughput" in result.stdout


def test_a_fixed_input_size(light_model: FBClip, tmp_path: Path, photographs) -> None:
    path = light_model.to_openvino(tmp_path, input_size=(90, 70))
    compiled = compile_exact(path)
    assert [str(side) for side in compiled.input(0).get_partial_shape()][1:] == ["3", "90", "70"]
    image = read(photographs["smaller"])
    with torch.no_grad():
        expected = light_model(torch.from_numpy(image))
    np.testing.assert_allclose(compiled(image)["anomaly_map"], expected.anomaly_map, atol=1e-3)
    with pytest.raises(RuntimeError):
        compiled(read(photographs["long"]))


@pytest.mark.slow
def test_files_of_another_compression_are_not_replaced(model: FBClip, openvino_files, tmp_path: Path) -> None:
    folder = tmp_path / "weights" / "openvino"
    folder.mkdir(parents=True)
    for suffix in (".xml", ".bin"):
        source = openvino_files[CompressionType.FP16].with_suffix(suffix)
        shutil.copy(source, folder / f"model{suffix}")
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.onnx.export", lambda *_, **__: pytest.fail("the long work has started"))
        for compression in (None, CompressionType.INT8):
            with pytest.raises(ValueError, match=r"compression FP16"):
                model.to_openvino(tmp_path, compression_type=compression)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.mark.slow
def test_files_of_the_same_compression_are_replaced(
    model: FBClip, onnx_file: Path, openvino_files, tmp_path: Path
) -> None:
    folder = tmp_path / "weights" / "openvino"
    folder.mkdir(parents=True)
    for suffix in (".xml", ".bin"):
        shutil.copy(openvino_files[CompressionType.FP16].with_suffix(suffix), folder / f"model{suffix}")
    before = (folder / "model.bin").stat().st_ino
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "to_onnx", lambda *_: onnx_file)
        model.to_openvino(tmp_path, compression_type=CompressionType.FP16)
    assert (folder / "model.bin").stat().st_ino != before


def test_a_file_for_torch_holds_what_inference_needs(small_backbone: str, tmp_path: Path) -> None:
    model = FBClip(small_backbone, weights=None).train()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    path = model.to_torch(tmp_path)
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == trained
    assert model.evaluator is not None
    assert model.visualizer is not None
    exported_model = torch.load(path, weights_only=False)["model"]
    assert not any(parameter.requires_grad for parameter in exported_model.parameters())
    assert exported_model.state_dict().keys() == model.state_dict().keys()
    assert exported_model.evaluator is exported_model.visualizer is None
    weights = sum(tensor.nbytes for tensor in {**model.state_dict(), **dict(model.named_buffers())}.values())
    assert path.stat().st_size < 1.05 * weights
    with ZipFile(path) as archive:
        (pickled,) = (archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))
    globals_ = {argument for _, argument, _ in pickletools.genops(pickled) if isinstance(argument, str)}
    refused = ("pathlib", "lightning.pytorch.trainer", "torch.optim", "anomalib.data.datamodules", str(tmp_path))
    assert not [name for name in globals_ if name.startswith(refused)]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> MVTecAD:
    """Images to calibrate with; not the ones that are tested on."""
    root = tmp_path_factory.mktemp("calibration")
    draw_category(root, "tile", image_size=224, train_images=1, test_images=8, image_seed=1)
    return MVTecAD(root, "tile", num_workers=0)


@pytest.fixture(scope="module")
def light_onnx_file(light_model: FBClip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return light_model.to_onnx(tmp_path_factory.mktemp("light"))


@pytest.mark.slow
@pytest.mark.parametrize("compression", [CompressionType.INT8_PTQ, CompressionType.INT8_ACQ])
def test_quantization_from_the_engine(
    compression, light_model: FBClip, light_onnx_file: Path, parts, photographs, tmp_path: Path, monkeypatch
) -> None:
    engine = Engine(accelerator="cpu", default_root_dir=tmp_path, logger=False)
    monkeypatch.setattr(light_model, "to_onnx", lambda *_: light_onnx_file)
    path = engine.export(
        light_model,
        ExportType.OPENVINO,
        export_root=tmp_path,
        compression_type=compression,
        datamodule=parts,
    )
    parts_in_8_bits = {
        node.get_friendly_name().partition("/")[0]
        for node in openvino.Core().read_model(path).get_ops()
        if node.get_type_name() == "MatMul" and node.input_value(0).get_node().get_type_name() == "FakeQuantize"
    }
    assert parts_in_8_bits == {"attention", "block1", "block2", "block3", "block4"}  # of blocks 0 to 5
    image = read(photographs["smaller"])
    with torch.no_grad():
        expected = light_model(torch.from_numpy(image))
    result = compile_exact(path)(image)
    np.testing.assert_allclose(result["pred_score"], expected.pred_score, atol=0.1)
    assert np.abs(result["anomaly_map"] - expected.anomaly_map.numpy()).mean() < 0.05


@pytest.mark.parametrize("compression", [CompressionType.INT8_PTQ, CompressionType.INT8_ACQ])
def test_quantization_without_images(compression, light_model: FBClip, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"{compression.name} needs images: give a datamodule \(--data"):
        light_model.to_openvino(tmp_path, compression_type=compression)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("input_size", [(0, 90), (90, -1), (90,), (3, 90, 70)])
def test_an_input_size_that_is_none(input_size, light_model: FBClip, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a height and width in pixels: give both"):
        light_model.to_onnx(tmp_path, input_size=input_size)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_arguments_of_the_conversion(model: FBClip, onnx_file: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "to_onnx", lambda *_: onnx_file)
        path = model.to_openvino(tmp_path, ov_kwargs={"input": [1, 3, 90, 70]})
    assert str(openvino.Core().read_model(path).input(0).get_partial_shape()) == "[1,3,90,70]"


def test_a_drop_that_has_no_effect(light_model: FBClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(light_model, "to_openvino", lambda **_: tmp_path)
    engine = Engine(accelerator="cpu", logger=False)
    with pytest.warns(UserWarning, match="max_drop"):
        engine.export(light_model, ExportType.OPENVINO, tmp_path, compression_type="FP16", max_drop=0.5)


@pytest.mark.slow
def test_a_failure_leaves_the_files_of_before(model: FBClip, onnx_file: Path, tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "weights" / "onnx"
    folder.mkdir(parents=True)
    shutil.copy(onnx_file, folder / "model.onnx")

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(args, kwargs)

    monkeypatch.setattr("torch.onnx.export", fail)
    with pytest.raises(OSError):  # noqa: PT011
        model.to_onnx(tmp_path)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["model.onnx"]
    assert (folder / "model.onnx").read_bytes() == onnx_file.read_bytes()


def test_a_pre_processor_of_the_users_own_is_kept(photographs) -> None:
    pre_processor = PreProcessor(Resize((224, 224), antialias=True))
    model = FBClip("fbclip-small", pre_processor=pre_processor)
    assert model.pre_processor is pre_processor
    assert isinstance(FBClip("fbclip-small").pre_processor, AntialiasedPreProcessor)


@pytest.mark.slow
def test_command_line(tmp_path: Path, photographs) -> None:
    result = anomalib(
        tmp_path,
        "export",
        *("--model", "FBClip", "--model.backbone", "fbclip-small", "--model.views", "[identity]"),
        *("--model.feature_layers", "[6]", "--export_type", "openvino", "--export_root", "exported"),
        *("--input_size", "[90,70]", "--compression_type", "FP16"),
    )
    said = result.stdout + result.stderr
    assert result.returncode == 0, said
    assert "Traceback" not in said
    assert "nitializer" not in said
    assert "Converting" in said  # something is to be seen before the end
    path = tmp_path / "exported" / "weights" / "openvino" / "model.xml"
    assert compile_exact(path)(read(photographs["smaller"]))["anomaly_map"].shape == (1, 224, 224)


@pytest.mark.slow
def test_the_papers_architecture(photographs, tmp_path: Path) -> None:
    """All blocks, layers and views of its image tower, a quarter as wide: the width changes nothing in the graph."""
    clip = open_clip.get_model_config("ViT-L-14-336")
    clip["vision_cfg"]["width"] //= 4
    clip["text_cfg"]["layers"] = 1  # it is not exported
    config = tmp_path / "fbclip-test-vit-l.json"
    config.write_text(json.dumps(clip))
    model = FBClip(str(config), weights=None, image_size=224).eval()
    assert len(model.model.backbone.visual.transformer.resblocks) == 24
    image = read(photographs["larger"])
    with torch.no_grad():
        expected = model(torch.from_numpy(image))
    onnx_path = model.to_onnx(tmp_path, dynamic_axes=ONE_IMAGE)
    description = model.description()
    for is_half, tolerance in ((False, 1e-3), (True, 5e-3)):
        path = save_openvino(convert_to_openvino(onnx_path, description), tmp_path / "model.xml", is_half)
        result = compile_exact(path)(image)
        np.testing.assert_allclose(result["pred_score"], expected.pred_score, atol=tolerance)
        np.testing.assert_allclose(result["anomaly_map"], expected.anomaly_map, atol=tolerance)
        parts = (model.model.backbone.visual, model.model.mvfbe.attention)
        weights = sum(parameter.numel() for part in parts for parameter in part.parameters())
        assert path.with_suffix(".bin").stat().st_size <= 1.03 * (2 if is_half else 4) * weights
