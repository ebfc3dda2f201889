# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""fbclip-small finds defects that it has never seen, and models in 8 bits find them too.

The limits lie below what ``anomalib_fbclip/weights/bundled/MODEL_CARD.md`` reports, by what the choice of images alone
makes out. What is measured is the exported model, which decides as the one in torch.
"""

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from anomalib.data import MVTecAD
from anomalib.deploy import CompressionType
from PIL import Image

from anomalib_fbclip import FBClip
from support.graphs import EXACT, ONE_IMAGE
from tools.bundled_model.evaluate import (
    Accuracy,
    LabeledImage,
    compute_accuracy,
    draw_unseen_categories,
    list_images,
    mean_accuracy,
    read_input,
)
from tools.bundled_model.parts import draw_category

COMPRESSIONS = (None, CompressionType.INT8, CompressionType.INT8_PTQ)

Evaluate = Callable[[CompressionType | None, tuple[LabeledImage, ...]], Accuracy]


@pytest.fixture(scope="module")
def model() -> FBClip:
    return FBClip("fbclip-small").eval()


@pytest.fixture(scope="module")
def compiled(
    model: FBClip, tmp_path_factory: pytest.TempPathFactory
) -> dict[CompressionType | None, openvino.CompiledModel]:
    root = tmp_path_factory.mktemp("exported")
    draw_category(root, "tile", train_images=1, test_images=30, image_seed=1)
    parts = MVTecAD(root, "tile", num_workers=0)
    onnx_file = model.to_onnx(root, dynamic_axes=ONE_IMAGE)

    def to_onnx(export_root: str, model_file_name: str, *args: object) -> Path:
        del args
        return Path(shutil.copy(onnx_file, Path(export_root, f"{model_file_name}.onnx")))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "to_onnx", to_onnx)  # it takes longest, and all of them come from it
        return {
            compression: openvino.Core().compile_model(
                model.to_openvino(
                    root,
                    f"model_{index}",
                    compression_type=compression,
                    datamodule=parts if compression == CompressionType.INT8_PTQ else None,  # it would fit thresholds
                ),
                "CPU",
                EXACT,
            )
            for index, compression in enumerate(COMPRESSIONS)
        }


@pytest.fixture(scope="module")
def evaluate(model: FBClip, compiled: dict[CompressionType | None, openvino.CompiledModel]) -> Evaluate:
    transform = model.pre_processor.transform

    @cache
    def evaluate(compression: CompressionType | None, images: tuple[LabeledImage, ...]) -> Accuracy:
        scores, maps, masks = [], [], []
        for image in images:
            with Image.open(image.path) as file:
                pixels = np.asarray(file.convert("RGB"), dtype=np.float32).transpose(2, 0, 1)[None] / 255
            outputs = compiled[compression](pixels)
            scores.append(outputs["pred_score"].item())
            maps.append(torch.from_numpy(outputs["anomaly_map"].copy()))
            masks.append(read_input(transform, image)[1])
        return compute_accuracy(images, torch.tensor(scores), torch.cat(maps), torch.stack(masks))

    return evaluate


QUANTIZED = (CompressionType.INT8, CompressionType.INT8_PTQ)


def check(compression: CompressionType, category: str, evaluate: Evaluate, images: list[LabeledImage]) -> None:
    """Compare a compressed model with the exact one."""
    other, exact = (evaluate(key, tuple(images)) for key in (compression, None))
    assert other.image_auroc >= exact.image_auroc - 0.01
    assert other.pixel_auroc >= exact.pixel_auroc - 0.01


@pytest.fixture(scope="module")
def unseen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[LabeledImage]]:
    return draw_unseen_categories(tmp_path_factory.mktemp("unseen"), images=30)


@pytest.mark.slow
def test_unseen_procedural_categories(evaluate: Evaluate, unseen: dict[str, list[LabeledImage]]) -> None:
    found = mean_accuracy({name: evaluate(None, tuple(images)) for name, images in unseen.items()})
    assert found.image_auroc > 0.80
    assert found.pixel_auroc > 0.95


@pytest.mark.slow
def test_photographs_of_hazelnuts(evaluate: Evaluate, real_data: Path) -> None:
    found = evaluate(None, tuple(list_images(real_data / "hazelnut")))
    assert found.image_auroc > 0.95
    assert found.pixel_auroc > 0.97
    assert found.pointing > 0.9


@pytest.mark.slow
def test_photographs_of_cookies(evaluate: Evaluate, real_data: Path) -> None:
    found = evaluate(None, tuple(list_images(real_data / "cookie")))
    assert found.image_auroc > 0.68
    assert found.pixel_auroc > 0.92
    assert found.pointing > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("category", ["gear", "cookie", "leather", "knitted_fabric"])
@pytest.mark.parametrize("compression", QUANTIZED)
def test_8_bits_on_unseen_procedural_categories(category: str, compression, evaluate: Evaluate, unseen) -> None:
    check(compression, category, evaluate, unseen[category])


@pytest.mark.slow
@pytest.mark.parametrize("category", ["hazelnut", "cookie"])
@pytest.mark.parametrize("compression", QUANTIZED)
def test_8_bits_on_photographs(category: str, compression, evaluate: Evaluate, real_data: Path) -> None:
    check(compression, category, evaluate, list_images(real_data / category))
