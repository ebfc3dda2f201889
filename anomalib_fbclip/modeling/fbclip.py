# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""PyTorch model of FB-CLIP.

Paper:
    FB-CLIP: Fine-Grained Zero-Shot Anomaly Detection with Foreground-Background Disentanglement, CVPR 2026.
    https://arxiv.org/abs/2603.19608
"""

import torch
from torchvision.tv_tensors import TVTensor

from .alignment import TextAlignment
from .anomaly_map import AnomalyMapGenerator
from .clip import ClipBackbone
from .decision import Decision, ImageScore, IntermediateOutputs, ModelOutput, ZeroShot, class_token_score
from .mvfbe import MultiViewDisentanglement
from .prompt_learner import PromptLearner
from .text_encoder import TextEncoder
from .text_fusion import TextFusion


class FBClipModel(TextEncoder):
    """FB-CLIP: a frozen CLIP, and light adapters that tell defects from the normal and foreground from background.

    The parts are handed in, so that each can be exchanged. See :func:`~anomalib_fbclip.modeling.build.create_model` for
    the paper's choice.

    Args:
        backbone (ClipBackbone): Frozen CLIP.
        prompt_learner (PromptLearner): Learnable prompts of the normal and the abnormal state.
        text_fusion (TextFusion): Multi-strategy text feature fusion (paper: MSTFF).
        mvfbe (MultiViewDisentanglement): Multi-view foreground-background enhancement (paper: MVFBE).
        alignment (TextAlignment): Similarity of image tokens and text features.
        anomaly_map_generator (AnomalyMapGenerator): From the values of patches to those of pixels.
        image_score (ImageScore): From the class token's probability and the anomaly map to the image's score, where the
            text alone decides. Defaults to the paper's.

    Attributes:
        zero_shot (ZeroShot): The paper's decision.
        decision (Decision): The decision in use: the paper's, until another takes its place.
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
        super().__init__(backbone, prompt_learner, text_fusion)
        self.mvfbe = mvfbe
        self.alignment = alignment
        self.anomaly_map_generator = anomaly_map_generator
        self.zero_shot = ZeroShot(image_score)
        self.decision: Decision = self.zero_shot

    def forward(self, images: torch.Tensor) -> ModelOutput:
        """Detect anomalies.

        Args:
            images (torch.Tensor): Normalized images, shape ``[B, 3, H, W]``, sides multiples of the patch.

        Returns:
            decision.ModelOutput: Scores and anomaly maps.

        Raises:
            ValueError: If the size of the images does not fit the backbone, or they give a score that is not finite.
        """
        if isinstance(images, TVTensor):  # as anomalib's batches are; the compiler does not take them
            images = images.as_subclass(torch.Tensor)
        outputs = self.intermediate_outputs(images, self.text_features())
        pixel_values = self.anomaly_map_generator(self.decision(outputs), images.shape[-2:])
        prediction = self.decision.predict(outputs, pixel_values)
        _require_finite(prediction.pred_score)
        return prediction

    def intermediate_outputs(self, images: torch.Tensor, text_features: torch.Tensor) -> IntermediateOutputs:
        """Score images and patches by the text: what inference and training have in common.

        Args:
            images (torch.Tensor): Normalized images, shape ``[B, 3, H, W]``, sides multiples of the patch.
            text_features (torch.Tensor): Normalized text features, normal state first, shape ``[2, D]``. Those of
                :meth:`text_features` serve inference, those of :meth:`encode_text` training.

        Returns:
            IntermediateOutputs: Scores, patch maps, and what they come from.

        Raises:
            ValueError: If the size of the images does not fit the backbone.
        """
        layer_tokens, grid = self.backbone.encode_image(images)
        maps = self.mvfbe(layer_tokens, grid)
        embeddings = [self.backbone.project_image(tokens) for tokens in maps]
        probability = self.alignment(embeddings, text_features)
        class_score, patch_map = probability[:, 0], probability[:, 1:].unflatten(1, (1, *grid))
        return IntermediateOutputs(class_score, patch_map, embeddings, text_features, layer_tokens)


def _require_finite(pred_score: torch.Tensor) -> None:
    if torch.compiler.is_compiling() or pred_score.isfinite().all():
        return
    faulty = (~pred_score.isfinite()).nonzero().flatten().tolist()
    msg = (
        f"Images {faulty} of the batch give no finite score: they hold NaN, infinite or extreme values. Give images "
        "that are normalized with CLIP's mean and standard deviation, as FBClip's pre-processor does."
    )
    raise ValueError(msg)
