# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The text side of FB-CLIP: from prompts to text features, which are cached for inference."""

from collections.abc import Callable, Mapping, MutableMapping
from hashlib import sha256

import torch
from torch import nn

from .clip import ClipBackbone
from .prompt_learner import STATES, PromptLearner
from .text_fusion import TextFusion

TEXT_PARTS = {"backbone", "prompt_learner", "text_fusion"}
"""Parts on which the text features depend."""

TEXT_PREFIXES = ("prompt_learner.", "text_fusion.")
"""Prefixes of the learned parameters among them."""


class TextEncoder(nn.Module):
    """Encodes the prompts of both states, and caches the text features, which do not depend on the image.

    :class:`~anomalib_fbclip.modeling.fbclip.FBClipModel` adds the image side.

    Args:
        backbone (ClipBackbone): Frozen CLIP.
        prompt_learner (PromptLearner): Learnable prompts of the normal and the abnormal state.
        text_fusion (TextFusion): Multi-strategy text feature fusion (paper: MSTFF).
    """

    def __init__(self, backbone: ClipBackbone, prompt_learner: PromptLearner, text_fusion: TextFusion) -> None:
        super().__init__()
        # The order matters: a checkpoint's optimizer states follow the order of the parameters.
        self.backbone = backbone
        self.prompt_learner = prompt_learner
        self.text_fusion = text_fusion
        self._text_features: torch.Tensor | None = None
        self._given_for: str | None = None

    def encode_text(self) -> torch.Tensor:
        """Compute the text features from the prompts, with a graph to the text parameters.

        Clears the cache: the caller is about to change the parameters.

        Returns:
            torch.Tensor: Normalized text features, normal state first, shape ``[2, D]``.
        """
        self.forget_text_features()
        self.backbone.load_text_tower()
        prompts = self.prompt_learner(self.backbone.token_embedding)
        hidden_states = self.backbone.encode_prompts(prompts)
        projected = self.backbone.project_text(hidden_states)
        return self.text_fusion(hidden_states, projected, self.prompt_learner.end_positions)

    def text_features(self) -> torch.Tensor:
        """Return the text features for inference: the given or cached ones, or else new ones.

        The cache is cleared when parameters are loaded, when a part of the model is replaced, and in training steps.
        After any other change of parameters, call :meth:`forget_text_features`.

        Returns:
            torch.Tensor: Normalized text features without a graph, normal state first, shape ``[2, D]``.
        """
        if self._text_features is None:
            self._text_features = self._compute_text_features()
        return self._text_features

    @torch.compiler.disable
    def _compute_text_features(self) -> torch.Tensor:
        """Compute text features for the cache, outside of compiled graphs, inference mode and autocast."""
        device = self.prompt_learner.normal_context.device
        with torch.inference_mode(mode=False), torch.no_grad(), torch.autocast(device.type, enabled=False):
            return self.encode_text()

    def use_text_features(self, text_features: torch.Tensor) -> None:
        """Cache text features that these parameters gave before, so that inference needs no text tower.

        Args:
            text_features (torch.Tensor): Normalized text features, normal state first, shape ``[2, D]``.
        """
        like = self.prompt_learner.normal_context
        self._text_features = text_features.detach().to(like.device, like.dtype)
        self._given_for = self.text_digest()

    def text_digest(self) -> str:
        """Digest the parameters of the text. See :func:`text_digest`."""
        return text_digest(self.state_dict(), self.text_fusion.weights)

    def forget_text_features(self) -> None:
        """Clear the cache. Call this after changing parameters in place."""
        self._text_features = self._given_for = None

    def forget_outdated_text_features(self) -> None:
        """Clear the cache, unless the features were given and their parameters are unchanged."""
        if self._given_for is None or self._given_for != self.text_digest():
            self.forget_text_features()

    def __setattr__(self, name: str, value: torch.Tensor | nn.Module) -> None:
        """Set an attribute, and clear the cache if the text features depend on it."""
        super().__setattr__(name, value)
        if name in TEXT_PARTS:
            self.forget_text_features()

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], *args, **kwargs) -> "TextEncoder":
        """Move and convert the text features with the parameters."""
        super()._apply(fn, *args, **kwargs)
        if self._text_features is not None:
            with torch.inference_mode(mode=False), torch.no_grad():
                self._text_features = fn(self._text_features)
        return self

    def _load_from_state_dict(self, state_dict: MutableMapping, prefix: str, *args, **kwargs) -> None:
        """Load parameters, and clear the cache."""
        self.forget_text_features()
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def text_digest(tensors: Mapping[str, torch.Tensor], weights: Mapping[str, float]) -> str:
    """Digest the prompts, parameters and weights on which text features depend, besides the CLIP.

    Args:
        tensors (Mapping[str, torch.Tensor]): Parameters by their names in :class:`FBClipModel`. Only those of the text
            count.
        weights (Mapping[str, float]): Weight of each text strategy.

    Returns:
        str: The digest.
    """
    digest = sha256(repr((STATES, sorted(weights.items()))).encode())
    for name in sorted(name for name in tensors if name.startswith(TEXT_PREFIXES)):
        digest.update(name.encode())
        digest.update(tensors[name].float().cpu().numpy().tobytes())
    return digest.hexdigest()
