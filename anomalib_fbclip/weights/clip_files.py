# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Weights of the frozen CLIP: fetched by open_clip, or read from a file without running code from it."""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path
from pickle import UnpicklingError  # noqa: S403 - only to catch and raise it
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import open_clip
import torch
from huggingface_hub.constants import HF_HUB_CACHE
from open_clip.model import convert_to_custom_text_state_dict
from open_clip.pretrained import download_pretrained, get_pretrained_cfg
from safetensors import safe_open

from anomalib_fbclip.errors import WeightsUnavailableError

from . import bundled
from .compact_clip import TEMPERATURE, TOKEN_IDS, read_clip
from .registry import NEEDS_NO_NETWORK, OPENAI, default_pretrained, pretrained_tags
from .tensor_files import check_state_dict, reading, reason_of

if TYPE_CHECKING:
    from torch import nn

logger = logging.getLogger(__name__)

OPEN_CLIP_CACHE = Path("~/.cache/clip")
"""Folder in which open_clip keeps downloaded files."""

RANDOM_WEIGHTS_SEED = 0
"""Seed of a CLIP without pretrained weights, so that adapters trained on it keep fitting."""

UNUSED = {"input_resolution", "context_length", "vocab_size", "attn_mask"}
"""Entries of CLIP files that are not parameters."""

Towers: TypeAlias = Literal["both", "image", "text"]
"""Towers of a CLIP that are loaded."""

IMAGE_PREFIX = "visual."
"""Prefix of the image tower's parameters in open_clip. All others are the text tower's."""


