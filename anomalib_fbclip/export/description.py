# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Metadata of exported files."""

import json
from collections.abc import Mapping
from math import isclose
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile, ZipFile

from anomalib.post_processing import PostProcessor

from anomalib_fbclip.errors import EdgeError
from anomalib_fbclip.exported.runtimes import NAMESPACE, read_openvino_metadata, read_openvino_model
from anomalib_fbclip.results.thresholds import SOURCE_KEYS, THRESHOLD_KEYS

if TYPE_CHECKING:
    import torch

PRODUCT_KEYS = ("product", "taught")
"""Keys that identify a product: the name, and the date of the first teaching."""

GOOD_SCORES = "good_scores"
"""Key of the good photographs' scores. They follow from the photographs, except for rounding."""

LEFT_OUT = {"signature", "feature_layers"}
"""Keys of adapters' metadata that an exported file does not need."""

THRESHOLDS = ("image_threshold", "pixel_threshold")
LIMITS = ("image_min", "image_max", "pixel_min", "pixel_max")

MODEL_INFO = "model_info"
"""Section of OpenVINO's rt_info that openvino-model-api and OpenVINO Model Server read."""

COMPRESSION_KEY = "compression"
"""Key of a file's compression: a name of anomalib's ``CompressionType``, or ``UNCOMPRESSED``."""

UNCOMPRESSED = "FP32"

ROUNDING = 1e-3
"""Tolerance for thresholds and limits, whose last digits differ when the same model is computed again."""


def describe(metadata: Mapping[str, Any], post_processor: object) -> dict[str, str]:
    """Describe a model as strings: what is known of it, and what its post-processor knows. Lists are JSON.

    anomalib's post-processor has the graph's thresholds and, if fitted, those before the normalization and its limits.
    FBClip's also has the sources of the thresholds.
    """
    known = {name: value for name, value in metadata.items() if value and name not in LEFT_OUT}
    if "pretrained" in known:
        known["pretrained"] = Path(known["pretrained"]).name  # not the folder of a file
    description = {name: value if isinstance(value, str) else json.dumps(value) for name, value in known.items()}
    return description | _thresholds_and_limits(post_processor)


def _thresholds_and_limits(post_processor: object) -> dict[str, str]:
    if not isinstance(post_processor, PostProcessor):
        return {}
    names = (*THRESHOLDS, *LIMITS) if post_processor.enable_normalization else THRESHOLDS
    values: dict[str, torch.Tensor] = {name: getattr(post_processor, name) for name in names}
    if post_processor.enable_thresholding:
        decision = (post_processor.normalized_image_threshold, post_processor.normalized_pixel_threshold)
        values |= dict(zip(THRESHOLD_KEYS, decision, strict=True))
    sources = {name: getattr(post_processor, name, None) for name in SOURCE_KEYS}
    return {name: repr(value.item()) for name, value in values.items() if value.isfinite()} | {
        name: source for name, source in sources.items() if source
    }


def model_info(description: Mapping[str, str]) -> dict[str, str]:
    """Describe a model by the parameters of openvino-model-api's ``AnomalyDetection``. Lists are words."""
    thresholds = {
        name: description[key] for name, key in zip(THRESHOLDS, THRESHOLD_KEYS, strict=True) if key in description
    }
    return thresholds | {
        "model_type": "AnomalyDetection",
        "task": "detection",  # without it, no boxes
        "labels": "normal anomalous",
        "scale_values": "255 255 255",  # for a fixed input size; for any other, it divides by 255 without this
    }


def add_to_torch_file(path: Path, description: Mapping[str, str]) -> None:
    """Write the metadata into a torch file."""
    with ZipFile(path, "a") as archive:
        archive.writestr(_place(archive), json.dumps(description))


def check_replaced(path: Path, description: Mapping[str, str]) -> None:
    """Raise an error if an export of an ``.xml`` with its ``.bin``, an ``.onnx`` or a ``.pt`` replaces another model.

    That is a file with other metadata, or one that can't be read. The version does not matter. For an earlier state of
    the same product, only the compression does.
    """
    beside = path.with_suffix(".bin") if path.suffix == ".xml" else path
    in_the_way = path if path.exists() else beside
    if not in_the_way.exists():
        return
    found = _read(path)
    if in_the_way.is_dir():
        reason = "is a folder"
    elif found is None:
        reason = "has no metadata"
    else:
        is_same_product = all(name in found and found[name] == description.get(name) for name in PRODUCT_KEYS)
        names = [name for name in (*description, *found) if name not in {"version", GOOD_SCORES}]
        names = [name for name in names if name == COMPRESSION_KEY or not is_same_product]
        other = next((name for name in names if not _is_same(found.get(name), description.get(name))), None)
        if other is None:
            return
        reason = f"is a model with {other} {found.get(other, 'unknown')}, not {description.get(other, 'unknown')}"
    msg = (
        f"{in_the_way} {reason}, and this export would replace it: give another export_root or model_file_name, or "
        "with fbclip export another --output."
    )
    raise ValueError(msg)


def _read(path: Path) -> dict[str, str] | None:
    """Read a file's metadata; ``None`` if it has none, or is not a model."""
    try:
        if path.suffix == ".pt":
            with ZipFile(path) as archive:
                return json.loads(archive.read(_place(archive)))
        return read_openvino_metadata(read_openvino_model(path)) or None
    except (BadZipFile, EdgeError, IndexError, KeyError, OSError):
        return None


def _place(archive: ZipFile) -> str:
    """Return the path of the metadata inside a torch file, which is a zip archive with one folder."""
    return f"{archive.namelist()[0].partition('/')[0]}/{NAMESPACE}.json"


def _is_same(found: str | None, value: str | None) -> bool:
    if found is None or value is None:
        return False
    try:
        return isclose(float(found), float(value), abs_tol=ROUNDING)
    except ValueError:  # no numbers
        return found == value
