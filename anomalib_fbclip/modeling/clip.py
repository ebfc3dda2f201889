# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The frozen CLIP: images to layer tokens, prompts to hidden states.

CLIP comes from open_clip. Its towers run block by block: FB-CLIP reads the image tower's residual stream between the
blocks, and runs the text tower without the causal mask.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from .precision import to_dtype, to_full

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, MutableMapping, Sequence

    import open_clip
    from open_clip.transformer import Transformer, VisionTransformer

MINIMUM_PATCHES = 3
"""Smallest number of patches: the foreground mask's smoothing mirrors two patches at each end."""


class DeferredText(NamedTuple):
    """A text tower that is loaded when prompts are first encoded.

    Attributes:
        width (int): Its width T.
        load (Callable[[], open_clip.CLIP]): Loads the CLIP that it belongs to. A function of a module, or a partial of
            one, so that a model can be pickled.
    """

    width: int
    load: Callable[[], open_clip.CLIP]


class ClipBackbone(nn.Module):
    """A frozen CLIP with a vision transformer.

    Its parameters never need a gradient, and it stays in evaluation mode, also under ``train()``. Gradients flow
    through the text tower to the prompts; the image tower builds no graph.

    Args:
        clip (open_clip.CLIP): A CLIP, with a ``VisionTransformer`` and open_clip's own text tower.
        feature_layers (Sequence[int]): Blocks of the image tower whose outputs are read, counted from 1, in rising
            order.
        precision (torch.dtype): Type in which the matrices are kept and multiplied. Norms, biases and the residual
            stream, from which the foreground mask is computed, are always float32.
        deferred_text (DeferredText | None): The text tower. ``None``: that of ``clip``.
    """

    token_embedding: nn.Embedding
    positional_embedding: nn.Parameter
    transformer: Transformer
    ln_final: nn.Module
    text_projection: nn.Parameter | nn.Linear

    def __init__(
        self,
        clip: open_clip.CLIP,
        feature_layers: Sequence[int],
        precision: torch.dtype = torch.float32,
        deferred_text: DeferredText | None = None,
    ) -> None:
        super().__init__()
        self.feature_layers = tuple(feature_layers)
        self.precision = precision
        self.visual: VisionTransformer = clip.visual
        _put_sequence_first(self.visual.transformer)
        self._deferred_text = deferred_text
        if deferred_text is None:
            self._take_text_tower(clip)
        self.requires_grad_(requires_grad=False)
        self.eval()
        if precision != torch.float32:
            for parameter in self.parameters():
                if parameter.ndim > 1:
                    parameter.data = parameter.data.to(precision)

    @property
    def has_text_tower(self) -> bool:
        """True if the text tower is loaded."""
        return "token_embedding" in self._modules

    def load_text_tower(self) -> None:
        """Load a deferred text tower, on the device and in the types of the image tower.

        Raises:
            ValueError: If its file can't be read.
            RuntimeError: If its weights could not be fetched.
        """
        if self.has_text_tower or self._deferred_text is None:
            return
        loaded = set(self.parameters())
        with torch.inference_mode(mode=False):
            self._take_text_tower(self._deferred_text.load())
            for parameter in set(self.parameters()) - loaded:
                like = self.visual.proj if parameter.ndim > 1 else self.visual.class_embedding
                parameter.requires_grad = False
                parameter.data = parameter.data.to(like)
        self.eval()

    def _take_text_tower(self, clip: open_clip.CLIP) -> None:
        text = getattr(clip, "text", clip)
        self.token_embedding = text.token_embedding
        self.positional_embedding = text.positional_embedding
        self.transformer = text.transformer
        _put_sequence_first(self.transformer)
        self.ln_final = text.ln_final
        self.text_projection = text.text_projection

    def train(self, mode: bool = True) -> ClipBackbone:
        """Stay in evaluation mode."""
        del mode
        return super().train(mode=False)

    @property
    def width(self) -> int:
        """Channels C of the image tokens."""
        return self.visual.conv1.out_channels

    @property
    def text_width(self) -> int:
        """Width T of the text tower."""
        return self._deferred_text.width if self._deferred_text else self.token_embedding.embedding_dim

    @property
    def embedding_width(self) -> int:
        """Width D of the joint space of image and text."""
        return self.visual.proj.shape[1]

    @property
    def patch_size(self) -> tuple[int, int]:
        """Height and width of a patch in pixels."""
        return self.visual.conv1.kernel_size

    @property
    def minimum_side(self) -> int:
        """Smallest side of a photograph in pixels: that of a patch."""
        return max(self.patch_size)

    @property
    def signature(self) -> list[float]:
        """A few of the weights, which distinguish two sets of weights of one architecture."""
        sample = torch.cat([self.visual.class_embedding[:4], self.visual.proj[0, :4]])
        return [round(value, 4) for value in sample.float().tolist()]

    def grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Compute the grid of an image's patches. See :func:`patch_grid`."""
        return patch_grid(image_size, self.patch_size)

    @torch.no_grad()
    def encode_image(self, images: torch.Tensor) -> tuple[list[torch.Tensor], tuple[int, int]]:
        """Read the residual stream after the chosen blocks.

        Args:
            images (torch.Tensor): Normalized images, shape ``[B, 3, H, W]``, sides multiples of the patch.

        Returns:
            tuple[list[torch.Tensor], tuple[int, int]]: Tokens after each of ``feature_layers``, class token first, each
                ``[B, 1 + L, C]``; and rows and columns of the patches.

        Raises:
            ValueError: If the size of the images is not a multiple of the patch, or gives too few patches.
        """
        height, width = images.shape[-2:]
        grid = self.grid((height, width))
        with self._own_precision(images.device):
            patches = to_full(self.visual.conv1(images)).flatten(2).mT
            class_token = self.visual.class_embedding.to(patches.dtype).expand(patches.shape[0], 1, -1)
            positions = self._positions(grid).to(patches.dtype)
            tokens = self.visual.ln_pre(torch.cat([class_token, patches], dim=1) + positions)
            outputs = islice(_run_blocks(self.visual.transformer, tokens), self.feature_layers[-1])
            return [output for layer, output in enumerate(outputs, start=1) if layer in self.feature_layers], grid

    def project_image(self, tokens: torch.Tensor) -> torch.Tensor:
        """Project image tokens ``[..., C]`` to the joint space, ``[..., D]``."""
        with self._own_precision(tokens.device):
            return tokens @ to_dtype(self.visual.proj, tokens.dtype)

    def encode_prompts(self, prompts: torch.Tensor) -> torch.Tensor:
        """Run the text tower with bidirectional attention, with which FB-CLIP's weights were trained.

        Args:
            prompts (torch.Tensor): Embedded prompts, shape ``[N, P, T]``.

        Returns:
            torch.Tensor: Hidden states at all positions after the last layer norm, shape ``[N, P, T]``.
        """
        with self._own_precision(prompts.device):
            hidden_states = prompts + self.positional_embedding[: prompts.shape[1]].to(prompts.dtype)
            *_, hidden_states = _run_blocks(self.transformer, hidden_states)
            return self.ln_final(hidden_states)

    def project_text(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Project hidden states of the text tower ``[..., T]`` to the joint space, ``[..., D]``."""
        if isinstance(self.text_projection, nn.Linear):
            return self.text_projection(hidden_states)
        return hidden_states @ self.text_projection.to(hidden_states.dtype)

    def _load_from_state_dict(self, state_dict: MutableMapping, prefix: str, *args, **kwargs) -> None:
        """Load the parameters of a backbone with or without a text tower; without one, the own text tower stays."""
        visual, own = f"{prefix}visual.", self.state_dict(prefix=prefix)
        if any(name.startswith(prefix) and not name.startswith(visual) for name in state_dict):
            self.load_text_tower()
        else:
            state_dict.update({name: tensor for name, tensor in own.items() if not name.startswith(visual)})
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _own_precision(self, device: torch.device) -> AbstractContextManager[object]:
        """Multiply in the backbone's precision, if that is not float32."""
        return nullcontext() if self.precision == torch.float32 else torch.autocast(device.type, self.precision)

    def _positions(self, grid: tuple[int, int]) -> torch.Tensor:
        """Return the positional embedding of the class token and a grid of patches, shape ``[1 + L, C]``."""
        class_position, patch_positions = self.visual.positional_embedding.split(
            [1, self.visual.positional_embedding.shape[0] - 1],
        )
        own_grid = self.visual.grid_size
        if grid == own_grid:
            return self.visual.positional_embedding
        image = patch_positions.float().mT.unflatten(-1, own_grid).unsqueeze(0)
        resized = F.interpolate(image, size=grid, mode="bilinear", align_corners=False)
        return torch.cat([class_position.float(), resized.squeeze(0).flatten(1).mT])


def _put_sequence_first(transformer: Transformer) -> None:
    """Have a tower take the sequence first, as in open_clip 2: torch's path for batches rounds otherwise."""
    for block in transformer.resblocks:
        if isinstance(block.attn, nn.MultiheadAttention):
            block.attn.batch_first = transformer.batch_first = False


def _run_blocks(transformer: Transformer, tokens: torch.Tensor) -> Iterator[torch.Tensor]:
    """Run a tower's blocks without a mask, and yield the output of each; batch first in and out."""
    # open_clip before 2.25 has no such attribute; with some configs, later ones have their own attention.
    batch_first = getattr(transformer, "batch_first", False)
    tokens = tokens if batch_first else tokens.transpose(0, 1)
    for block in transformer.resblocks:
        tokens = block(tokens)
        yield tokens if batch_first else tokens.transpose(0, 1)


def patch_grid(image_size: tuple[int, int], patch_size: tuple[int, int]) -> tuple[int, int]:
    """Compute rows and columns of an image's patches.

    Args:
        image_size (tuple[int, int]): Height and width of the image in pixels.
        patch_size (tuple[int, int]): Height and width of a patch in pixels.

    Raises:
        ValueError: If the size is not a multiple of the patch, or gives too few patches.

    Example:
        >>> patch_grid((518, 518), (14, 14))
        (37, 37)
    """
    (height, width), (patch_height, patch_width) = image_size, patch_size
    rows, rest_height = divmod(height, patch_height)
    columns, rest_width = divmod(width, patch_width)
    if rest_height or rest_width or rows * columns < MINIMUM_PATCHES:
        near = [max(round(side / patch), 2) * patch for side, patch in zip(image_size, patch_size, strict=True)]
        msg = (
            f"An image size of {_describe_size(image_size)} does not fit the backbone: both sides must be multiples of "
            f"its patch ({patch_height} x {patch_width} pixels), with at least {MINIMUM_PATCHES} patches. Give "
            f"{_describe_size(near)}, say."
        )
        raise ValueError(msg)
    return rows, columns


def _describe_size(size: Sequence[int]) -> str:
    """Describe a size so that neither side is taken for the other."""
    height, width = size
    return str(height) if height == width else f"height {height} and width {width}"
