# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""PyTorch model of FB-CLIP.

Paper:
    FB-CLIP: Fine-Grained Zero-Shot Anomaly Detection with Foreground-Background Disentanglement, CVPR 2026.
    https://arxiv.org/abs/2603.19608
"""

from collections.abc import Iterator, Mapping

import torch
from anomalib.data import InferenceBatch
from torch import nn

from .alignment import SemanticConsistency, TextAlignment
from .anomaly_map import AnomalyMapGenerator
from .backbone import ClipBackbone
from .disentanglement import (
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


class FBClipModel(nn.Module):
    """FB-CLIP: a frozen CLIP, and light adapters that tell defects from the normal and foreground from background.

    The parts are handed in, so that each can be exchanged. See :func:`~anomalib_fbclip.factory.create_model` for the
    paper's choice.

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
        self._text_cache: tuple[list[torch.Tensor], torch.Tensor] | None = None

    def forward(self, images: torch.Tensor) -> InferenceBatch:
        """Detect anomalies.

        Args:
            images (torch.Tensor): Normalised images, shape ``[B, 3, H, W]``, sides multiples of the patch.

        Returns:
            InferenceBatch: ``pred_score`` of shape ``[B]`` and ``anomaly_map`` of shape ``[B, H, W]``, both 0..1.

        Raises:
            ValueError: If the size of the images does not fit the backbone, or they give a score that is not finite.
        """
        text_features = self.text_features()
        embeddings = self.embed_image(images)
        pred_score, patch_map = self.align(embeddings, text_features, self._grid(images))
        anomaly_map = self.anomaly_map_generator(patch_map, images.shape[-2:])
        _require_finite(pred_score)
        return InferenceBatch(pred_score=pred_score, anomaly_map=anomaly_map)

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

        Returns:
            torch.Tensor: Normalised text features, normal state first, shape ``[2, D]``.
        """
        prompts = self.prompt_learner(self.backbone.token_embedding)
        states = self.backbone.encode_prompts(prompts)
        return self.text_fusion(states, self.backbone.project_text(states), self.prompt_learner.end_positions)

    def text_features(self) -> torch.Tensor:
        """Give the text features for inference; they are computed anew only when a text parameter has changed.

        Returns:
            torch.Tensor: Normalised text features without a graph, normal state first, shape ``[2, D]``.
        """
        parameters = [*self.prompt_learner.parameters(), *self.text_fusion.parameters()]
        if self._text_cache is None or not _unchanged(self._text_cache[0], parameters):
            device_type = parameters[0].device.type
            # The features outlive this call, so they must be of use to autograd and to callers in full precision.
            with torch.inference_mode(mode=False), torch.no_grad(), torch.autocast(device_type, enabled=False):
                self._text_cache = [parameter.clone() for parameter in parameters], self.encode_text()
        return self._text_cache[1]

    def _grid(self, images: torch.Tensor) -> tuple[int, int]:
        height, width = images.shape[-2:]
        return self.backbone.grid((height, width))

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        """Forget the text features, which may come from other text parameters than are being loaded."""
        self._text_cache = None
        super()._load_from_state_dict(*args, **kwargs)


def _unchanged(before: list[torch.Tensor], now: list[nn.Parameter]) -> bool:
    # A compiled or exported graph can't branch on values: there, text parameters are constants.
    if torch.compiler.is_compiling():
        return True
    return len(before) == len(now) and all(
        old.device == new.device and old.dtype == new.dtype and torch.equal(old, new)
        for old, new in zip(before, now, strict=True)
    )


def _require_finite(pred_score: torch.Tensor) -> None:
    if torch.compiler.is_compiling() or pred_score.isfinite().all():
        return
    faulty = (~pred_score.isfinite()).nonzero().flatten().tolist()
    msg = (
        f"Images {faulty} of the batch give no finite score: they hold NaN, infinite or extreme values. Give images "
        "that are normalised with CLIP's mean and standard deviation, as FBClip's pre-processor does."
    )
    raise ValueError(msg)
