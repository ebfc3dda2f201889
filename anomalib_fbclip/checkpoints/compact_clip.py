# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""A CLIP in a small file: in half precision, and with only the tokens that it was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .reading import reading
from .safetensors_files import read_safetensors, write_safetensors

if TYPE_CHECKING:
    from collections.abc import Collection

    import open_clip

FORMAT = "anomalib-fbclip CLIP"

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
        ValueError: If there are no ids or one lies outside the vocabulary, if a parameter is not finite in half
            precision, or if the path has another suffix.
    """
    tensors = {name: tensor.detach() for name, tensor in clip.named_parameters() if name not in TEMPERATURE}
    vocabulary = tensors.pop(VOCABULARY)
    ids = sorted(set(token_ids))
    if not ids or ids[0] < 0 or ids[-1] >= len(vocabulary):
        msg = f"Give ids of tokens from 0 to {len(vocabulary) - 1}, at least one, not {ids[:1]} to {ids[-1:]}."
        raise ValueError(msg)
    tensors = {name: tensor.half() for name, tensor in {**tensors, TOKEN_ROWS: vocabulary[ids]}.items()}
    if faulty := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        msg = f"The CLIP can't be saved in half precision: {', '.join(faulty)} would not be finite."
        raise ValueError(msg)
    tensors[TOKEN_IDS] = torch.tensor(ids, dtype=torch.int32)
    write_safetensors(Path(path), tensors, {"format": FORMAT, "vocabulary_size": str(len(vocabulary))})


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
        tensors, metadata = read_safetensors(Path(path))
    if metadata.get("format") != FORMAT:
        msg = f"CLIP weights '{path}' were not saved by save_clip."
        raise ValueError(msg)
    ids, rows = tensors.pop(TOKEN_IDS), tensors.pop(TOKEN_ROWS)
    vocabulary = torch.zeros(int(metadata["vocabulary_size"]), rows.shape[1])
    vocabulary[ids.long()] = rows.float()
    return {name: tensor.float() for name, tensor in tensors.items()} | {VOCABULARY: vocabulary}
