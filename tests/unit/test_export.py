# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import openvino
import pytest
import torch
from anomalib.data import InferenceBatch, MVTecAD
from anomalib.deploy import CompressionType
from anomalib.metrics import AUROC, F1Score
from anomalib.post_processing import PostProcessor
from torchvision.transforms.v2 import Compose, InterpolationMode, Normalize, Resize

from anomalib_fbclip import FBClip
from anomalib_fbclip.export import quantization
from anomalib_fbclip.export.description import COMPRESSION_KEY, check_replaced, describe
from anomalib_fbclip.export.graph import SCOPES_KEY, convert_to_openvino, finish_onnx, save_openvino
from anomalib_fbclip.lightning.pre_processing import AntialiasedPreProcessor
from anomalib_fbclip.lightning.saving import write_staged
from support.graphs import EXACT

METADATA = {
    "backbone": "fbclip-small",
    "pretrained": "procedural",
    "source": "procedural images",
    "image_size": [128, 96],
    "version": "0.1.0",
    "feature_layers": [1, 2],
}


class TestStaging:
    def test_files_move_to_their_place_together(self, tmp_path: Path) -> None:
        def write(folder: Path) -> Path:
            (folder / "weights").mkdir()
            (folder / "weights" / "model.bin").write_text("weights")
            (folder / "weights" / "model.xml").write_text("graph")
            assert not (tmp_path / "weights").exists()
            return folder / "weights" / "model.xml"

        assert write_staged(tmp_path, write) == tmp_path / "weights" / "model.xml"
        assert sorted(path.name for path in tmp_path.rglob("*")) == ["model.bin", "model.xml", "weights"]

    def test_an_error_leaves_what_was_there(self, tmp_path: Path) -> None:
        (tmp_path / "model.xml").write_text("old")

        def write(folder: Path) -> Path:
            (folder / "model.xml").write_text("half")
            raise OSError

        with pytest.raises(OSError):  # noqa: PT011
            write_staged(tmp_path, write)
        assert [path.name for path in tmp_path.rglob("*")] == ["model.xml"]
        assert (tmp_path / "model.xml").read_text() == "old"


class TestDescription:
    def test_a_model_without_fitted_thresholds(self) -> None:
        assert describe(METADATA, PostProcessor()) == {
            "backbone": "fbclip-small",
            "pretrained": "procedural",
            "source": "procedural images",
            "image_size": "[128, 96]",
            "version": "0.1.0",
            "score_threshold": "0.5",
            "map_threshold": "0.5",
        }

    def test_thresholds_at_which_the_graph_decides(self) -> None:
        described = describe(METADATA, PostProcessor(image_sensitivity=0.25))
        assert (described["score_threshold"], described["map_threshold"]) == ("0.75", "0.5")
        assert "score_threshold" not in describe(METADATA, PostProcessor(enable_thresholding=False))

    def test_fitted_thresholds_and_limits(self) -> None:
        post_processor = PostProcessor()
        post_processor._image_threshold.fill_(0.5)
        post_processor.pixel_min.fill_(0.25)
        described = describe(METADATA, post_processor)
        assert described["image_threshold"] == described["pixel_threshold"] == "0.5"  # one stands in for the other
        assert described["pixel_min"] == "0.25"
        assert "pixel_max" not in described

    def test_limits_that_are_not_used_are_not_named(self) -> None:
        post_processor = PostProcessor(enable_normalization=False)
        post_processor.pixel_min.fill_(0.25)
        assert "pixel_min" not in describe(METADATA, post_processor)

    def test_of_a_file_the_name_alone(self) -> None:
        assert (
            describe(METADATA | {"pretrained": "some/where/clip.safetensors"}, None)["pretrained"] == "clip.safetensors"
        )

    def test_the_patch(self) -> None:
        assert describe(METADATA | {"patch_size": [14, 16]}, None)["patch_size"] == "[14, 16]"

    def test_where_thresholds_come_from(self) -> None:
        post_processor = PostProcessor()
        post_processor.image_threshold_source = "validation images"
        post_processor.pixel_threshold_source = None
        described = describe(METADATA, post_processor)
        assert described["image_threshold_source"] == "validation images"
        assert "pixel_threshold_source" not in described

    def test_what_is_unknown_is_left_out(self) -> None:
        described = describe(METADATA | {"pretrained": None, "source": None}, None)
        assert described.keys() == {"backbone", "image_size", "version"}


