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
from anomalib_fbclip.exported.runtimes import NAMESPACE
from anomalib_fbclip.results.thresholds import SOURCE_KEYS, THRESHOLD_KEYS

if TYPE_CHECKING:
    import torch

PRODUCT_KEYS = ("product", "taught")
"""Keys that tell products apart: the name, and the date of the first teaching."""

GOOD_SCORES = "good_scores"
"""Name of the scores of the good photographs. They follow from these, to rounding."""

NAMES = (
    *(
        "backbone",
        "pretrained",
        "source",
        "adapters",
        "image_size",
        "tiles",
        "region",
        "patch_size",
        "k_shot",
        GOOD_SCORES,
        "unlabeled",
        "photographs",
        "white_level",
    ),
    *PRODUCT_KEYS,
    "version",
)
THRESHOLDS = ("image_threshold", "pixel_threshold")
LIMITS = ("image_min", "image_max", "pixel_min", "pixel_max")

MODEL_INFO = "model_info"
"""Section of OpenVINO's rt_info from which openvino-model-api and OpenVINO Model Server read a model's kind."""

COMPRESSION_KEY = "compression"
"""Compression in a file's metadata: a name of anomalib's ``CompressionType``, or this one."""

UNCOMPRESSED = "FP32"

TORCH_FILE_PART = f"{NAMESPACE}.json"
"""File in the only folder of a file of torch, which is a zip archive."""

ROUNDING = 1e-3
"""Tolerance for thresholds and limits of the same model, which differ in the last digits when computed again."""


def describe(metadata: Mapping[str, Any], post_processor: object) -> dict[str, str]:
    """Describe a model in strings.

    Args:
        metadata (Mapping[str, Any]): ``backbone``, ``pretrained``, ``source``, ``adapters``, ``image_size``, ``tiles``,
            ``region``, ``patch_size``, ``k_shot``, ``good_scores``, ``unlabeled``, ``photographs`` (a digest of them),
            ``white_level``, ``product``, ``taught`` and ``version``, as far as they are known.
        post_processor (object): The model's post-processor. One of anomalib's has thresholds at which the graph decides
            and, if they were fitted, thresholds and limits of the normalization, of the scores before it. FBClip's says
            where the thresholds come from, too.

    Returns:
        dict[str, str]: What is known, by name. Lists are JSON.
    """
    known = {name: metadata.get(name) for name in NAMES}
    if known["pretrained"]:
        known["pretrained"] = Path(known["pretrained"]).name  # of a file, not where it lies
    description = {
        name: value if isinstance(value, str) else json.dumps(value) for name, value in known.items() if value
    }
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
    """Describe a model as openvino-model-api reads it.

    Args:
        description (Mapping[str, str]): What the model says of itself.

    Returns:
        dict[str, str]: Parameters of its ``AnomalyDetection``, by name. Lists are words.
    """
    thresholds = {
        name: description[key] for name, key in zip(THRESHOLDS, THRESHOLD_KEYS, strict=True) if key in description
    }
    return thresholds | {
        "model_type": "AnomalyDetection",
        "task": "detection",  # without it, no boxes
        "labels": "normal anomalous",
        "scale_values": "255 255 255",  # of images for a fixed input size; it divides all others by 255 by itself
    }


def add_to_torch_file(path: Path, description: Mapping[str, str]) -> None:
    """Write the metadata into a file of torch, which is a zip archive."""
    with ZipFile(path, "a") as archive:
        archive.writestr(_place(archive), json.dumps(description))


def check_replaced(path: Path, description: Mapping[str, str]) -> None:
    """Check that an export does not replace another model.

    Args:
        path (Path): The file to be written: ``.xml`` with its ``.bin``, ``.onnx`` or ``.pt``.
        description (Mapping[str, str]): What it will say of itself.

    Raises:
        ValueError: If there is a file that says something else, but for its version, or can't be read. Of an earlier
            state of the same product, only the compression counts.
    """
    if not path.exists() and not (path.suffix == ".xml" and path.with_suffix(".bin").exists()):
        return
    found = _read(path)
    if found is None:
        reason = "does not name its model"
    else:
        is_same_product = all(name in found and found[name] == description.get(name) for name in PRODUCT_KEYS)
        names = [name for name in (*description, *found) if name not in {"version", GOOD_SCORES}]
        names = [name for name in names if name == COMPRESSION_KEY or not is_same_product]
        other = next((name for name in names if not _is_same(found.get(name), description.get(name))), None)
        if other is None:
            return
        reason = f"is a model with {other} {found.get(other, 'unknown')}, not {description.get(other, 'unknown')}"
    msg = (
        f"{path} {reason}, and this export would replace it: give another export_root or model_file_name (fbclip "
        "export: --output)."
    )
    raise ValueError(msg)


def _read(path: Path) -> dict[str, str] | None:
    """Read a file's metadata; ``None`` if it has none, or is not a model."""
    try:
        if path.suffix == ".pt":
            with ZipFile(path) as archive:
                return json.loads(archive.read(_place(archive)))
        import openvino

        from anomalib_fbclip.exported.runtimes import read_openvino_metadata, read_openvino_model

        return read_openvino_metadata(read_openvino_model(openvino.Core(), path)) or None
    except (BadZipFile, EdgeError, IndexError, KeyError, OSError):
        return None


def _place(archive: ZipFile) -> str:
    """Return the path of the metadata inside a file of torch."""
    return f"{archive.namelist()[0].partition('/')[0]}/{TORCH_FILE_PART}"


def _is_same(found: str | None, value: str | None) -> bool:
    if found is None or value is None:
        return False
    try:
        return isclose(float(found), float(value), abs_tol=ROUNDING)
    except ValueError:  # no numbers
        return found == value
