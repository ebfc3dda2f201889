# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Where the adapters come from: a file of this project, a checkpoint of the reference, or the authors' folder."""

import json
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from anomalib_fbclip.contract.files import replacing

from .reading import reading
from .registry import BUNDLED, PAPER_IMAGE_SIZE, Widths
from .safetensors_files import read_safetensors, write_safetensors
from .state_dict import load_state_dict

logger = logging.getLogger(__name__)

DRIVE_FOLDER = "1YnNLLfdoQFNlvFB8ez_3XZ9Ox5ZrGDCa"
"""Identifier of the Google Drive folder in which the authors publish their adapters."""

PUBLISHED = {"mvtec": "mvtec_epoch_1_model.pth", "visa": "visa_epoch_2_model.pth"}
"""The authors' adapters by the dataset that they were trained on, and their files in the folder."""

PUBLISHED_BACKBONES = tuple(PAPER_IMAGE_SIZE)
"""The backbones that the authors' adapters fit."""

FORMAT = "anomalib-fbclip adapters"

REFERENCE_NAMES = {
    r"ctx_pos": r"prompt_learner.normal_context",
    r"ctx_neg": r"prompt_learner.abnormal_context",
    r"fb_Attention\.fg_to_out\.0\.(weight|bias)": r"attention.foreground.to_out.\1",
    r"fb_Attention\.bg_to_out\.0\.(weight|bias)": r"attention.background.to_out.\1",
    r"fb_Attention\.fg_(norm\.weight|norm\.bias|to_[qkv]\.weight|scale)": r"attention.foreground.\1",
    r"fb_Attention\.bg_(norm\.weight|norm\.bias|to_[qkv]\.weight|scale)": r"attention.background.\1",
    r"fb_Attention\.((?:gate\.[02]|norm)\.(?:weight|bias))": r"attention.\1",
    r"token_selector\.([02]\.(?:weight|bias))": r"text_fusion.strategies.attention.selector.\1",
    r"text_projection_mlp\.([02]\.(?:weight|bias))": r"text_fusion.strategies.attention.mlp.\1",
    r"scale_weights": r"alignment.scale_weights",
}
"""Names of adapters in the reference's checkpoints (as patterns) and in this project."""

REFERENCE_UNUSED = re.compile(
    r"token_(prefix|suffix)_(pos|neg)|tokenized_prompts_(pos|neg)"
    r"|compound_prompts_text\.[0-7]|compound_prompt_projections\.[0-7]\.(weight|bias)"
    r"|fusion_weights?|gate_network\.[02]\.(weight|bias)|layer_selector",
)
"""Names in the reference's checkpoints that take no part in its computation."""


WIDTHS_OF_TENSORS = (
    ("attention.norm.weight", 0),
    ("prompt_learner.normal_context", 1),
    ("text_fusion.strategies.attention.mlp.2.weight", 0),
)
"""Adapters, and a dimension of each, that tell the widths of image tower, text tower and joint space."""


class WeightsUnavailableError(RuntimeError):
    """Published adapters are not in the cache and could not be fetched."""


class Adapters(NamedTuple):
    """Trained adapters.

    Attributes:
        tensors (dict[str, torch.Tensor]): The adapters by their names in :class:`~anomalib_fbclip.FBClipModel`.
        metadata (dict[str, Any]): What is known of them: ``source`` (the dataset that they were trained on) and, in a
            file of this project, ``backbone``, ``pretrained``, ``signature``, ``image_size``, ``feature_layers`` and
            ``version``.
    """

    tensors: dict[str, torch.Tensor]
    metadata: dict[str, Any]


