# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""8-bit quantization with NNCF."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any

import nncf
import torch
from anomalib.data import ImageBatch
from anomalib.deploy import CompressionType
from anomalib.metrics import F1Score
from nncf.quantization.range_estimator import RangeEstimatorParametersSet
from torchvision.transforms.v2.functional import resize

from .graph import BLOCK_PREFIX, HEAD_PREFIX, PRECISE_PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import numpy as np
    import openvino
    from anomalib.data import AnomalibDataModule, AnomalibDataset, ImageItem
    from torchmetrics import Metric

nncf.set_log_level(logging.ERROR)  # it prints a line for each of thousands of ignored nodes

QUANTIZATION = nncf.AdvancedQuantizationParameters(
    activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
    smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=-1),
)
"""Ranges that include all values of the calibration images, because later images may show other objects; and no
smoothing, which copies the attention's weights for each use, and does not raise accuracy."""

MOST_IMAGES = 300
"""Largest number of images from which nncf takes the ranges of values."""

LARGE_DROP = 0.1
"""Loss of the metric above which a user is warned."""

logger = logging.getLogger(__name__)


def check_max_drop(max_drop: float) -> None:
    """Check how far, 0..1, ``INT8_ACQ`` lets a metric drop, and warn if that is far."""
    if not 0 <= max_drop <= 1:
        msg = f"max_drop must be between 0 and 1, not {max_drop}: with 0.01, the metric may drop by one point in 100."
        raise ValueError(msg)
    if max_drop > LARGE_DROP:
        logger.warning(
            "max_drop=%s is large: the metric may drop by %.0f points in 100. 0.01 to 0.03 is usual.",
            max_drop,
            100 * max_drop,
        )


def compress(
    model: openvino.Model,
    compression_type: CompressionType | None,
    datamodule: AnomalibDataModule | None,
    metric: Metric | None,
    max_drop: float,
    check: Callable[[AnomalibDataset], Sequence[ImageItem]],
) -> openvino.Model:
    """Compress a model to 8 bits, if requested; ``None`` and ``FP16`` need nothing here.

    ``INT8_PTQ`` and ``INT8_ACQ`` need images. ``check`` makes a dataset read them correctly, or reject them by name.
    ``INT8_ACQ`` keeps the metric, or the images' F1 score.
    """
    if compression_type == CompressionType.INT8:
        return _compress_weights(model)
    if datamodule is None or compression_type not in {CompressionType.INT8_PTQ, CompressionType.INT8_ACQ}:
        return model
    datamodule.setup("fit")
    images = _images(datamodule, "val", check)
    logger.info("Calibrating in 8 bits on %d images: this can take minutes ...", min(len(images), MOST_IMAGES))
    if compression_type == CompressionType.INT8_PTQ:
        return quantize(model, images)
    test_images = _images(datamodule, "test", check)
    logger.info("Measuring the cost of 8 bits on %d images, several times ...", len(test_images))
    metric = metric or F1Score(fields=["pred_label", "gt_label"])
    return quantize_with_accuracy_control(model, images, test_images, metric, max_drop)


def quantize(model: openvino.Model, images: Sequence[ImageItem]) -> openvino.Model:
    """Quantize the parts of a model that lose little accuracy in 8 bits. Up to 300 images give the ranges of values."""
    size = _input_size(model)
    quantized = nncf.quantize(
        model,
        nncf.Dataset(images, lambda item: _to_input(item, size)),
        model_type=nncf.ModelType.TRANSFORMER,
        ignored_scope=_sensitive_nodes(model),
        advanced_parameters=QUANTIZATION,
    )
    return _compress_weights(quantized)


