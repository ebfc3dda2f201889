# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Checkpoints of the reference implementation, whose adapters have other names."""

import re

import torch

GROUPS = ("prompt_learner", "model_trainable_params")
"""Entries of a checkpoint that hold adapters by name."""

NAMES = {
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

UNUSED = re.compile(
    r"token_(prefix|suffix)_(pos|neg)|tokenized_prompts_(pos|neg)"
    r"|compound_prompts_text\.[0-7]|compound_prompt_projections\.[0-7]\.(weight|bias)"
    r"|fusion_weights?|gate_network\.[02]\.(weight|bias)|layer_selector",
)
"""Names in the reference's checkpoints that take no part in its computation."""


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
    if not isinstance(checkpoint, dict) or not all(isinstance(checkpoint.get(group), dict) for group in GROUPS):
        msg = (
            f"{what} are no checkpoint of FB-CLIP: neither of a training with anomalib, nor of the reference "
            f"implementation, which has {' and '.join(map(repr, GROUPS))}."
        )
        raise ValueError(msg)
    tensors = {
        _rename(name): tensor.squeeze((0, 1)) if name in {"ctx_pos", "ctx_neg"} else tensor
        for group in GROUPS
        for name, tensor in checkpoint[group].items()
        if not UNUSED.fullmatch(name)
    }
    return tensors, checkpoint.get("source_domain", "unknown")


def _rename(name: str) -> str:
    for pattern, replacement in NAMES.items():
        if match := re.fullmatch(pattern, name):
            return match.expand(replacement)
    return name
