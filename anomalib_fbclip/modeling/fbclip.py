# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""PyTorch model of FB-CLIP.

Paper:
    FB-CLIP: Fine-Grained Zero-Shot Anomaly Detection with Foreground-Background Disentanglement, CVPR 2026.
    https://arxiv.org/abs/2603.19608
"""

from collections.abc import Callable, Mapping, MutableMapping
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn
from torchvision.tv_tensors import TVTensor

from .alignment import TextAlignment
from .anomaly_map import AnomalyMapGenerator
from .clip import ClipBackbone
from .image_score import ImageScore, class_token_score
from .mvfbe import MultiViewDisentanglement
from .prompt_learner import STATES, PromptLearner
from .text_fusion import TextFusion

if TYPE_CHECKING:
    from .few_shot import FewShot


TEXT_PARTS = {"backbone", "prompt_learner", "text_fusion"}
"""Parts of the model that the text goes through."""

TEXT_PREFIXES = ("prompt_learner.", "text_fusion.")
"""What the names of the text's learned parameters begin with."""


class Prediction(NamedTuple):
    """What the model says of a batch of images.

    Attributes:
        pred_score (torch.Tensor): Abnormal probability of each image, shape ``[B]``, 0..1.
        anomaly_map (torch.Tensor): Abnormal probability of each pixel, shape ``[B, H, W]``, 0..1.
    """

    pred_score: torch.Tensor
    anomaly_map: torch.Tensor


class Detection(NamedTuple):
    """What the anomaly map is drawn from, and the training loss computed of.

    Attributes:
        pred_score (torch.Tensor): Abnormal probability of each image's class token, shape ``[B]``, 0..1.
        patch_map (torch.Tensor): Abnormal probability of each patch, shape ``[B, 1, h, w]``, 0..1.
        embeddings (list[torch.Tensor]): Maps in the joint space, layer by layer and in each view by view, each
            ``[B, 1 + L, D]``.
        text_features (torch.Tensor): The text features that they were compared with, shape ``[2, D]``.
        layer_tokens (list[torch.Tensor]): Tokens of the chosen layers of the frozen CLIP, each ``[B, 1 + L, C]``.
    """

    pred_score: torch.Tensor
    patch_map: torch.Tensor
    embeddings: list[torch.Tensor]
    text_features: torch.Tensor
    layer_tokens: list[torch.Tensor]