class Scores(torch.nn.Module):
    """Stands for a model: one module that has to be precise, and one that has not."""

    def __init__(self) -> None:
        super().__init__()
        self.pre_processor = Scale(1.0001)
        self.other = Scale(1.0002)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.other(self.pre_processor(values))


class Scale(torch.nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.register_buffer("factor", torch.full((64,), factor))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values * self.factor + values.sum(dim=-1, keepdim=True)


@pytest.fixture(scope="module")
def scores_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    torch.onnx.export(
        Scores().eval(),
        (torch.ones(2, 64),),
        path,
        dynamo=True,
        optimize=False,
        verbose=False,
        opset_version=18,
        input_names=["input"],
        output_names=["scores"],
    )
    assert any(SCOPES_KEY in node.metadata_props for node in ir.load(path).graph)
    finish_onnx(path, {"backbone": "fbclip-small"})
    return path


def test_an_onnx_file_is_one_file_without_traces_of_its_making(scores_file: Path) -> None:
    assert [path.name for path in scores_file.parent.iterdir()] == ["model.onnx"]
    model = ir.load(scores_file)
    own = {name: value for name, value in model.metadata_props.items() if not name.startswith("model_info ")}
    assert own == {"fbclip.backbone": "fbclip-small"}
    assert model.metadata_props["model_info model_type"] == "AnomalyDetection"
    assert not any(node.metadata_props or node.doc_string for node in model.graph)


def test_precise_modules_stay_precise_in_a_half_precision_file(scores_file: Path, tmp_path: Path) -> None:
    model = convert_to_openvino(scores_file, {"backbone": "fbclip-small"})
    saved = openvino.Core().read_model(save_openvino(model, tmp_path / "model.xml", is_half=True))
    factors = {
        (round(float(node.get_data().flat[0]), 4), node.get_element_type().get_type_name())
        for node in saved.get_ops()
        if node.get_type_name() == "Constant" and node.get_data().size == 64
    }
    assert factors == {(1.0001, "f32"), (1.0, "f16")}
    assert saved.get_rt_info(["fbclip", "backbone"]).astype(str) == "fbclip-small"
    values = np.ones((2, 64), dtype=np.float32)
    scores = openvino.Core().compile_model(saved, "CPU", EXACT)(values)["scores"]
    np.testing.assert_allclose(scores, Scores()(torch.from_numpy(values)).numpy(), rtol=1e-3)


class TestFullDisk:
    """One line says where there is no space, whichever library writes, and nothing half written is left."""

    NO_SPACE = r"^Can't write to {} \(.*\)\. Its disk has [\d,]+ MB left: free some space"

    def test_openvino(self, scores_file: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
        model = convert_to_openvino(scores_file, {})
        request.getfixturevalue("full_disk")
        with pytest.raises(OSError, match=self.NO_SPACE.format(rf"{tmp_path}/\.incomplete\.\w+")):
            write_staged(tmp_path, lambda folder: save_openvino(model, folder / "model.xml", is_half=False))
        assert not list(tmp_path.iterdir())

    @pytest.mark.usefixtures("full_disk")
    def test_torch(self, small_backbone: str, tmp_path: Path) -> None:
        with pytest.raises(OSError, match=self.NO_SPACE.format(tmp_path)):
            FBClip(small_backbone, weights=None).to_torch(tmp_path)
        assert not list(tmp_path.iterdir())


class TestReplacing:
    """Files of another model, or of another compression, are not replaced."""

    OTHER = "and this export would replace it: give another export_root or model_file_name"

    @pytest.fixture
    def path(self, scores_file: Path, tmp_path: Path) -> Path:
        model = convert_to_openvino(scores_file, {"image_threshold": "0.25", "version": "0.1", COMPRESSION_KEY: "FP16"})
        return save_openvino(model, tmp_path / "model.xml", is_half=True)

    def test_the_same(self, path: Path) -> None:
        check_replaced(path, {"image_threshold": "0.2500001", "version": "0.2", COMPRESSION_KEY: "FP16"})

    def test_no_file(self, tmp_path: Path) -> None:
        check_replaced(tmp_path / "other.xml", {COMPRESSION_KEY: "INT8"})

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({COMPRESSION_KEY: "INT8"}, "compression FP16, not INT8"),
            ({"image_threshold": "0.3"}, "image_threshold 0.25, not 0.3"),
            ({"k_shot": "8"}, "k_shot unknown, not 8"),
        ],
    )
    def test_another(self, path: Path, change: dict[str, str], reason: str) -> None:
        with pytest.raises(ValueError, match=f"model.xml is a model with {reason}, {self.OTHER}"):
            check_replaced(path, {"image_threshold": "0.25", COMPRESSION_KEY: "FP16"} | change)

    def test_one_that_says_more(self, path: Path) -> None:
        with pytest.raises(ValueError, match=r"image_threshold 0\.25, not unknown"):
            check_replaced(path, {COMPRESSION_KEY: "FP16"})

    def test_onnx(self, scores_file: Path) -> None:
        check_replaced(scores_file, {"backbone": "fbclip-small"})
        with pytest.raises(ValueError, match="backbone fbclip-small, not ViT-L-14-336"):
            check_replaced(scores_file, {"backbone": "ViT-L-14-336"})

    def test_torch(self, small_backbone: str, tmp_path: Path) -> None:
        model = FBClip(small_backbone, weights=None, image_threshold=0.6)
        path = model.to_torch(tmp_path)
        assert model.to_torch(tmp_path) == path
        before = path.read_bytes()
        for change, other in ({"image_threshold": 0.7}, "threshold"), ({"seed": 1}, "adapters"):
            another = FBClip(small_backbone, weights=None, **({"image_threshold": 0.6} | change))
            with pytest.raises(ValueError, match=rf"model\.pt is a model with \w*{other} .*, {self.OTHER}"):
                another.to_torch(tmp_path)
        assert path.read_bytes() == before
        assert torch.load(path, weights_only=False, mmap=True)["model"].image_size == model.image_size

    def test_other_good_photographs(self, small_backbone: str, mvtec: Path, tmp_path: Path) -> None:
        """As many of another part."""
        sources = [mvtec / category / "train" / "good" for category in ("bottle", "cable")]
        bottle, again, cable = (
            FBClip(small_backbone, weights=None, few_shot_source=source, k_shot=2, reference_rotations=1)
            for source in (sources[0], *sources)
        )
        path = bottle.to_torch(tmp_path)
        assert again.to_torch(tmp_path) == path
        with pytest.raises(ValueError, match=rf"model\.pt is a model with photographs .*, {self.OTHER}"):
            cable.to_torch(tmp_path)

    def test_an_earlier_state_of_a_product(self, scores_file: Path, tmp_path: Path) -> None:
        product = {"product": "bolt", "taught": "2026-10-01", COMPRESSION_KEY: "FP32"}
        path = save_openvino(convert_to_openvino(scores_file, product | {"k_shot": "8"}), tmp_path / "bolt.xml", False)
        check_replaced(path, product | {"k_shot": "9"})
        for other in ({"product": "nut"}, {"taught": "2026-11-01"}, {COMPRESSION_KEY: "FP16"}):
            with pytest.raises(ValueError, match=self.OTHER):
                check_replaced(path, product | {"k_shot": "9"} | other)

    def test_a_file_that_does_not_tell(self, scores_file: Path, tmp_path: Path) -> None:
        path = save_openvino(convert_to_openvino(scores_file, {}), tmp_path / "model.xml", is_half=True)
        with pytest.raises(ValueError, match=r"compression unknown, not FP16"):
            check_replaced(path, {COMPRESSION_KEY: "FP16"})

    @pytest.mark.parametrize("name", ["model.xml", "model.bin", "model.onnx", "model.pt"])
    def test_a_file_that_is_no_model(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_text("something else")
        path = tmp_path / name.replace("bin", "xml")
        with pytest.raises(ValueError, match=rf"{name} has no metadata"):
            check_replaced(path, {COMPRESSION_KEY: "FP16"})
        (tmp_path / name).unlink()
        (tmp_path / name).mkdir()
        with pytest.raises(ValueError, match=rf"{name} is a folder"):
            check_replaced(path, {COMPRESSION_KEY: "FP16"})

    def test_weights_that_are_missing(self, path: Path) -> None:
        path.with_suffix(".bin").unlink()
        with pytest.raises(ValueError, match=r"model\.xml has no metadata"):
            check_replaced(path, {COMPRESSION_KEY: "FP16"})


class TestAccuracyControl:
    """What goes to nncf, which then computes for minutes."""

    @pytest.fixture
    def arguments(self, monkeypatch: pytest.MonkeyPatch) -> list:
        given: list = []
        monkeypatch.setattr(quantization, "quantize_with_accuracy_control", lambda *each: given.extend(each) or each[0])
        return given

    @pytest.fixture
    def parts(self, mvtec: Path) -> MVTecAD:
        return MVTecAD(mvtec, "bottle", num_workers=0, val_split_mode="same_as_test")

    def test_the_usual_metric(self, arguments: list, parts: MVTecAD) -> None:
        model = object()
        assert (
            quantization.compress(model, CompressionType.INT8_ACQ, parts, None, 0.02, lambda data: ("checked", data))
            is model
        )
        _, images, test_images, metric, max_drop = arguments
        expected = (("checked", parts.val_data), ("checked", parts.test_data), 0.02)
        assert (images, test_images, max_drop) == expected
        assert isinstance(metric, F1Score)
        assert metric.fields == ["pred_label", "gt_label"]

    def test_a_metric_of_the_users(self, arguments: list, parts: MVTecAD) -> None:
        metric = AUROC(fields=["pred_score", "gt_label"])
        quantization.compress(object(), CompressionType.INT8_ACQ, parts, metric, 0.02, list)
        assert arguments[3] is metric

    @pytest.mark.parametrize("compression", [CompressionType.INT8_PTQ, CompressionType.INT8_ACQ])
    def test_no_images(self, compression: CompressionType, mvtec: Path) -> None:
        parts = MVTecAD(mvtec, "bottle", num_workers=0, val_split_mode="none")
        with pytest.raises(ValueError, match="no val images to quantize with"):
            quantization.compress(object(), compression, parts, None, 0.01, list)

    @pytest.mark.parametrize(("max_drop", "words"), [(0, []), (0.03, []), (0.1, []), (0.5, ["large"]), (1, ["large"])])
    def test_a_large_drop(self, max_drop: float, words: list[str], caplog: pytest.LogCaptureFixture) -> None:
        quantization.check_max_drop(max_drop)
        assert [word for record in caplog.records for word in ("large",) if word in record.getMessage()] == words

    @pytest.mark.parametrize("max_drop", [1.5, -0.1, float("nan")])
    def test_a_drop_that_is_none(self, max_drop: float, small_backbone: str, mvtec: Path, tmp_path: Path) -> None:
        model = FBClip(small_backbone, weights=None)
        compression = CompressionType.INT8_ACQ
        with pytest.raises(ValueError, match="max_drop must be between 0 and 1"):
            model.to_openvino(tmp_path, compression_type=compression, datamodule=MVTecAD(mvtec), max_drop=max_drop)
        assert not list(tmp_path.iterdir())


OUTPUTS = ("pred_score", "pred_label", "anomaly_map", "pred_mask")

STATES = {
    "not fitted": {},
    "fitted": {"_image_threshold": 0.4, "_pixel_threshold": 0.3, "image_min": 0.1, "image_max": 0.9}
    | {"pixel_min": 0.2, "pixel_max": 0.8},
    "fitted without masks": {
        "_image_threshold": 0.4,
        "image_min": 0.1,
        "image_max": 0.9,
        "pixel_min": 0.2,
        "pixel_max": 1,
    },
    "thresholds alone": {"_image_threshold": 0.4, "_pixel_threshold": 0.3},
    "limits alone": {"image_min": 0.1, "image_max": 0.9, "pixel_min": 0.2, "pixel_max": 0.8},
    "one score": {"_image_threshold": 0.4, "image_min": 0.4, "image_max": 0.4, "pixel_min": 0.4, "pixel_max": 0.4},
}
"""What a post-processor has learned."""


class Pipeline(torch.nn.Module):
    """What is around FB-CLIP in an exported graph, with a convolution in its place."""

    def __init__(self, post_processor: PostProcessor, interpolation: InterpolationMode) -> None:
        super().__init__()
        resize = Resize((24, 32), interpolation=interpolation, antialias=True)
        normalize = Normalize(mean=(0.48, 0.45, 0.4), std=(0.26, 0.26, 0.27))
        self.pre_processor = AntialiasedPreProcessor(Compose([resize, normalize]))
        self.model = torch.nn.Conv2d(3, 1, 8, padding="same")
        self.post_processor = post_processor

    def forward(self, images: torch.Tensor) -> InferenceBatch:
        anomaly_map = self.model(self.pre_processor(images)).sigmoid().squeeze(1)
        return self.post_processor(InferenceBatch(pred_score=anomaly_map.amax(dim=(-2, -1)), anomaly_map=anomaly_map))


def assert_runtimes_agree(pipeline: Pipeline, input_size: tuple[int, int] | None, folder: Path) -> None:
    """Export a pipeline, and run the file in both runtimes."""
    path = folder / "model.onnx"
    images = torch.rand(2, 3, *(input_size or (50, 41)), generator=torch.Generator().manual_seed(0))
    sides = {} if input_size else {2: torch.export.Dim("height"), 3: torch.export.Dim("width")}
    with torch.no_grad():
        expected = pipeline(images)
        torch.onnx.export(
            pipeline,
            (images,),
            path,
            dynamo=True,
            optimize=False,
            verbose=False,
            opset_version=18,
            input_names=["input"],
            output_names=OUTPUTS,
            dynamic_shapes=({0: torch.export.Dim("batch")} | sides,),
        )
    finish_onnx(path, {})
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    answers = [dict(zip(OUTPUTS, session.run(OUTPUTS, {"input": images.numpy()}), strict=True))]
    core = openvino.Core()
    for model in (core.read_model(path), convert_to_openvino(path, {})):
        compiled = core.compile_model(model, "CPU", EXACT)
        assert [output.names for output in compiled.outputs] == [{name} for name in OUTPUTS]
        result = compiled(images.numpy())
        answers.append({name: result[name] for name in OUTPUTS})
    for answer in answers:
        np.testing.assert_allclose(answer["pred_score"], expected.pred_score, atol=1e-5)
        np.testing.assert_allclose(answer["anomaly_map"], expected.anomaly_map, atol=1e-5)
        assert np.array_equal(answer["pred_label"], expected.pred_label)
        assert (answer["pred_mask"] != expected.pred_mask.numpy()).mean() < 0.01


@pytest.mark.parametrize("state", STATES)
def test_each_output_has_its_own_name_alone(tmp_path: Path, state: str) -> None:
    torch.manual_seed(0)
    post_processor = PostProcessor()
    for name, value in STATES[state].items():
        getattr(post_processor, name).fill_(value)
    assert_runtimes_agree(Pipeline(post_processor, InterpolationMode.BICUBIC).eval(), None, tmp_path)


@pytest.mark.parametrize("interpolation", [InterpolationMode.BILINEAR, InterpolationMode.BICUBIC])
@pytest.mark.parametrize("input_size", [(12, 40), (24, 32), (60, 60)])
def test_both_runtimes_take_a_fixed_size(
    tmp_path: Path, input_size: tuple[int, int], interpolation: InterpolationMode
) -> None:
    torch.manual_seed(0)
    assert_runtimes_agree(Pipeline(PostProcessor(), interpolation).eval(), input_size, tmp_path)
