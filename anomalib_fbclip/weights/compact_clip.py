# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""A CLIP in a small file: matrices in 8 bits, all else in half precision, and only the tokens that were trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .tensor_files import read_safetensors, reading, write_safetensors

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import open_clip

FORMAT = "anomalib-fbclip CLIP in 8 bits"

SCALE = ".scale"
"""Suffix that turns a matrix's name into that of its rows' scales."""

LARGEST = 127
"""Largest value in 8 bits that is used: the range is symmetric."""

VOCABULARY = "token_embedding.weight"
"""Name of the embedding of all tokens, in a CLIP."""

TOKEN_IDS = "token_embedding.ids"  # noqa: S105 - no password
"""Name of the ids of the tokens that a file holds, rising."""

TOKEN_ROWS = "token_embedding.rows"  # noqa: S105
"""Name of those tokens' embeddings."""

TEMPERATURE = {"logit_scale", "logit_bias"}
"""Parameters of a CLIP that FB-CLIP has no use for."""


def save_clip(clip: open_clip.CLIP, token_ids: Collection[int], path: str | Path) -> None:
    """Write a CLIP to a file that ``pretrained`` takes. A file that stood there is replaced only by a complete one.

    Args:
        clip (open_clip.CLIP): The CLIP, with its text tower's parameters at the top level, as open_clip builds it
            unless a config has ``custom_text``.
        token_ids (Collection[int]): Tokens whose embeddings are kept. Those of all others are zero when the file is
            read.
        path (str | Path): A file with the suffix ``.safetensors``.

    Raises:
        ValueError: If there are no ids or one lies outside the vocabulary, if a parameter can't be rounded, or if the
            path has another suffix.
    """
    tensors = _parameters(clip)
    vocabulary = tensors.pop(VOCABULARY)
    ids = sorted(set(token_ids))
    if not ids or ids[0] < 0 or ids[-1] >= len(vocabulary):
        msg = f"Give ids of tokens from 0 to {len(vocabulary) - 1}, at least one, not {ids[:1]} to {ids[-1:]}."
        raise ValueError(msg)
    stored = _compress({**tensors, TOKEN_ROWS: vocabulary[ids]})
    stored[TOKEN_IDS] = torch.tensor(ids, dtype=torch.int32)
    write_safetensors(Path(path), stored, {"format": FORMAT, "vocabulary_size": str(len(vocabulary))})


def read_clip(path: str | Path) -> dict[str, torch.Tensor]:
    """Read the parameters of a CLIP that :func:`save_clip` wrote.

    Args:
        path (str | Path): The file.

    Returns:
        dict[str, torch.Tensor]: Parameters by their names in open_clip, float32 on the CPU. Tokens whose embeddings
            were not kept have zeros.

    Raises:
        ValueError: If the file can't be read, or was not written by :func:`save_clip`.
    """
    with reading(f"CLIP weights '{path}'"):
        stored, metadata = read_safetensors(Path(path))
    if metadata.get("format") != FORMAT:
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
    """Round a CLIP as a file of :func:`save_clip` does, so that what is trained on it sees what users will have.

    What is rounded already stays as it is. All tokens are kept.

    Args:
        clip (open_clip.CLIP): The CLIP, changed in place.

    Raises:
        ValueError: If a parameter can't be rounded.
    """
    parameters = _parameters(clip)
    for name, rounded in _expand(_compress(parameters)).items():
        parameters[name].copy_(rounded)


def _parameters(clip: open_clip.CLIP) -> dict[str, torch.Tensor]:
    """Collect what FB-CLIP needs of a CLIP, sharing memory with it."""
    return {name: tensor.detach() for name, tensor in clip.named_parameters() if name not in TEMPERATURE}


def _compress(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Round matrices of the blocks and of the patch embedding to 8 bits, each row with a scale, all else to 16."""
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
    """Round each row, an output channel, to whole multiples of its scale.

    A scale in bfloat16 has the range of float32, and 127 times it is exact: what was rounded is rounded to itself.
    """
    scales = (matrix.flatten(1).abs().amax(dim=1) / LARGEST).bfloat16()
    steps = matrix / _per_row(torch.where(scales == 0, 1, scales), matrix)
    return steps.round().clamp(-LARGEST, LARGEST).to(torch.int8), scales


def _expand(stored: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Give back the tensors that were compressed, in float32."""
    return {
        name: tensor.float() * _per_row(stored[name + SCALE], tensor) if name + SCALE in stored else tensor.float()
        for name, tensor in stored.items()
        if not name.endswith(SCALE)
    }


def _per_row(scales: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    return scales.float().view(-1, *[1] * (matrix.ndim - 1))
