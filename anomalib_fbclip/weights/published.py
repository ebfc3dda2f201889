# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The adapters that the paper's authors publish: fetched from their folder, and given their names in this project."""

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
"""Identifier of the Google Drive folder in which the authors publish their adapters."""

PUBLISHED = {"mvtec": "mvtec_epoch_1_model.pth", "visa": "visa_epoch_2_model.pth"}
"""The authors' adapters by the dataset that they were trained on, and their files in the folder."""

PUBLISHED_BACKBONES = tuple(PAPER_IMAGE_SIZE)
"""The backbones that the authors' adapters fit."""

DATASET_ALIASES = {"mvtecad": "mvtec", "mvtecanomalydetection": "mvtec", "visa20220922": "visa"}
"""Other names of the datasets on which published adapters were trained: of datamodules, and of folders."""

REFERENCE_GROUPS = ("prompt_learner", "model_trainable_params")
"""Entries of a checkpoint of the reference implementation that hold adapters by name."""

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
"""Names of adapters in the reference's checkpoints (as patterns) and in this project."""

REFERENCE_UNUSED = re.compile(
    r"token_(prefix|suffix)_(pos|neg)|tokenized_prompts_(pos|neg)"
    r"|compound_prompts_text\.[0-7]|compound_prompt_projections\.[0-7]\.(weight|bias)"
    r"|fusion_weights?|gate_network\.[02]\.(weight|bias)|layer_selector",
)
"""Names in the reference's checkpoints that take no part in its computation."""


def canonical_name(dataset: str) -> str:
    """Bring the names under which datasets go to one form.

    Args:
        dataset (str): Name of a dataset or datamodule, such as ``MVTecAD`` or ``mvtec``.

    Returns:
        str: The name in lower case, letters and digits only; ``mvtec`` for MVTec AD and ``visa`` for VisA.
    """
    name = "".join(character for character in dataset.lower() if character.isalnum())
    return DATASET_ALIASES.get(name, name)


def choose_zero_shot(tested: Iterable[str]) -> str:
    """Choose adapters that were not trained on what is tested.

    Args:
        tested (Iterable[str]): Names of the datasets.

    Returns:
        str: ``"visa"`` if one of them is MVTec AD, otherwise ``"mvtec"``.
    """
    return "visa" if "mvtec" in map(canonical_name, tested) else "mvtec"


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
        "a file of adapters, or the checkpoint of a training."
    )
    raise ValueError(msg)


def fetch_published(name: str, folder: Path) -> Path:
    """Find the authors' adapters in a folder, or fetch them from the authors' Google Drive and keep them there.

    Args:
        name (str): The dataset that they were trained on, ``"mvtec"`` or ``"visa"``.
        folder (Path): The folder.

    Returns:
        Path: The file, a checkpoint of the reference implementation.

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
        convert_reference(read_checkpoint(temporary, what), what)  # it may be a page: the quota is used up


def convert_reference(checkpoint: object, what: str) -> tuple[dict[str, torch.Tensor], str]:
    """Give the adapters of a checkpoint of the reference their names in this project.

    Args:
        checkpoint (object): What :func:`~anomalib_fbclip.weights.tensor_files.read_checkpoint` has read.
        what (str): What it is, with its path, for the error.

    Returns:
        tuple[dict[str, torch.Tensor], str]: The adapters by their names in this project, and the name of the dataset
            that they were trained on.

    Raises:
        ValueError: If it is something else.
    """
    if not isinstance(checkpoint, dict) or not all(isinstance(checkpoint.get(part), dict) for part in REFERENCE_GROUPS):
        msg = (
            f"{what} are not a checkpoint of FB-CLIP: neither of a training with anomalib, nor of the reference "
            f"implementation, which has {' and '.join(map(repr, REFERENCE_GROUPS))}."
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