def adapter_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Collect the adapters of a model: everything but the frozen backbone.

    Args:
        model (nn.Module): An :class:`~anomalib_fbclip.FBClipModel`.

    Returns:
        dict[str, torch.Tensor]: The adapters by name, sharing memory with the model.
    """
    return {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("backbone.")}


def load_adapters(model: nn.Module, adapters: Adapters, origin: str) -> None:
    """Copy adapters into a model, all or none.

    Args:
        model (nn.Module): An :class:`~anomalib_fbclip.FBClipModel`.
        adapters (Adapters): The adapters.
        origin (str): Where they come from, for the error.

    Raises:
        ValueError: If names are missing or unknown, or shapes differ.
    """
    frozen = {name: tensor for name, tensor in model.state_dict().items() if name.startswith("backbone.")}
    load_state_dict(model, {**frozen, **adapters.tensors}, origin)


def save_adapters(path: Path, adapters: Adapters) -> None:
    """Write adapters to a safetensors file. A file that stood there is replaced only by a complete one.

    Args:
        path (Path): The file, with the suffix ``.safetensors``.
        adapters (Adapters): The adapters.

    Raises:
        ValueError: If the path has another suffix.
    """
    metadata = {"format": FORMAT} | {key: json.dumps(value) for key, value in adapters.metadata.items()}
    write_safetensors(path, adapters.tensors, metadata)


def read_adapters(path: Path) -> Adapters:
    """Read adapters from a file of this project or from a checkpoint of the reference, without running code of it.

    Args:
        path (Path): A ``.safetensors`` file, or a checkpoint of the reference.

    Returns:
        Adapters: The adapters.

    Raises:
        ValueError: If there is no such file, it can't be read, or it is something else.
    """
    if not path.is_file():
        msg = f"Adapter weights '{path}' do not exist. Give a file, 'auto', {' or '.join(map(repr, PUBLISHED))}."
        raise ValueError(msg)
    return _read_own(path) if path.suffix == ".safetensors" else _read_reference(path)


def _read_own(path: Path) -> Adapters:
    with reading(f"Adapter weights '{path}'"):
        tensors, metadata = read_safetensors(path)
    if metadata.pop("format", None) != FORMAT:
        msg = f"Adapter weights '{path}' were not saved by FBClip.save_adapters."
        raise ValueError(msg)
    return Adapters(tensors, {key: json.loads(value) for key, value in metadata.items()})


def _read_reference(path: Path) -> Adapters:
    # The reference stores its loss as a scalar of numpy 1.x: exactly that is allowed, and nothing else is unpickled.
    scalar = np.float64(0).__reduce__()[0]
    allowed = [(scalar, "numpy.core.multiarray.scalar"), scalar, np.dtype, type(np.dtype(np.float64))]
    with reading(f"Adapter weights '{path}'"), torch.serialization.safe_globals(allowed):
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    groups = ("prompt_learner", "model_trainable_params")
    if not isinstance(checkpoint, dict) or not all(isinstance(checkpoint.get(group), dict) for group in groups):
        msg = (
            f"Adapter weights '{path}' are no checkpoint of FB-CLIP: it has 'prompt_learner' and "
            "'model_trainable_params'. Give a checkpoint of anomalib as 'ckpt_path' instead."
        )
        raise ValueError(msg)
    named = {name: tensor for group in groups for name, tensor in checkpoint[group].items()}
    tensors = {
        _rename(name): tensor.squeeze((0, 1)) if name in {"ctx_pos", "ctx_neg"} else tensor
        for name, tensor in named.items()
        if not REFERENCE_UNUSED.fullmatch(name)
    }
    return Adapters(tensors, {"source": checkpoint.get("source_domain", "unknown")})


def _rename(name: str) -> str:
    for pattern, replacement in REFERENCE_NAMES.items():
        if match := re.fullmatch(pattern, name):
            return match.expand(replacement)
    return name


def check_backbone(metadata: Mapping[str, Any], backbone: str, origin: str) -> None:
    """Compare the backbone that adapters were trained on with the one that they should work on.

    Args:
        metadata (Mapping[str, Any]): What is known of the adapters.
        backbone (str): Name of the backbone at hand.
        origin (str): Where the adapters come from, for the error.

    Raises:
        ValueError: If the adapters belong to another backbone.
    """
    trained_on = metadata.get("backbone", backbone)
    if trained_on != backbone:
        msg = f"{origin} holds adapters of backbone {trained_on!r}, but this model has {backbone!r}: set 'backbone'."
        raise ValueError(msg)


def check_widths(tensors: Mapping[str, torch.Tensor], widths: Widths, origin: str) -> None:
    """Compare the widths of the CLIP that adapters were trained on with those of the one that they should work on.

    Args:
        tensors (Mapping[str, torch.Tensor]): The adapters.
        widths (Widths): The widths at hand.
        origin (str): Where the adapters come from, for the error.

    Raises:
        ValueError: If the widths differ.
    """
    found = [tensors[name].shape[dim] if name in tensors else None for name, dim in WIDTHS_OF_TENSORS]
    if any(width not in {None, wanted} for width, wanted in zip(found, widths, strict=True)):
        msg = (
            f"{origin} holds adapters of another backbone: its widths (image, text, joint) are {found}, "
            f"not {list(widths)}."
        )
        raise ValueError(msg)


def check_signature(metadata: Mapping[str, Any], signature: list[float], origin: str) -> None:
    """Compare the CLIP's weights on which adapters were trained with those that they should work on.

    Args:
        metadata (Mapping[str, Any]): What is known of the adapters.
        signature (list[float]): A few of the weights at hand.
        origin (str): Where the adapters come from, for the error.

    Raises:
        ValueError: If the weights differ by more than a conversion to half precision.
    """
    if not np.allclose(metadata.get("signature", signature), signature, atol=2e-3):
        msg = (
            f"{origin} holds adapters that were trained on other weights of the backbone "
            f"(pretrained: {metadata.get('pretrained')!r}): set 'pretrained' to the same."
        )
        raise ValueError(msg)


def resolve_adapters_file(weights: str, backbone: str) -> Path | None:
    """Find the file of the adapters that are asked for, as far as it is known without a run of the trainer.

    Args:
        weights (str): Path of a file, ``"mvtec"``, ``"visa"`` or ``"auto"``.
        backbone (str): Name of the backbone.

    Returns:
        Path | None: The file; for ``"auto"`` that of a bundled backbone. ``None``: published adapters.

    Raises:
        ValueError: If adapters are named that do not fit the backbone.
    """
    if weights == "auto":
        return BUNDLED[backbone].adapters if backbone in BUNDLED else None
    if weights not in PUBLISHED:
        return Path(weights)
    check_published(backbone)
    return None


def check_published(backbone: str) -> None:
    """Make sure that the authors' adapters fit a backbone, before they are fetched.

    Args:
        backbone (str): Name of the backbone.

    Raises:
        ValueError: If they fit only others.
    """
    if backbone in PUBLISHED_BACKBONES:
        return
    own = "'auto' for those that come with it, " if backbone in BUNDLED else ""
    msg = (
        f"The published adapters fit backbone {PUBLISHED_BACKBONES[0]} only, not {backbone!r}: set 'weights' to {own}"
        "a file of adapters, or null to train your own, or give a checkpoint as 'ckpt_path'."
    )
    raise ValueError(msg)


def fetch_published(name: str, folder: Path) -> Path:
    """Find the authors' adapters in a folder, or fetch them from the authors' Google Drive and keep them there.

    Args:
        name (str): The dataset that they were trained on, ``"mvtec"`` or ``"visa"``.
        folder (Path): The folder.

    Returns:
        Path: The file.

    Raises:
        WeightsUnavailableError: If they are not in the folder and can't be fetched.
    """
    path = folder / PUBLISHED[name]
    if path.is_file():
        return path
    from gdown.exceptions import DownloadError  # gdown is slow to import, and needed once at most

    url = f"https://drive.google.com/drive/folders/{DRIVE_FOLDER}"
    logger.info("Fetching FB-CLIP's adapters trained on %s from %s", name, url)
    try:
        _download(PUBLISHED[name], path)
    except (OSError, DownloadError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        msg = (
            f"FB-CLIP's adapters trained on {name!r} are not at '{path}', and could not be fetched from {url} "
            f"({reason}). Either download {PUBLISHED[name]} by hand and put it there, or give a file of adapters as "
            "'weights', or train your own with 'anomalib fit' and give its checkpoint as 'ckpt_path'."
        )
        raise WeightsUnavailableError(msg) from error
    return path


def _download(file_name: str, path: Path) -> None:
    import gdown

    files: list[Any] = gdown.download_folder(id=DRIVE_FOLDER, skip_download=True, quiet=True, use_cookies=False)
    identifiers = {Path(file.path).name: file.id for file in files}
    if file_name not in identifiers:
        msg = f"the folder holds {sorted(identifiers) or 'nothing'}, not {file_name}"
        raise FileNotFoundError(msg)
    with replacing(path) as temporary:
        gdown.download(id=identifiers[file_name], output=os.fspath(temporary), use_cookies=False)
        read_adapters(temporary)
