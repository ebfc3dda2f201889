# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The adapters that the paper's authors publish: fetched, and renamed for this project."""

import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from anomalib_fbclip.errors import WeightsUnavailableError
from anomalib_fbclip.results.files import replacing

from .registry import BUNDLED, NEEDS_NO_NETWORK, PAPER_IMAGE_SIZE
from .tensor_files import read_checkpoint

logger = logging.getLogger(__name__)

DRIVE_FOLDER = "1YnNLLfdoQFNlvFB8ez_3XZ9Ox5ZrGDCa"
"""Identifier of the authors' Google Drive folder."""

PUBLISHED = {"mvtec": "mvtec_epoch_1_model.pth", "visa": "visa_epoch_2_model.pth"}
"""Files in the authors' folder, by the dataset that the adapters were trained on."""

PUBLISHED_BACKBONES = tuple(PAPER_IMAGE_SIZE)
"""Backbones that the authors' adapters fit."""

DATASET_ALIASES = {"mvtecad": "mvtec", "mvtecanomalydetection": "mvtec", "visa20220922": "visa"}
"""Names of these datasets in datamodules and folders."""

REFERENCE_GROUPS = ("prompt_learner", "model_trainable_params")
"""Entries with adapters in a checkpoint of the reference implementation."""

REFERENCE_NAMES = {
    r"ctx_pos": r"prompt_learner.normal_context",
    r"ctx_neg": r"prompt_learner.abnormal_context",
    r"fb_Attention\.fg_to_out\.0\.(weight|bias)": r"mvfbe.attention.foreground.to_out.\1",
    r"fb_Attention\.bg_to_out\.0\.(weight|bias)": r"mvfbe.attention.background.to_out.\1",
    r"fb_Attention\.fg_(norm\.weight|norm\.bias|to_[qkv]\.weight|scale)": r"mvfbe.attention.foreground.\1",
    r"fb_Attention\.bg_(norm\.weight|norm\.bias|to_[qkv]\.weight|scale)": r"mvfbe.attention.background.\1",
    r"fb_Attention\.((?:gate\.[02]|norm)\.(?:weight|bias))": r"mvfbe.attention.\1",
    r"token_selector\.([02]\.(?:weight|bias))": r"text_fusion.strategies.attention.selector.\1",
    r"text_projection_mlp\.([02]\.(?:weight|bias))": r"text_fusion.strategies.attention.mlp.\1",
    r"scale_weights": r"alignment.scale_weights",
}
"""Names of adapters in this project, by patterns of their names in the reference's checkpoints."""

REFERENCE_UNUSED = re.compile(
    r"token_(prefix|suffix)_(pos|neg)|tokenized_prompts_(pos|neg)"
    r"|compound_prompts_text\.[0-7]|compound_prompt_projections\.[0-7]\.(weight|bias)"
    r"|fusion_weights?|gate_network\.[02]\.(weight|bias)|layer_selector",
)
"""Names in the reference's checkpoints that it does not use."""


def canonical_name(dataset: str) -> str:
    """Normalize a dataset's name: lower case, letters and digits only; ``mvtec`` for MVTec AD, ``visa`` for VisA."""
    name = "".join(character for character in dataset.lower() if character.isalnum())
    return DATASET_ALIASES.get(name, name)


def choose_zero_shot(tested: Iterable[str]) -> str:
    """Choose adapters that were not trained on the tested datasets: ``visa`` for MVTec AD, otherwise ``mvtec``."""
    return "visa" if "mvtec" in map(canonical_name, tested) else "mvtec"


def check_published(backbone: str) -> None:
    """Check that the authors' adapters fit a backbone, before they are fetched.

    Raises:
        ValueError: If they don't.
    """
    if backbone in PUBLISHED_BACKBONES:
        return
    own = "'auto' for those that come with it, " if backbone in BUNDLED else ""
    msg = (
        f"The published adapters fit backbone {PUBLISHED_BACKBONES[0]} only, not {backbone!r}: set 'weights' to {own}"
        "a file of adapters, or a training checkpoint."
    )
    raise ValueError(msg)


def fetch_published(name: str, folder: Path) -> Path:
    """Find the authors' adapters in a folder, or download them from the authors' Google Drive to it.

    Args:
        name (str): Dataset that they were trained on, ``"mvtec"`` or ``"visa"``.
        folder (Path): The folder.

    Returns:
        Path: The file, a checkpoint of the reference implementation.

    Raises:
        WeightsUnavailableError: If they are not in the folder and can't be fetched.
    """
    path = folder / PUBLISHED[name]
    if path.is_file():
        return path
    from gdown.exceptions import DownloadError  # gdown is slow to import, and needed at most once

    url = f"https://drive.google.com/drive/folders/{DRIVE_FOLDER}"
    logger.info("Fetching FB-CLIP's adapters trained on %s from %s", name, url)
    try:
        _download(path)
    except (OSError, DownloadError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        msg = (
            f"FB-CLIP's adapters trained on {name!r} are not at '{path}', and could not be fetched from {url} "
            f"({reason}). Download {path.name} by hand and put it there, or give a file of adapters as 'weights'."
        )
        advice = "Or train your own with 'anomalib fit'. " + NEEDS_NO_NETWORK
        raise WeightsUnavailableError(msg, advice) from error
    return path


def _download(path: Path) -> None:
    import gdown

    files: list[Any] = gdown.download_folder(id=DRIVE_FOLDER, skip_download=True, quiet=True, use_cookies=False)
    identifiers = {Path(file.path).name: file.id for file in files}
    if path.name not in identifiers:
        msg = f"the folder holds {sorted(identifiers) or 'nothing'}, not {path.name}"
        raise FileNotFoundError(msg)
    with replacing(path) as temporary:
        gdown.download(id=identifiers[path.name], output=os.fspath(temporary), use_cookies=False)
        what = f"Adapter weights '{temporary}'"
        convert_reference(read_checkpoint(temporary, what), what)  # rejects a web page about a used-up quota


def convert_reference(checkpoint: object, what: str) -> tuple[dict[str, torch.Tensor], str]:
    """Extract the adapters of a checkpoint of the reference implementation.

    Args:
        checkpoint (object): The checkpoint, from :func:`~anomalib_fbclip.weights.tensor_files.read_checkpoint`.
        what (str): Subject of the error.

    Returns:
        tuple[dict[str, torch.Tensor], str]: The adapters by their names in this project, and the dataset that they
            were trained on.

    Raises:
        ValueError: If the checkpoint is something else.
    """
    if not isinstance(checkpoint, dict) or not all(isinstance(checkpoint.get(part), dict) for part in REFERENCE_GROUPS):
        msg = (
            f"{what} are not a checkpoint of FB-CLIP: give one from anomalib, or one from the reference "
            f"implementation, with {' and '.join(map(repr, REFERENCE_GROUPS))}."
        )
        raise ValueError(msg)
    tensors = {
        _rename(name): tensor.squeeze((0, 1)) if name in {"ctx_pos", "ctx_neg"} else tensor
        for group in REFERENCE_GROUPS
        for name, tensor in checkpoint[group].items()
        if not REFERENCE_UNUSED.fullmatch(name)
    }
    return tensors, checkpoint.get("source_domain", "unknown")


def _rename(name: str) -> str:
    for pattern, replacement in REFERENCE_NAMES.items():
        if match := re.fullmatch(pattern, name):
            return match.expand(replacement)
    return name
