# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Weights of the frozen CLIP: fetched by open_clip, or read from a file without running code of it."""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path
from pickle import UnpicklingError  # noqa: S403 - only to catch and raise it
from typing import TYPE_CHECKING, Any

import open_clip
import torch
from open_clip.model import convert_to_custom_text_state_dict
from open_clip.pretrained import get_pretrained_cfg
from safetensors import safe_open
from torch import nn
from torch.overrides import TorchFunctionMode

from .compact_clip import TOKEN_IDS, read_clip
from .reading import reading, reason_of
from .registry import BUNDLED, OPENAI, default_pretrained, pretrained_tags
from .state_dict import check_state_dict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

logger = logging.getLogger(__name__)

RANDOM_WEIGHTS_SEED = 0
"""Seed of a CLIP without pretrained weights: adapters that were trained on it fit it again."""


def create_clip(backbone: str, pretrained: str | None) -> open_clip.CLIP:
    """Create a CLIP and load its weights.

    Args:
        backbone (str): Name of an open_clip model.
        pretrained (str | None): Tag of open_clip or of a bundled backbone, or path of a file that takes the place of
            the backbone's usual weights: safetensors, a state dict, OpenAI's archive, or a file of
            :func:`~anomalib_fbclip.checkpoints.compact_clip.save_clip`. ``None``: random weights.

    Returns:
        open_clip.CLIP: The CLIP, in float32 on the CPU.

    Raises:
        ValueError: If the tag is unknown, or the file can't be read or belongs to another model.
        RuntimeError: If the weights of a tag could not be fetched.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_WEIGHTS_SEED)
        if pretrained is None:
            return open_clip.create_model(backbone)
        if pretrained not in pretrained_tags(backbone):
            return _create_from_file(backbone, Path(pretrained))
        if backbone in BUNDLED:
            return _create_from_file(backbone, BUNDLED[backbone].clip)
        return _create_from_tag(backbone, pretrained)


def _create_from_tag(backbone: str, tag: str) -> open_clip.CLIP:
    logger.info("Loading CLIP %s with weights %r of open_clip.", backbone, tag)
    quick_gelu = tag == OPENAI or get_pretrained_cfg(backbone, tag).get("quick_gelu", False)
    try:
        with _Uninitialized():
            return open_clip.create_model(backbone, pretrained=tag, force_quick_gelu=quick_gelu)
    except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
        msg = (
            f"CLIP weights {tag!r} of {backbone} could not be fetched or read ({reason_of(error)}). Connect to the "
            "network once, so that open_clip keeps them in its cache, or fetch them by hand and give the file as "
            "'pretrained'."
        )
        raise RuntimeError(msg) from None


def _create_from_file(backbone: str, path: Path) -> open_clip.CLIP:
    if not path.is_file():
        tags = pretrained_tags(backbone)
        msg = f"Pretrained weights '{path}' are neither a file nor one of the tags of {backbone}: {tags}."
        raise ValueError(msg)
    logger.info("Loading CLIP %s with weights of %s.", backbone, path)
    # The file stands for the backbone's usual weights, so it has their activation.
    with _Uninitialized():
        clip = open_clip.create_model(backbone, force_quick_gelu=default_pretrained(backbone) == OPENAI)
    tensors = read_tensors(path, f"Pretrained weights {path}")
    if TOKEN_IDS in tensors:
        tensors = read_clip(path)
    tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    if hasattr(clip, "text"):
        tensors = convert_to_custom_text_state_dict(tensors)
    # OpenAI's files carry their sizes as tensors, and FB-CLIP has a temperature of its own.
    unused = {"input_resolution", "context_length", "vocab_size", "attn_mask", "logit_scale", "logit_bias"}
    tensors = {name: tensor for name, tensor in tensors.items() if name not in unused}
    expected = {name: tensor for name, tensor in clip.state_dict().items() if name not in unused}
    check_state_dict(expected, tensors, f"CLIP file {path} for backbone {backbone}")
    # They take the places of parameters that were never written to. Safetensors stay in the file until they are used.
    clip.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, strict=False, assign=True)
    return clip


class _Uninitialized(TorchFunctionMode):
    """Builds modules without drawing their parameters' initial values, which are about to be replaced."""

    def __torch_function__(  # noqa: PLW3201
        self,
        func: Callable,
        types: Sequence[type],
        args: tuple = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        del types
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__:
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def read_tensors(path: Path, what: str) -> dict[str, torch.Tensor]:
    """Read the tensors of a file without running code of it.

    Args:
        path (Path): A safetensors file, a saved state dict (alone or under ``state_dict``), or a TorchScript archive.
        what (str): What the file is, for the error.

    Returns:
        dict[str, torch.Tensor]: Tensors by name, on the CPU.

    Raises:
        ValueError: If the file can't be read or holds no tensors by name.
    """
    with reading(what):
        content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch_file(path)
    content = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in content.values()):
        msg = f"{what} holds no tensors by name."
        raise ValueError(msg)
    return content


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """Map each tensor on its own, so that its memory is free again as soon as it is converted or not needed."""

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
    return torch.load(path, map_location="cpu", weights_only=True)


def _refuse_code_at_load(path: Path) -> None:
    """Refuse a TorchScript archive with methods that ``torch.jit.load`` itself runs; they can write files."""
    # The reader of torch.jit.load, so that both see the same archive. The name has one spelling in TorchScript.
    reader = torch._C.PyTorchFileReader(str(path))  # noqa: SLF001 - torch has no public one
    sources = [name for name in reader.get_all_records() if name.lower().endswith(".py")]
    if any(b"__setstate__" in reader.get_record(name) for name in sources):
        msg = "Code of the archive would run as it is loaded."
        raise UnpicklingError(msg)
