# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Weights of the frozen CLIP: fetched by open_clip, or in a file, which is read without running code from it.

A compact file has matrices in 8 bits, the rest in half precision, and only the tokens that adapters are trained on.
"""

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
from open_clip.pretrained import download_pretrained, get_pretrained_cfg, list_pretrained_tags_by_model
from safetensors import safe_open

from anomalib_fbclip.errors import WeightsUnavailableError

from . import bundled
from .tensor_files import check_state_dict, read_safetensors, reading, reason_of, write_safetensors

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from torch import nn

logger = logging.getLogger(__name__)

OPENAI = "openai"
"""open_clip's tag for the weights of CLIP's authors, which use QuickGELU."""

NEEDS_NO_NETWORK = f"--model.backbone {bundled.NAME} needs no network."
"""Advice if weights can't be downloaded."""

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

COMPACT_FORMAT = "anomalib-fbclip CLIP in 8 bits"
"""Format of a compact file."""

SCALE = ".scale"
"""Suffix that turns a matrix's name into that of its rows' scales."""

LARGEST = 127
"""Largest 8-bit value: the range is symmetric."""

VOCABULARY = "token_embedding.weight"
"""Name of the embeddings of all tokens in a CLIP."""

TOKEN_IDS = "token_embedding.ids"  # noqa: S105 - no password
"""Name of the stored tokens' ids, in rising order."""

TOKEN_ROWS = "token_embedding.rows"  # noqa: S105
"""Name of the stored tokens' embeddings."""

TEMPERATURE = {"logit_scale", "logit_bias"}
"""Parameters of a CLIP that FB-CLIP does not use."""


def default_pretrained(backbone: str) -> str | None:
    """Find the tag of a backbone's default weights; ``None`` if there are none."""
    tags = pretrained_tags(backbone)
    return OPENAI if OPENAI in tags else next(iter(tags), None)


def resolve_pretrained(backbone: str, trained_with: str | None) -> str | None:
    """Find the weights that adapters were trained with or, if they are not available, the default ones."""
    is_here = trained_with is not None and (trained_with in pretrained_tags(backbone) or Path(trained_with).is_file())
    return trained_with if is_here else default_pretrained(backbone)


def pretrained_tags(backbone: str) -> list[str]:
    """List the tags of a backbone's weights: the bundled one, or open_clip's."""
    return [bundled.TAG] if backbone == bundled.NAME else list_pretrained_tags_by_model(backbone)


def create_clip(backbone: str, pretrained: str | None, towers: Towers = "both") -> open_clip.CLIP:
    """Create a CLIP in float32 on the CPU; a tower that is not loaded is on the meta device.

    Its weights are those of a tag of open_clip or of a bundled backbone, random ones for ``None``, or those of a file:
    safetensors, a state dict, OpenAI's archive, or a file of :func:`save_clip`. Weights that could not be fetched are a
    ``WeightsUnavailableError``; an unknown tag, and a file that can't be read or is of another model, a ``ValueError``.
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
    for name in list(tensors):
        if towers not in {"both", "image" if name.startswith(IMAGE_PREFIX) else "text"}:
            del tensors[name]
    # One at a time: the memory of a converted tensor is free again.
    converted = {name: tensors.pop(name).float() for name in list(tensors)}
    clip.load_state_dict(converted, assign=True, strict=towers == "both")
    if towers != "image":
        _restore_causal_mask(getattr(clip, "text", clip))
    return clip


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


def save_clip(clip: open_clip.CLIP, token_ids: Collection[int], path: str | Path) -> None:
    """Write a CLIP to a file for ``pretrained``. An existing file is replaced only when the new one is complete.

    The CLIP has no ``custom_text``, so that its text tower's parameters are at the top level. Only the embeddings of
    the tokens with these ids are stored. All others are read as zero.
    """
    tensors = _parameters(clip)
    vocabulary = tensors.pop(VOCABULARY)
    ids = sorted(set(token_ids))
    if not ids or ids[0] < 0 or ids[-1] >= len(vocabulary):
        msg = f"Give one or more token ids from 0 to {len(vocabulary) - 1}, not {ids[:1]} to {ids[-1:]}."
        raise ValueError(msg)
    stored = _compress({**tensors, TOKEN_ROWS: vocabulary[ids]})
    stored[TOKEN_IDS] = torch.tensor(ids, dtype=torch.int32)
    write_safetensors(Path(path), stored, {"format": COMPACT_FORMAT, "vocabulary_size": str(len(vocabulary))})


def read_clip(path: str | Path) -> dict[str, torch.Tensor]:
    """Read the parameters of a CLIP, by their names in open_clip, from a file of :func:`save_clip`.

    They are in float32 on the CPU. Embeddings that were not stored are zero.
    """
    with reading(f"CLIP weights '{path}'"):
        stored, metadata = read_safetensors(Path(path))
    if metadata.get("format") != COMPACT_FORMAT:
        msg = f"CLIP weights '{path}' were not saved by save_clip."
        raise ValueError(msg)
    ids = stored.pop(TOKEN_IDS)
    tensors = _expand(stored)
    rows = tensors.pop(TOKEN_ROWS)
    vocabulary = torch.zeros(int(metadata["vocabulary_size"]), rows.shape[1])
    vocabulary[ids.long()] = rows
    return tensors | {VOCABULARY: vocabulary}


@torch.no_grad()
def round_clip(clip: open_clip.CLIP) -> None:
    """Round a CLIP in place as :func:`save_clip` does, so that adapters are trained on the CLIP that users will have.

    Rounding twice changes nothing more. All tokens are kept.
    """
    parameters = _parameters(clip)
    for name, rounded in _expand(_compress(parameters)).items():
        parameters[name].copy_(rounded)


def _parameters(clip: open_clip.CLIP) -> dict[str, torch.Tensor]:
    """Collect the parameters that FB-CLIP uses. They share the CLIP's memory."""
    return {name: tensor.detach() for name, tensor in clip.named_parameters() if name not in TEMPERATURE}


def _compress(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Round the matrices of the blocks and of the patch embedding to 8 bits with a scale per row, the rest to 16."""
    stored: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if tensor.ndim > 1 and (".resblocks." in name or name.endswith("conv1.weight")):
            stored[name], stored[name + SCALE] = _compress_rows(tensor)
        else:
            stored[name] = tensor.half()
    if faulty := [name for name, tensor in stored.items() if not tensor.isfinite().all()]:
        names = ", ".join(name.removesuffix(SCALE) for name in faulty)
        msg = f"The CLIP can't be saved in 8 bits and half precision: {names} would not be finite."
        raise ValueError(msg)
    return stored


def _compress_rows(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round each row, an output channel, to whole multiples of its scale."""
    # bfloat16 has the range of float32, and 127 times a scale is exact: rounding twice changes nothing more.
    scales = (matrix.flatten(1).abs().amax(dim=1) / LARGEST).bfloat16()
    steps = matrix / _per_row(torch.where(scales == 0, 1, scales), matrix)
    return steps.round().clamp(-LARGEST, LARGEST).to(torch.int8), scales


def _expand(stored: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Restore compressed tensors, in float32."""
    return {
        name: tensor.float() * _per_row(stored[name + SCALE], tensor) if name + SCALE in stored else tensor.float()
        for name, tensor in stored.items()
        if not name.endswith(SCALE)
    }


def _per_row(scales: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    return scales.float().view(-1, *[1] * (matrix.ndim - 1))
