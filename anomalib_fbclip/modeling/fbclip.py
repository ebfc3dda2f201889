# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""PyTorch model of FB-CLIP.

Paper:
    FB-CLIP: Fine-Grained Zero-Shot Anomaly Detection with Foreground-Background Disentanglement, CVPR 2026.
    https://arxiv.org/abs/2603.19608
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import nn
from torchvision.tv_tensors import TVTensor

from .alignment import SemanticConsistency, TextAlignment
from .anomaly_map import AnomalyMapGenerator
from .clip import ClipBackbone
from .mvfbe import (
    AttentionWeights,
    ForegroundBackgroundAttention,
    MixingView,
    ProjectedView,
    SoftForegroundMask,
    project,
    variance,
)
from .precision import full_precision, to_full
from .prompt_learner import PromptLearner
from .text_fusion import TextFusion


class Prediction(NamedTuple):
    """What the model says of a batch of images.

    Attributes:
        pred_score (torch.Tensor): Abnormal probability of each image, shape ``[B]``, 0..1.
        anomaly_map (torch.Tensor): Abnormal probability of each pixel, shape ``[B, H, W]``, 0..1.
    """

    pred_score: torch.Tensor
    anomaly_map: torch.Tensor


class FBClipModel(nn.Module):
    """FB-CLIP: a frozen CLIP, and light adapters that tell defects from the normal and foreground from background.

    The parts are handed in, so that each can be exchanged. See :func:`~anomalib_fbclip.modeling.build.create_model` for
    the paper's choice.

    Args:
        backbone (ClipBackbone): Frozen CLIP.
        prompt_learner (PromptLearner): Learnable prompts of the normal and the abnormal state.
        text_fusion (TextFusion): Multi-strategy text feature fusion.
        foreground_mask (SoftForegroundMask): Mask of the patches that belong to the object.
        views (Mapping[str, nn.Module]): Views of a layer by name, in the order of their maps.
        attention (ForegroundBackgroundAttention): Attention over the tokens of a view.
        suppression (nn.Module): Background suppression, from a list of maps to a list of maps.
        alignment (TextAlignment): Similarity of image tokens and text features.
        consistency (SemanticConsistency): Regularisation of the training.
        anomaly_map_generator (AnomalyMapGenerator): From the patch map to the anomaly map.
    """

    def __init__(
        self,
        backbone: ClipBackbone,
        prompt_learner: PromptLearner,
        text_fusion: TextFusion,
        foreground_mask: SoftForegroundMask,
        views: Mapping[str, nn.Module],
        attention: ForegroundBackgroundAttention,
        suppression: nn.Module,
        alignment: TextAlignment,
        consistency: SemanticConsistency,
        anomaly_map_generator: AnomalyMapGenerator,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.prompt_learner = prompt_learner
        self.text_fusion = text_fusion
        self.foreground_mask = foreground_mask
        self.views = nn.ModuleDict(views)
        self.attention = attention
        self.suppression = suppression
        self.alignment = alignment
        self.consistency = consistency
        self.anomaly_map_generator = anomaly_map_generator
        self._text_features: torch.Tensor | None = None

    def forward(self, images: torch.Tensor) -> Prediction:
        """Detect anomalies.

        Args:
            images (torch.Tensor): Normalised images, shape ``[B, 3, H, W]``, sides multiples of the patch.

        Returns:
            Prediction: Scores and anomaly maps.

        Raises:
            ValueError: If the size of the images does not fit the backbone, or they give a score that is not finite.
        """
        if isinstance(images, TVTensor):  # as anomalib's batches are; the compiler does not take them
            images = images.as_subclass(torch.Tensor)
        text_features = self.text_features()
        embeddings = self.embed_image(images)
        pred_score, patch_map = self.align(embeddings, text_features, self._grid(images))
        anomaly_map = self.anomaly_map_generator(patch_map, images.shape[-2:])
        _require_finite(pred_score)
        return Prediction(pred_score, anomaly_map)

    def embed_image(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Bring images into the joint space, once for each layer and view.

        Args:
            images (torch.Tensor): Normalised images, shape ``[B, 3, H, W]``.

        Returns:
            list[torch.Tensor]: Maps, layer by layer and in each view by view, each ``[B, 1 + L, D]``.
        """
        layer_tokens = self.backbone.encode_image(images)
        attended = self.attend(layer_tokens, self._grid(images))
        suppressed = self.suppression(attended)
        return [self.backbone.project_image(tokens) for tokens in suppressed]

    def attend(self, layer_tokens: list[torch.Tensor], grid: tuple[int, int]) -> list[torch.Tensor]:
        """Attend in the views of every layer.

        Args:
            layer_tokens (list[torch.Tensor]): Tokens of the chosen layers, each ``[B, 1 + L, C]``.
            grid (tuple[int, int]): Rows and columns of the patches.

        Returns:
            list[torch.Tensor]: Attended tokens, layer by layer and in each view by view, each ``[B, 1 + L, C]``.
        """
        weights = self.attention.merge()
        return self.attention.attend(self._project_views(layer_tokens, grid, weights), weights)

    def _project_views(
        self,
        layer_tokens: list[torch.Tensor],
        grid: tuple[int, int],
        weights: AttentionWeights,
    ) -> Iterator[ProjectedView]:
        """Make the views of every layer with the layer's soft foreground mask, as the attention takes them.

        What the views are made of is frozen. The attention's parameters come in by a product with the layer's tokens.
        """
        for tokens, previous_tokens in zip(layer_tokens, [None, *layer_tokens], strict=False):
            mask = self.foreground_mask(tokens, previous_tokens)
            projected = project(tokens, weights)
            for view in self.views.values():
                if isinstance(view, MixingView):
                    mixing = view.mixing(tokens, mask, grid)
                    with full_precision(tokens.device):
                        view_variance = variance(mixing(to_full(tokens)))
                    yield ProjectedView(mixing(projected), view_variance)
                else:
                    with torch.no_grad():
                        view_tokens = view(tokens, mask, grid)
                    yield ProjectedView(project(view_tokens, weights), variance(view_tokens))

    def align(
        self,
        embeddings: list[torch.Tensor],
        text_features: torch.Tensor,
        grid: tuple[int, int],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Score images and patches by the text.

        Args:
            embeddings (list[torch.Tensor]): Maps in the joint space, each ``[B, 1 + L, D]``.
            text_features (torch.Tensor): Normalised text features, shape ``[2, D]``.
            grid (tuple[int, int]): Rows and columns of the patches.

        Returns:
            tuple[torch.Tensor, torch.Tensor]: Abnormal probability of each image, shape ``[B]``, and of each patch,
                shape ``[B, 1, h, w]``.
        """
        probability = self.alignment(embeddings, text_features)
        return probability[:, 0], probability[:, 1:].unflatten(1, (1, *grid))

    def encode_text(self) -> torch.Tensor:
        """Compute the text features from the prompts, with a graph to the text parameters.

        The features for inference are forgotten, for who computes these is about to change the parameters.

        Returns:
            torch.Tensor: Normalised text features, normal state first, shape ``[2, D]``.
        """
        self.forget_text_features()
        prompts = self.prompt_learner(self.backbone.token_embedding)
        states = self.backbone.encode_prompts(prompts)
        return self.text_fusion(states, self.backbone.project_text(states), self.prompt_learner.end_positions)

    def text_features(self) -> torch.Tensor:
        """Give the text features for inference, which are computed once and kept.

        They are forgotten where parameters are loaded, moved or converted, where a part of the model is replaced, and
        in every step of a training. After any other change of parameters, call :meth:`forget_text_features`.

        Returns:
            torch.Tensor: Normalised text features without a graph, normal state first, shape ``[2, D]``.
        """
        if self._text_features is None:
            self._text_features = self._compute_text_features()
        return self._text_features

    @torch.compiler.disable
    def _compute_text_features(self) -> torch.Tensor:
        """Compute what outlives the call, and must be of use to autograd and to callers in full precision.

        The compiler leaves this out, and has the graph begin after it.
        """
        device = self.prompt_learner.token_ids.device
        with torch.inference_mode(mode=False), torch.no_grad(), torch.autocast(device.type, enabled=False):
            return self.encode_text()

    def forget_text_features(self) -> None:
        """Have the text features for inference computed anew: to be called after a change of parameters in place."""
        self._text_features = None

    def _grid(self, images: torch.Tensor) -> tuple[int, int]:
        height, width = images.shape[-2:]
        return self.backbone.grid((height, width))

    def __setattr__(self, name: str, value: torch.Tensor | nn.Module) -> None:
        """Set an attribute. Another part of the model gives other text features."""
        super().__setattr__(name, value)
        if isinstance(value, nn.Module):
            self.forget_text_features()

    def _apply(self, *args, **kwargs) -> "FBClipModel":
        """Forget the text features where parameters are moved to another device or converted to another type."""
        self.forget_text_features()
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        """Forget the text features, which may come from other text parameters than are being loaded."""
        self.forget_text_features()
        super()._load_from_state_dict(*args, **kwargs)


def _require_finite(pred_score: torch.Tensor) -> None:
    if torch.compiler.is_compiling() or pred_score.isfinite().all():
        return
    faulty = (~pred_score.isfinite()).nonzero().flatten().tolist()
    msg = (
        f"Images {faulty} of the batch give no finite score: they hold NaN, infinite or extreme values. Give images "
        "that are normalised with CLIP's mean and standard deviation, as FBClip's pre-processor does."
    )
    raise ValueError(msg)