def create_clip(backbone: str, pretrained: str | None, towers: Towers = "both") -> open_clip.CLIP:
    """Create a CLIP in float32 on the CPU; a tower that is not loaded is on the meta device.

    Its weights are those of a tag of open_clip or of a bundled backbone, random ones for ``None``, or those of a file:
    safetensors, a state dict, OpenAI's archive, or a file of
    :func:`~anomalib_fbclip.weights.compact_clip.save_clip`.

    Raises:
        ValueError: If the tag is unknown, or the file can't be read or belongs to another model.
        WeightsUnavailableError: If the weights of a tag could not be fetched.
    """
    if pretrained is None:
        if towers != "text":  # it was said for the image tower
            logger.warning(
                "open_clip has no weights for backbone %s: its CLIP is random. Give a file of weights as 'pretrained'.",
                backbone,
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(RANDOM_WEIGHTS_SEED)
            return _create(backbone)
    tags = pretrained_tags(backbone)
    if pretrained in tags:
        path = bundled.CLIP_FILE if backbone == bundled.NAME else _fetch(backbone, pretrained)
        return _create_from_file(backbone, path, pretrained, towers)
    path = Path(pretrained)
    if not path.is_file():
        msg = f"Pretrained weights '{path}' are neither a file nor one of the tags of {backbone}: {tags}."
        raise ValueError(msg)
    # The file replaces the default weights, so it needs their activation.
    return _create_from_file(backbone, path, default_pretrained(backbone), towers)


def _create(backbone: str, **kwargs: Any) -> open_clip.CLIP:  # noqa: ANN401 - arguments of open_clip
    """Create a CLIP without weights, about which open_clip 3 warns each time."""
    root = logging.getLogger()
    root.addFilter(_is_error)
    try:
        return open_clip.create_model(backbone, **kwargs)
    finally:
        root.removeFilter(_is_error)


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def _fetch(backbone: str, tag: str) -> Path:
    """Find the weights of a tag in open_clip's cache, or have open_clip fetch them."""
    try:
        return Path(download_pretrained(get_pretrained_cfg(backbone, tag)))
    except (OSError, RuntimeError) as error:
        msg = (
            f"CLIP weights {tag!r} of {backbone} could not be fetched ({reason_of(error)}). Connect to the network "
            f"once, {_describe_place(get_pretrained_cfg(backbone, tag))}."
        )
        advice = f"Or give a file as 'pretrained'. {NEEDS_NO_NETWORK}"
        raise WeightsUnavailableError(msg, advice) from None


def _describe_place(config: dict[str, Any]) -> str:
    """Say where to get a file, and where open_clip looks for it."""
    if url := config.get("url"):
        return f"or download {url} by hand to '{OPEN_CLIP_CACHE.expanduser() / Path(url).name}'"
    repository, _, name = config.get("hf_hub", "").rpartition("/")
    return f"so that {name or 'open_clip_pytorch_model.bin'} of {repository} is kept in '{HF_HUB_CACHE}'"


def _create_from_file(backbone: str, path: Path, tag: str | None, towers: Towers) -> open_clip.CLIP:
    """Create a CLIP with the weights of a file, which must fit exactly, and the activation of a tag's weights."""
    logger.info("Loading CLIP %s with weights of %s.", backbone, path)
    is_quick_gelu = tag == OPENAI or get_pretrained_cfg(backbone, tag or "").get("quick_gelu", False)
    with torch.device("meta"):  # without memory for values that the file replaces
        clip = _create(backbone, device="meta", force_quick_gelu=is_quick_gelu)
    expected = clip.state_dict()
    tensors = _read_clip_tensors(path)
    if hasattr(clip, "text"):
        tensors = convert_to_custom_text_state_dict(tensors)
    for name in TEMPERATURE:  # FB-CLIP has its own
        if name in expected:
            tensors.setdefault(name, torch.zeros(expected[name].shape))
        else:
            tensors.pop(name, None)
    check_state_dict(expected, tensors, f"CLIP file {path} for backbone {backbone}")
    for name in [name for name in tensors if towers not in {"both", _tower_of(name)}]:
        del tensors[name]
    # One at a time: the memory of a converted tensor is free again.
    converted = {name: tensors.pop(name).float() for name in list(tensors)}
    clip.load_state_dict(converted, assign=True, strict=towers == "both")
    if towers != "image":
        _restore_causal_mask(getattr(clip, "text", clip))
    return clip


def _tower_of(name: str) -> str:
    return "image" if name.startswith(IMAGE_PREFIX) else "text"


def _restore_causal_mask(text_tower: nn.Module) -> None:
    """Fill the causal mask, a buffer that files don't hold. A tower with attention both ways has none."""
    if isinstance(text_tower.attn_mask, torch.Tensor):
        text_tower.attn_mask = torch.full(text_tower.attn_mask.shape, -torch.inf).triu(diagonal=1)


def _read_clip_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read the parameters of a CLIP, with open_clip's names and the file's types."""
    tensors = read_tensors(path, f"Pretrained weights {path}")
    if TOKEN_IDS in tensors:
        return read_clip(path)
    names = {name: name.removeprefix("module.") for name in tensors}
    return {name: tensors[stored] for stored, name in names.items() if name not in UNUSED}


def read_tensors(path: Path, what: str) -> dict[str, torch.Tensor]:
    """Read tensors by name to the CPU, without running code from their file.

    It is a safetensors file, a saved state dict (alone or under ``state_dict``), or a TorchScript archive. Something
    else raises ``ValueError`` about ``what``.
    """
    with reading(what):
        content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch_file(path)
    content = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in content.values()):
        msg = f"{what} holds no tensors by name."
        raise ValueError(msg)
    return content


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """Map each tensor separately: it is read when it is used, and its memory is freed when it is converted."""

    def read(name: str) -> torch.Tensor:
        with safe_open(path, "pt") as file:
            return file.get_tensor(name)

    with safe_open(path, "pt") as file:
        names = list(file.keys())
    return {name: read(name) for name in names}


def _read_torch_file(path: Path) -> Any:  # noqa: ANN401
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            is_torchscript = any(name.endswith("constants.pkl") for name in archive.namelist())
        if is_torchscript:
            _refuse_code_at_load(path)
            return torch.jit.load(path, map_location="cpu").state_dict()
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return torch.load(path, map_location="cpu", weights_only=True)


def _refuse_code_at_load(path: Path) -> None:
    """Reject a TorchScript archive with methods that ``torch.jit.load`` itself runs: they can write files."""
    # torch.jit.load uses this reader, too, so both see the same archive. TorchScript allows one spelling of the name.
    reader = torch._C.PyTorchFileReader(str(path))  # noqa: SLF001 - torch has no public one
    sources = [name for name in reader.get_all_records() if name.lower().endswith(".py")]
    if any(b"__setstate__" in reader.get_record(name) for name in sources):
        msg = "loading the archive would run its code"
        raise UnpicklingError(msg)
