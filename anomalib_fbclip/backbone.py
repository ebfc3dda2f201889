# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The frozen CLIP: images to layer tokens, prompts to text states.

CLIP comes from open_clip. Its towers are used block by block, because FB-CLIP reads the residual stream between the
blocks of the image tower and runs the text tower without the causal mask.
"""

from __future__ import annotations

import difflib
import json
import logging
import math
import zipfile
from contextlib import AbstractContextManager, nullcontext
from itertools import islice, pairwise
from pathlib import Path
from pickle import UnpicklingError  # noqa: S403 - only to catch and raise it
from typing import TYPE_CHECKING, Any, NamedTuple

import open_clip
import torch
from open_clip.model import convert_to_custom_text_state_dict
from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model
from safetensors import safe_open
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

from .checkpoint import reading, reason_of
from .disentanglement import PAPER_SIZE, AttentionSize
from .embedded import EMBEDDED
from .nano.weights import TOKEN_IDS, read_clip
from .precision import to_full
from .state_dict import check_state_dict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from open_clip.transformer import Transformer, VisionTransformer

logger = logging.getLogger(__name__)

PAPER_IMAGE_SIZE = {"ViT-L-14-336": 518, "ViT-L-14-336-quickgelu": 518}
"""Input sizes in pixels at which the paper runs its backbones; all others run at their own."""

OPENAI = "openai"
"""open_clip's tag of the weights that CLIP's authors trained, with QuickGELU."""

RANDOM_WEIGHTS_SEED = 0
"""Seed of a CLIP without pretrained weights: adapters that were trained on it fit it again."""

MINIMUM_PATCHES = 3
"""The smoothing of the foreground mask mirrors two patches at its ends: fewer than three can't be mirrored."""


class Widths(NamedTuple):
    """Widths of a CLIP.

    Attributes:
        image (int): Channels C of the image tokens.
        text (int): Width T of the text tower.
        joint (int): Width D of the joint space of image and text.
    """

    image: int
    text: int
    joint: int


