# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

from pathlib import Path

import numpy as np
import onnx_ir as ir
import openvino
import pytest
import torch
from anomalib.post_processing import PostProcessor

from anomalib_fbclip.export import describe
from anomalib_fbclip.export.onnx_file import SCOPES_KEY, finish_onnx
from anomalib_fbclip.export.openvino_model import convert_to_openvino, save_openvino
from anomalib_fbclip.export.staging import write_staged

METADATA = {
    "backbone": "fbclip-nano",
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
            "backbone": "fbclip-nano",
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
    finish_onnx(path, {"backbone": "fbclip-nano"})
    return path


def test_an_onnx_file_is_one_file_without_traces_of_its_making(scores_file: Path) -> None:
    assert [path.name for path in scores_file.parent.iterdir()] == ["model.onnx"]
    model = ir.load(scores_file)
    assert model.metadata_props == {"fbclip.backbone": "fbclip-nano"}
    assert not any(node.metadata_props or node.doc_string for node in model.graph)


def test_precise_modules_stay_precise_in_a_half_precision_file(scores_file: Path, tmp_path: Path) -> None:
    model = convert_to_openvino(scores_file, {"backbone": "fbclip-nano"})
    saved = openvino.Core().read_model(save_openvino(model, tmp_path / "model.xml", is_half=True))
    factors = {
        (round(float(node.get_data().flat[0]), 4), node.get_element_type().get_type_name())
        for node in saved.get_ops()
        if node.get_type_name() == "Constant" and node.get_data().size == 64
    }
    assert factors == {(1.0001, "f32"), (1.0, "f16")}
    assert saved.get_rt_info(["fbclip", "backbone"]).astype(str) == "fbclip-nano"
    values = np.ones((2, 64), dtype=np.float32)
    scores = openvino.Core().compile_model(saved, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(values)["scores"]
    np.testing.assert_allclose(scores, Scores()(torch.from_numpy(values)).numpy(), rtol=1e-3)