def quantize_with_accuracy_control(
    model: openvino.Model,
    images: Sequence[ImageItem],
    test_images: Sequence[ImageItem],
    metric: Metric,
    max_drop: float,
) -> openvino.Model:
    """Quantize a model as :func:`quantize`, except for layers that make a metric of the test images drop too far.

    The metric is anomalib's; higher is better.
    """
    size = _input_size(model)

    def validate(compiled_model: openvino.CompiledModel, items: Iterable[ImageItem]) -> tuple[float, None]:
        metric.reset()
        for item in items:
            metric.update(_predict(compiled_model, item, _to_input(item, size)))
        return float(metric.compute()), None

    quantized = nncf.quantize_with_accuracy_control(
        model,
        nncf.Dataset(images, lambda item: _to_input(item, size)),
        nncf.Dataset(test_images),
        validate,
        max_drop=max_drop,
        model_type=nncf.ModelType.TRANSFORMER,
        ignored_scope=_sensitive_nodes(model),
        advanced_quantization_parameters=QUANTIZATION,
    )
    return _compress_weights(quantized)


def _compress_weights(model: openvino.Model) -> openvino.Model:
    """Store the remaining weights, but those of precise nodes, in 8 bits; compute with them in full precision."""
    precise = nncf.IgnoredScope(patterns=[f"{PRECISE_PREFIX}.*"], validate=False)
    return nncf.compress_weights(model, ignored_scope=precise)


def _sensitive_nodes(model: openvino.Model) -> nncf.IgnoredScope:
    """Select the nodes that would lose most accuracy in 8 bits.

    These are the image tower's first and last blocks, the products of queries, keys and values, and everything outside
    of the image tower and the linear layers of the foreground-background attention.
    """
    names = [node.get_friendly_name() for node in model.get_ops()]
    blocks = sorted({int(found[1]) for name in names if (found := re.match(rf"{BLOCK_PREFIX}(\d+)/", name))})
    sensitive = (PRECISE_PREFIX, HEAD_PREFIX, *(f"{BLOCK_PREFIX}{block}/" for block in (blocks[0], blocks[-1])))
    return nncf.IgnoredScope(
        types=["ScaledDotProductAttention"], patterns=[f"{prefix}.*" for prefix in sensitive], validate=False
    )


def _images(
    datamodule: AnomalibDataModule, subset: str, check: Callable[[AnomalibDataset], Sequence[ImageItem]]
) -> Sequence[ImageItem]:
    """Return the images of a subset, ``"val"`` or ``"test"``, in their own sizes."""
    images = getattr(datamodule, f"{subset}_data", None)
    if not images:
        msg = f"{datamodule.name} has no {subset} images to quantize with: change its {subset}_split_mode."
        raise ValueError(msg)
    return check(images)


def _input_size(model: openvino.Model) -> tuple[int, int] | None:
    """Return a model's fixed input height and width in pixels; ``None`` if any size fits."""
    *_, height, width = model.input(0).get_partial_shape()
    return (height.get_length(), width.get_length()) if height.is_static and width.is_static else None


def _to_input(item: ImageItem, size: tuple[int, int] | None) -> np.ndarray[Any, Any]:
    """Make a batch of one image, resized if the model's input size is fixed."""
    image = torch.as_tensor(item.image).as_subclass(torch.Tensor)
    return (image if size is None else resize(image, list(size), antialias=True)).unsqueeze(0).numpy()


def _predict(compiled_model: openvino.CompiledModel, item: ImageItem, image: np.ndarray[Any, Any]) -> ImageBatch:
    outputs = compiled_model(image)
    pred_mask = torch.from_numpy(outputs["pred_mask"])
    return ImageBatch(
        image=torch.from_numpy(image),
        gt_label=None if item.gt_label is None else item.gt_label.reshape(1),
        gt_mask=None if item.gt_mask is None else resize(item.gt_mask.unsqueeze(0), list(pred_mask.shape[-2:])),
        pred_score=torch.from_numpy(outputs["pred_score"]),
        pred_label=torch.from_numpy(outputs["pred_label"]),
        anomaly_map=torch.from_numpy(outputs["anomaly_map"]),
        pred_mask=pred_mask,
    )