class FBClipModel(nn.Module):
    """FB-CLIP: a frozen CLIP, and light adapters that tell defects from the normal and foreground from background.

    The parts are handed in, so that each can be exchanged. See :func:`~anomalib_fbclip.modeling.build.create_model` for
    the paper's choice.

    Args:
        backbone (ClipBackbone): Frozen CLIP.
        prompt_learner (PromptLearner): Learnable prompts of the normal and the abnormal state.
        text_fusion (TextFusion): Multi-strategy text feature fusion (paper: MSTFF).
        mvfbe (MultiViewDisentanglement): Multi-view foreground-background enhancement (paper: MVFBE).
        alignment (TextAlignment): Similarity of image tokens and text features.
        anomaly_map_generator (AnomalyMapGenerator): From the patch map to the anomaly map.
        image_score (ImageScore): From the class token's probability and the anomaly map to the image's score. Good
            photographs have a score of their own. Defaults to the paper's.

    Attributes:
        few_shot (FewShot | None): Decides by photographs of good parts, too, once it is set; beside the paper.
    """

    def __init__(
        self,
        backbone: ClipBackbone,
        prompt_learner: PromptLearner,
        text_fusion: TextFusion,
        mvfbe: MultiViewDisentanglement,
        alignment: TextAlignment,
        anomaly_map_generator: AnomalyMapGenerator,
        image_score: ImageScore = class_token_score,
    ) -> None:
        super().__init__()
        # In this order: the optimizer's states in a checkpoint go by the parameters' order.
        self.backbone = backbone
        self.prompt_learner = prompt_learner
        self.text_fusion = text_fusion
        self.mvfbe = mvfbe
        self.alignment = alignment
        self.anomaly_map_generator = anomaly_map_generator
        self.image_score = image_score
        self.few_shot: FewShot | None = None
        self._text_features: torch.Tensor | None = None
        self._given_for: str | None = None

    def forward(self, images: torch.Tensor) -> Prediction:
        """Detect anomalies.

        Args:
            images (torch.Tensor): Normalized images, shape ``[B, 3, H, W]``, sides multiples of the patch.

        Returns:
            Prediction: Scores and anomaly maps.

        Raises:
            ValueError: If the size of the images does not fit the backbone, or they give a score that is not finite.
        """
        if isinstance(images, TVTensor):  # as anomalib's batches are; the compiler does not take them
            images = images.as_subclass(torch.Tensor)
        detection = self.detect(images, self.text_features())
        if self.few_shot is None:
            anomaly_map = self.anomaly_map_generator(detection.patch_map, images.shape[-2:])
            prediction = Prediction(self.image_score(detection.pred_score, anomaly_map), anomaly_map)
        else:
            deviation_map = self.anomaly_map_generator(self.few_shot(detection), images.shape[-2:])
            prediction = Prediction(*self.few_shot.calibrate(deviation_map))
        _require_finite(prediction.pred_score)
        return prediction

    def detect(self, images: torch.Tensor, text_features: torch.Tensor) -> Detection:
        """Score images and patches by the text: what inference and training have in common.

        Args:
            images (torch.Tensor): Normalized images, shape ``[B, 3, H, W]``, sides multiples of the patch.
            text_features (torch.Tensor): Normalized text features, normal state first, shape ``[2, D]``. Those of
                :meth:`text_features` serve inference, those of :meth:`encode_text` training.

        Returns:
            Detection: Scores, patch maps, and what they come from.

        Raises:
            ValueError: If the size of the images does not fit the backbone.
        """
        layer_tokens, grid = self.backbone.encode_image(images)
        maps = self.mvfbe(layer_tokens, grid)
        embeddings = [self.backbone.project_image(tokens) for tokens in maps]
        probability = self.alignment(embeddings, text_features)
        pred_score, patch_map = probability[:, 0], probability[:, 1:].unflatten(1, (1, *grid))
        return Detection(pred_score, patch_map, embeddings, text_features, layer_tokens)

    def encode_text(self) -> torch.Tensor:
        """Compute the text features from the prompts, with a graph to the text parameters.

        The features for inference are forgotten, for who computes these is about to change the parameters.

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
        """Give the text features for inference, which are computed once and kept, unless they were given.

        They are forgotten where parameters are loaded, where a part of the model is replaced, and in every step of a
        training. After any other change of parameters, call :meth:`forget_text_features`.

        Returns:
            torch.Tensor: Normalized text features without a graph, normal state first, shape ``[2, D]``.
        """
        if self._text_features is None:
            self._text_features = self._compute_text_features()
        return self._text_features

    @torch.compiler.disable
    def _compute_text_features(self) -> torch.Tensor:
        """Compute what outlives the call, and must be of use to autograd and to callers in full precision.

        The compiler leaves this out, and has the graph begin after it.
        """
        device = self.prompt_learner.normal_context.device
        with torch.inference_mode(mode=False), torch.no_grad(), torch.autocast(device.type, enabled=False):
            return self.encode_text()

    def use_text_features(self, text_features: torch.Tensor) -> None:
        """Take text features that the same parameters gave before, so that inference needs no text tower.

        Args:
            text_features (torch.Tensor): Normalized text features, normal state first, shape ``[2, D]``.
        """
        like = self.alignment.scale_weights
        self._text_features = text_features.detach().to(like.device, like.dtype)
        self._given_for = self.text_digest()

    def text_digest(self) -> str:
        """Digest of what text features depend on beside the CLIP: see :func:`text_digest`."""
        return text_digest(self.state_dict(), self.text_fusion.weights)

    def forget_text_features(self) -> None:
        """Have the text features for inference computed anew: to be called after a change of parameters in place."""
        self._text_features = self._given_for = None

    def forget_outdated_text_features(self) -> None:
        """Have the text features computed anew, unless they were given and their parameters are still the same."""
        if self._given_for is None or self._given_for != self.text_digest():
            self.forget_text_features()

    def __setattr__(self, name: str, value: torch.Tensor | nn.Module) -> None:
        """Set an attribute. Another part that the text goes through gives other text features."""
        super().__setattr__(name, value)
        if name in TEXT_PARTS:
            self.forget_text_features()

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], *args, **kwargs) -> "FBClipModel":
        """Move and convert the text features with the parameters."""
        super()._apply(fn, *args, **kwargs)
        if self._text_features is not None:
            with torch.inference_mode(mode=False), torch.no_grad():
                self._text_features = fn(self._text_features)
        return self

    def _load_from_state_dict(self, state_dict: MutableMapping, prefix: str, *args, **kwargs) -> None:
        """Take names of earlier versions, and forget the text features, which may come from other parameters."""
        upgrade_state_dict(state_dict, prefix)
        self.forget_text_features()
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def upgrade_state_dict(state_dict: MutableMapping[str, torch.Tensor], prefix: str = "") -> None:
    """Rename, in place, the parameters of an :class:`FBClipModel` that version 0.1 saved under other names.

    Args:
        state_dict (MutableMapping[str, torch.Tensor]): Tensors by name.
        prefix (str, optional): What comes before the model's own names. Defaults to ``""``.

    Example:
        >>> tensors = {"attention.norm.bias": torch.zeros(8)}
        >>> upgrade_state_dict(tensors)
        >>> list(tensors)
        ['mvfbe.attention.norm.bias']
    """
    for name in [name for name in state_dict if name.startswith(f"{prefix}attention.")]:
        state_dict[f"{prefix}mvfbe.{name.removeprefix(prefix)}"] = state_dict.pop(name)


def text_digest(tensors: Mapping[str, torch.Tensor], weights: Mapping[str, float]) -> str:
    """Digest what text features depend on beside the CLIP, so that it can be told whether they belong together.

    Args:
        tensors (Mapping[str, torch.Tensor]): Parameters by their names in :class:`FBClipModel`. Only those of the text
            are looked at.
        weights (Mapping[str, float]): Weight of each text strategy that takes part.

    Returns:
        str: Other for other prompts, parameters or weights.
    """
    digest = sha256(repr((STATES, sorted(weights.items()))).encode())
    for name in sorted(name for name in tensors if name.startswith(TEXT_PREFIXES)):
        digest.update(name.encode())
        digest.update(tensors[name].detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _require_finite(pred_score: torch.Tensor) -> None:
    if torch.compiler.is_compiling() or pred_score.isfinite().all():
        return
    faulty = (~pred_score.isfinite()).nonzero().flatten().tolist()
    msg = (
        f"Images {faulty} of the batch give no finite score: they hold NaN, infinite or extreme values. Give images "
        "that are normalized with CLIP's mean and standard deviation, as FBClip's pre-processor does."
    )
    raise ValueError(msg)
