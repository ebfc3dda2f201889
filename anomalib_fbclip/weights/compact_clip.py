# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""A CLIP in a small file: matrices in 8 bits, the rest in half precision, and only the tokens trained on."""

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
"""Largest 8-bit value: the range is symmetric."""

VOCABULARY = "token_embedding.weight"
"""Name of the embeddings of all tokens in a CLIP."""

TOKEN_IDS = "token_embedding.ids"  # noqa: S105 - no password
"""Name of the stored tokens' ids, in rising order."""

TOKEN_ROWS = "token_embedding.rows"  # noqa: S105
"""Name of the stored tokens' embeddings."""

TEMPERATURE = {"logit_scale", "logit_bias"}
"""Parameters of a CLIP that FB-CLIP does not use."""


def save_clip(clip: open_clip.CLIP, token_ids: Collection[int], path: str | Path) -> None:
    """Write a CLIP to a file for ``pretrained``. An existing file is replaced only when the new one is complete.

    The CLIP has no ``custom_text``, so that its text tower's parameters are at the top level. Only the embeddings of
    the tokens with these ids are stored. All others are read as zero.

    Raises:
        ValueError: If there are no ids or one lies outside the vocabulary, a parameter can't be rounded, or the path
            has another suffix.
    """
    tensors = _parameters(clip)
    vocabulary = tensors.pop(VOCABULARY)
    ids = sorted(set(token_ids))
    if not ids or ids[0] < 0 or ids[-1] >= len(vocabulary):
        msg = f"Give one or more token ids from 0 to {len(vocabulary) - 1}, not {ids[:1]} to {ids[-1:]}."
        raise ValueError(msg)
    stored = _compress({**tensors, TOKEN_ROWS: vocabulary[ids]})
    stored[TOKEN_IDS] = torch.tensor(ids, dtype=torch.int32)
    write_safetensors(Path(path), stored, {"format": FORMAT, "vocabulary_size": str(len(vocabulary))})


def read_clip(path: str | Path) -> dict[str, torch.Tensor]:
    """Read the parameters of a CLIP, by their names in open_clip, from a file of :func:`save_clip`.

    They are in float32 on the CPU. Embeddings that were not stored are zero.
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
