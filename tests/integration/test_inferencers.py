# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Every file that is exported gives the answer of torch: in both runtimes, and in anomalib's inferencers."""

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime
import openvino
import pytest
import torch
from anomalib.deploy import TorchInferencer
from PIL import Image

from anomalib_fbclip import FBClip
from support.command_line import run
from support.graphs import EXACT
from tools.bundled_model.parts import draw_category

FIELDS = ("pred_score", "anomaly_map", "pred_label", "pred_mask")

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("run_inferencers.py")

IMAGE_SIZE = (56, 70)
"""Height and width of the image that the model sees, which is not square."""

INPUT_SIZES = {"any": None, "smaller": (48, 40), "square": (90, 90)}
"""Height and width of the images that a file takes."""


class Exported(NamedTuple):
    """Files of one model, an image for each, and what torch says of it."""

    files: dict[str, list[Path]]
    images: dict[str, Path]
    answers: dict[str, dict[str, np.ndarray]]


def read(path: Path) -> torch.Tensor:
    with Image.open(path) as image:
        return torch.from_numpy(np.asarray(image, dtype=np.float32).transpose(2, 0, 1)[None] / 255)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, small_backbone: str, small_adapters: Path) -> Exported:
    folder = tmp_path_factory.mktemp("inferencers")
    model = FBClip(
        small_backbone, weights=small_adapters, image_size=IMAGE_SIZE, feature_layers=[4], views=["identity"]
    ).eval()
    # As after a validation: what is exported then holds the choices of the normalisation.
    fitted = {"_image_threshold": 0.5, "image_min": 0.3, "image_max": 0.7, "pixel_min": 0.2, "pixel_max": 0.9}
    for name, value in fitted.items():
        getattr(model.post_processor, name).fill_(value)
    leather = draw_category(folder, "leather", image_size=128, train_images=1, test_images=1)
    (part,) = leather.glob("test/[!g]*/*.png")
    files, images, answers = {}, {}, {}
    for name, input_size in INPUT_SIZES.items():
        height, width = input_size or (77, 91)
        images[name] = folder / f"{name}.png"
        with Image.open(part) as image:
            image.convert("RGB").resize((width, height)).save(images[name])
        with torch.no_grad():
            answer = model(read(images[name]))
        answers[name] = {field: getattr(answer, field).numpy() for field in FIELDS}
        onnx_file = model.to_onnx(folder / name, input_size=input_size)
        with pytest.MonkeyPatch.context() as patch:  # it takes longest, and both come from it
            patch.setattr(model, "to_onnx", lambda *_, onnx_file=onnx_file: onnx_file)
            files[name] = [onnx_file, model.to_openvino(folder / name)]
    files["any"].append(model.to_torch(folder))
    return Exported(files, images, answers)


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for field in ("pred_score", "anomaly_map"):
        np.testing.assert_allclose(found[field], expected[field], atol=1e-3, rtol=0)
    assert np.array_equal(found["pred_label"], expected["pred_label"])
    certain = np.abs(expected["anomaly_map"] - 0.5) > 1e-3
    assert np.array_equal(found["pred_mask"][certain], expected["pred_mask"][certain])


@pytest.mark.parametrize("name", INPUT_SIZES)
def test_both_runtimes(exported: Exported, name: str) -> None:
    onnx, xml, *_ = exported.files[name]
    image = read(exported.images[name]).numpy()
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    assert_same(dict(zip(FIELDS, session.run(list(FIELDS), {"input": image}), strict=True)), exported.answers[name])
    for path in (onnx, xml):
        compiled = openvino.Core().compile_model(path, "CPU", EXACT)
        # One name each: of several, which one anomalib's inferencer took would depend on how Python hashes.
        assert [sorted(output.names) for output in compiled.outputs] == [
            ["pred_score"],
            ["pred_label"],
            ["anomaly_map"],
            ["pred_mask"],
        ]
        result = compiled(image)
        assert_same({field: result[field] for field in FIELDS}, exported.answers[name])


def test_anomalibs_inferencers(exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    pairs = {str(path): name for name, paths in exported.files.items() for path in paths}
    result = run(
        tmp_path,
        *(sys.executable, SCRIPT, "answers.npz"),
        *(f"{path}={exported.images[name]}" for path, name in pairs.items()),
    )
    assert result.returncode == 0, result.stdout + result.stderr
    answers = np.load(tmp_path / "answers.npz")
    for path, name in pairs.items():
        assert_same({field: answers[f"{path}/{field}"] for field in FIELDS}, exported.answers[name])


def test_results_of_the_torch_inferencer_have_no_graph(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    prediction = TorchInferencer(exported.files["any"][-1], device="cpu").predict(exported.images["any"])
    assert not any(getattr(prediction, field).requires_grad for field in FIELDS)