class ClipBackbone(nn.Module):
    """A frozen CLIP with a vision transformer.

    Its parameters never need a gradient and it stays in evaluation mode, also under ``train()``. Gradients flow
    through the text tower to the prompts; the image tower builds no graph.

    Args:
        clip (open_clip.CLIP): A CLIP, with a ``VisionTransformer`` and open_clip's own text tower.
        feature_layers (Sequence[int]): Blocks of the image tower, counted from 1 and rising, whose output is read.
        precision (torch.dtype): Type in which the matrices are kept and multiplied. Norms, biases and the residual
            stream, from which the foreground mask is cut, are float32 in any case.
    """

    def __init__(
        self,
        clip: open_clip.CLIP,
        feature_layers: Sequence[int],
        precision: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.feature_layers = tuple(feature_layers)
        self.precision = precision
        self.visual: VisionTransformer = clip.visual
        text = getattr(clip, "text", clip)
        self.token_embedding: nn.Embedding = text.token_embedding
        self.positional_embedding: nn.Parameter = text.positional_embedding
        self.transformer: Transformer = text.transformer
        self.ln_final: nn.Module = text.ln_final
        self.text_projection: nn.Parameter | nn.Linear = text.text_projection
        self.requires_grad_(requires_grad=False)
        self.eval()
        if precision != torch.float32:
            for parameter in self.parameters():
                if parameter.ndim > 1:
                    parameter.data = parameter.data.to(precision)

    def train(self, mode: bool = True) -> ClipBackbone:
        """Stay in evaluation mode, whatever the mode of the model around."""
        del mode
        return super().train(mode=False)

    @property
    def width(self) -> int:
        """Channels C of the image tokens."""
        return self.visual.conv1.out_channels

    @property
    def text_width(self) -> int:
        """Width T of the text tower."""
        return self.token_embedding.embedding_dim

    @property
    def embedding_width(self) -> int:
        """Width D of the joint space of image and text."""
        return self.visual.proj.shape[1]

    @property
    def patch_size(self) -> tuple[int, int]:
        """Height and width of a patch in pixels."""
        return self.visual.conv1.kernel_size

    @property
    def signature(self) -> list[float]:
        """A few of the weights, by which two sets of weights of one architecture can be told apart."""
        sample = torch.cat([self.visual.class_embedding[:4], self.visual.proj[0, :4]])
        return [round(value, 4) for value in sample.float().tolist()]

    def grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of patches of an image.

        Args:
            image_size (tuple[int, int]): Height and width in pixels.

        Returns:
            tuple[int, int]: Rows and columns.

        Raises:
            ValueError: If the size is not a multiple of the patch, or leaves too few patches.
        """
        return patch_grid(image_size, self.patch_size)

    @torch.no_grad()
    def encode_image(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Read the residual stream after the chosen blocks.

        Args:
            images (torch.Tensor): Normalised images, shape ``[B, 3, H, W]``, sides multiples of the patch.

        Returns:
            list[torch.Tensor]: Tokens after each of ``feature_layers``, class token first, each ``[B, 1 + L, C]``.
        """
        height, width = images.shape[-2:]
        grid = self.grid((height, width))
        with self._own_precision(images.device):
            patches = to_full(self.visual.conv1(images)).flatten(2).mT
            class_token = self.visual.class_embedding.to(patches.dtype).expand(patches.shape[0], 1, -1)
            positions = self._positions(grid).to(patches.dtype)
            tokens = self.visual.ln_pre(torch.cat([class_token, patches], dim=1) + positions)
            outputs = islice(_run_blocks(self.visual.transformer, tokens), self.feature_layers[-1])
            return [output for layer, output in enumerate(outputs, start=1) if layer in self.feature_layers]

    def project_image(self, tokens: torch.Tensor) -> torch.Tensor:
        """Project image tokens ``[..., C]`` to the joint space, ``[..., D]``."""
        with self._own_precision(tokens.device):
            return tokens @ self.visual.proj.to(tokens.dtype)

    def encode_prompts(self, prompts: torch.Tensor) -> torch.Tensor:
        """Run the text tower with bidirectional attention, as FB-CLIP's weights were trained.

        Args:
            prompts (torch.Tensor): Embedded prompts, shape ``[N, P, T]``.

        Returns:
            torch.Tensor: States of all positions after the last layer norm, shape ``[N, P, T]``.
        """
        with self._own_precision(prompts.device):
            states = prompts + self.positional_embedding[: prompts.shape[1]].to(prompts.dtype)
            *_, states = _run_blocks(self.transformer, states)
            return self.ln_final(states)

    def project_text(self, states: torch.Tensor) -> torch.Tensor:
        """Project states of the text tower ``[..., T]`` to the joint space, ``[..., D]``."""
        if isinstance(self.text_projection, nn.Linear):
            return self.text_projection(states)
        return states @ self.text_projection.to(states.dtype)

    def _own_precision(self, device: torch.device) -> AbstractContextManager[object]:
        """Multiply in the precision in which the matrices are kept, if it is not that of the model around."""
        return nullcontext() if self.precision == torch.float32 else torch.autocast(device.type, self.precision)

    def _positions(self, grid: tuple[int, int]) -> torch.Tensor:
        """Positional embedding of the class token and of a grid of patches, shape ``[1 + L, C]``."""
        class_position, patch_positions = self.visual.positional_embedding.split(
            [1, self.visual.positional_embedding.shape[0] - 1],
        )
        own_grid = self.visual.grid_size
        if grid == own_grid:
            return self.visual.positional_embedding
        image = patch_positions.float().mT.unflatten(-1, own_grid).unsqueeze(0)
        resized = F.interpolate(image, size=grid, mode="bilinear", align_corners=False)
        return torch.cat([class_position.float(), resized.squeeze(0).flatten(1).mT])


def _run_blocks(transformer: Transformer, tokens: torch.Tensor) -> Iterator[torch.Tensor]:
    """Run a tower's blocks without a mask and yield what each gives; batch first in and out.

    open_clip before 2.25 puts the sequence first inside its transformers; later versions say what they do.
    """
    batch_first = getattr(transformer, "batch_first", False)
    tokens = tokens if batch_first else tokens.transpose(0, 1)
    for block in transformer.resblocks:
        tokens = block(tokens)
        yield tokens if batch_first else tokens.transpose(0, 1)


def patch_grid(image_size: tuple[int, int], patch_size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of patches of an image.

    Args:
        image_size (tuple[int, int]): Height and width of the image in pixels.
        patch_size (tuple[int, int]): Height and width of a patch in pixels.

    Returns:
        tuple[int, int]: Rows and columns.

    Raises:
        ValueError: If the size is not a multiple of the patch, or leaves too few patches.
    """
    (height, width), (patch_height, patch_width) = image_size, patch_size
    rows, rest_height = divmod(height, patch_height)
    columns, rest_width = divmod(width, patch_width)
    if rest_height or rest_width or rows * columns < MINIMUM_PATCHES:
        near = tuple(max(round(side / patch), 2) * patch for side, patch in zip(image_size, patch_size, strict=True))
        msg = (
            f"Image size {height} x {width} does not fit the backbone: both sides must be multiples of its patch "
            f"({patch_height} x {patch_width} pixels), with at least {MINIMUM_PATCHES} patches. Near is {near}."
        )
        raise ValueError(msg)
    return rows, columns


def resolve_backbone(backbone: str | Path) -> str:
    """Find the open_clip name of a backbone.

    Args:
        backbone (str | Path): Name of an open_clip model or of an embedded backbone, or the path of a model config
            (``.json``), which is then added to open_clip's models under its file's name.

    Returns:
        str: Name of a model that open_clip knows and whose towers FB-CLIP can use.

    Raises:
        ValueError: If the model is unknown, or is not a ViT with a text tower of open_clip.
    """
    # First, so that their names are known to open_clip and taken.
    for embedded in EMBEDDED.values():
        _add_model_config(embedded.config)
    name = str(backbone)
    if Path(name).suffix == ".json":
        name = _add_model_config(Path(name))
    config = open_clip.get_model_config(name)
    if config is None:
        near = difflib.get_close_matches(name, open_clip.list_models(), n=3, cutoff=0.4)
        msg = (
            f"Unknown backbone {name!r}: give the name of an open_clip ViT{f', such as {near},' if near else ''} "
            "or the path of an open_clip model config (.json)."
        )
        raise ValueError(msg)
    vision, text = config["vision_cfg"], config["text_cfg"]
    if "timm_model_name" in vision or not isinstance(vision.get("layers", 12), int):
        msg = f"Backbone {name!r} has no vision transformer of open_clip: FB-CLIP needs a ViT, such as ViT-L-14-336."
        raise ValueError(msg)
    if vision.get("attentional_pool", False):
        msg = f"Backbone {name!r} pools its image tokens by attention: FB-CLIP needs a plain ViT, such as ViT-L-14-336."
        raise ValueError(msg)
    if "hf_model_name" in text or "hf_tokenizer_name" in text:
        msg = f"Backbone {name!r} has a text tower of another library: FB-CLIP needs CLIP's own, as in ViT-L-14-336."
        raise ValueError(msg)
    return name


def _add_model_config(path: Path) -> str:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"Backbone config {path} can't be read: {error}."
        raise ValueError(msg) from error
    if not isinstance(config, dict) or not {"embed_dim", "vision_cfg", "text_cfg"} <= config.keys():
        msg = f"Backbone config {path} is no open_clip model config: it needs embed_dim, vision_cfg and text_cfg."
        raise ValueError(msg)
    known = open_clip.get_model_config(path.stem)
    if known is not None and known != config:
        msg = f"Backbone config {path} has the name of another open_clip model, {path.stem!r}: rename the file."
        raise ValueError(msg)
    if known is None:
        open_clip.add_model_config(path)
    return path.stem


def resolve_image_size(backbone: str, image_size: int | Sequence[int] | None) -> tuple[int, int]:
    """Find the input size of a backbone.

    Args:
        backbone (str): Name of an open_clip model.
        image_size (int | Sequence[int] | None): Side, or height and width, in pixels. ``None``: the paper's size for
            the paper's backbone, and its own for every other.

    Returns:
        tuple[int, int]: Height and width in pixels.

    Raises:
        ValueError: If the size is not a multiple of the backbone's patch.
    """
    vision = open_clip.get_model_config(backbone)["vision_cfg"]
    if image_size is None:
        image_size = PAPER_IMAGE_SIZE.get(backbone, vision.get("image_size", 224))
    size = _to_pair(image_size)
    patch_grid(size, _to_pair(vision.get("patch_size", 16)))
    return size


def _to_pair(size: int | Sequence[int]) -> tuple[int, int]:
    pair = (size, size) if isinstance(size, int) else (*size,)
    if len(pair) != 2 or min(pair) < 1:  # noqa: PLR2004
        msg = f"Image size {size!r} is neither a side nor (height, width) in whole pixels."
        raise ValueError(msg)
    return pair


def resolve_feature_layers(
    backbone: str,
    feature_layers: Sequence[int] | None,
    max_layers: int,
) -> tuple[int, ...]:
    """Find the blocks of the image tower that are read.

    Args:
        backbone (str): Name of an open_clip model.
        feature_layers (Sequence[int] | None): Blocks, counted from 1. ``None``: those that an embedded backbone comes
            with; of others the first, the last, and those at each quarter of the depth (1, 6, 12, 18, 24 of 24).
        max_layers (int): How many layers can be merged.

    Returns:
        tuple[int, ...]: Blocks, rising.

    Raises:
        ValueError: If a block lies outside the depth, the blocks don't rise, or there are too many or none.
    """
    depth = open_clip.get_model_config(backbone)["vision_cfg"].get("layers", 12)
    if feature_layers is None and backbone in EMBEDDED:
        return EMBEDDED[backbone].feature_layers
    if feature_layers is None:
        return tuple(sorted({max(math.ceil(depth * quarter / 4), 1) for quarter in range(5)}))
    layers = tuple(feature_layers)
    rising = all(first < second for first, second in pairwise(layers))
    if not layers or len(layers) > max_layers or not rising or layers[0] < 1 or layers[-1] > depth:
        msg = (
            f"Feature layers {list(layers)} do not fit backbone {backbone!r}: give 1 to {max_layers} layers, rising, "
            f"from 1 to {depth}."
        )
        raise ValueError(msg)
    return layers


def resolve_attention_size(backbone: str) -> AttentionSize:
    """Find the size of the foreground-background attention: an embedded backbone's own, otherwise the paper's.

    Args:
        backbone (str): Name of an open_clip model.

    Returns:
        AttentionSize: Number and width of the heads.
    """
    return EMBEDDED[backbone].attention_size if backbone in EMBEDDED else PAPER_SIZE


def resolve_widths(backbone: str) -> Widths:
    """Find the widths of a backbone.

    Args:
        backbone (str): Name of an open_clip model.

    Returns:
        Widths: Widths of its image tower, of its text tower, and of their joint space.
    """
    config = open_clip.get_model_config(backbone)
    return Widths(
        image=config["vision_cfg"].get("width", 768),
        text=config["text_cfg"].get("width", 512),
        joint=config["embed_dim"],
    )


def usual_pretrained(backbone: str) -> str | None:
    """Find the tag of a backbone's usual weights; ``None`` if there are none."""
    tags = _tags(backbone)
    return OPENAI if OPENAI in tags else next(iter(tags), None)


def _tags(backbone: str) -> list[str]:
    """Names of the weights that are to be had for a backbone: its own for an embedded one, otherwise open_clip's."""
    return [EMBEDDED[backbone].tag] if backbone in EMBEDDED else list_pretrained_tags_by_model(backbone)


def create_clip(backbone: str, pretrained: str | None) -> open_clip.CLIP:
    """Create a CLIP and load its weights.

    Args:
        backbone (str): Name of an open_clip model.
        pretrained (str | None): Tag of open_clip or of an embedded backbone, or path of a file that takes the place of
            the backbone's usual weights: safetensors, a state dict, OpenAI's archive, or a file of
            :func:`~anomalib_fbclip.nano.weights.save_clip`. ``None``: random weights.

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
        if pretrained not in _tags(backbone):
            return _create_from_file(backbone, Path(pretrained))
        if backbone in EMBEDDED:
            return _create_from_file(backbone, EMBEDDED[backbone].clip)
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
        msg = f"Pretrained weights '{path}' are neither a file nor one of the tags of {backbone}: {_tags(backbone)}."
        raise ValueError(msg)
    logger.info("Loading CLIP %s with weights of %s.", backbone, path)
    # The file stands for the backbone's usual weights, so it has their activation.
    with _Uninitialized():
        clip = open_clip.create_model(backbone, force_quick_gelu=usual_pretrained(backbone) == OPENAI)
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
