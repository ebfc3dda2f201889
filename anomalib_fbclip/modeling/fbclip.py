# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""PyTorch model of FB-CLIP.

Paper:
    FB-CLIP: Fine-Grained Zero-Shot Anomaly Detection with Foreground-Background Disentanglement, CVPR 2026.
    https://arxiv.org/abs/2603.19608
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torchvision.tv_tensors import TVTensor

from .alignment import TextAlignment
from .anomaly_map import AnomalyMapGenerator
from .clip import ClipBackbone
from .decision import Decision, ImageScore, IntermediateOutputs, ModelOutput, ZeroShot
from .mvfbe import MultiViewDisentanglement
from .prompt_learner import PromptLearner
from .region import RegionOfInterest
from .text_encoder import TextEncoder
from .text_fusion import TextFusion
from .tiling import WholeImage


class FBClipModel(TextEncoder):
    """FB-CLIP: a frozen CLIP, and light adapters that separate defects from the normal and foreground from background.

    Each part can be exchanged. :func:`~anomalib_fbclip.modeling.build.create_model` builds the paper's choice.

    Args:
        backbone (ClipBackbone): Frozen CLIP.
        prompt_learner (PromptLearner): Learnable prompts of the normal and the abnormal state.
        text_fusion (TextFusion): Multi-strategy text feature fusion (paper: MSTFF).
        mvfbe (MultiViewDisentanglement): Multi-view foreground-background enhancement (paper: MVFBE).
        alignment (TextAlignment): Similarity of image tokens and text features.
        anomaly_map_generator (AnomalyMapGenerator): Turns values of patches into those of pixels.
        image_score (ImageScore): Computes an image's score if only the text decides.
        tiling (WholeImage | None): Cuts images into views. ``None``: one view, the whole image.

    Attributes:
        region (RegionOfInterest | None): Region of interest of all images; ``None``: everywhere.
        zero_shot (ZeroShot): The paper's decision.
        decision (Decision): The decision in use; at first the paper's.
    """

    def __init__(
        self,
        backbone: ClipBackbone,
        prompt_learner: PromptLearner,
        text_fusion: TextFusion,
        mvfbe: MultiViewDisentanglement,
        alignment: TextAlignment,
        anomaly_map_generator: AnomalyMapGenerator,
        image_score: ImageScore,
        tiling: WholeImage | None,
    ) -> None:
        super().__init__(backbone, prompt_learner, text_fusion)
        self.mvfbe = mvfbe
        self.alignment = alignment
        self.anomaly_map_generator = anomaly_map_generator
        self.tiling = tiling or WholeImage(backbone.visual.image_size)
        self.region: RegionOfInterest | None = None
        self.zero_shot = ZeroShot(image_score)
        self.decision: Decision = self.zero_shot

    def forward(self, images: torch.Tensor, region: RegionOfInterest | None = None) -> ModelOutput:
        """Detect anomalies.

        Args:
            images (torch.Tensor): Normalized images, shape ``[B, 3, H, W]``, sides multiples of the patch; with tiles,
                of the tiling's ``image_size``.
            region (RegionOfInterest | None, optional): Their region of interest. Defaults to the attribute.

        Returns:
            decision.ModelOutput: Scores and anomaly maps.

        Raises:
            ValueError: If the size of the images does not fit the backbone, or a score is not finite.
        """
        outputs = self.look(images, self.text_features())  # the compiler's only graph break
        return self.conclude(outputs, images.shape[-2:], self.decision, self.region if region is None else region)

    def look(self, images: torch.Tensor, text_features: torch.Tensor) -> Iterator[IntermediateOutputs]:
        """Compute the :meth:`intermediate_outputs` for images as in :meth:`forward`, a few views at a time."""
        if isinstance(images, TVTensor):  # anomalib's batches are; the compiler refuses them
            images = images.as_subclass(torch.Tensor)
        return (self.intermediate_outputs(views, text_features) for views in self.tiling.split_in_parts(images))

    def conclude(
        self,
        outputs: Iterable[IntermediateOutputs],
        image_size: Sequence[int],
        decision: Decision,
        region: RegionOfInterest | None,
    ) -> ModelOutput:
        """Decide on images.

        Args:
            outputs (Iterable[IntermediateOutputs]): Results of :meth:`look` for all of their views.
            image_size (Sequence[int]): Height and width of the images in pixels.
            decision (Decision): The decision.
            region (RegionOfInterest | None): Region of interest of these images.

        Raises:
            ValueError: If a score is not finite.
        """
        decided = [(output.class_score, decision(output)) for output in outputs]
        class_scores, values = (part[0] if len(part) == 1 else torch.cat(part) for part in zip(*decided, strict=True))
        map_values = self.anomaly_map_generator.values(self.tiling.join(values, region), image_size, region)
        if region is None:
            prediction = decision.predict(self.tiling.highest(class_scores), map_values)
        else:  # the class token sees the whole image
            prediction = decision.predict(None, map_values).limited_to(region.pixels)
        prediction.require_finite()
        return prediction

    def region_of(self, pixels: torch.Tensor) -> RegionOfInterest:
        """Make a region of interest, on the model's device.

        Args:
            pixels (torch.Tensor): Where to look, bool ``[H, W]``, of the tiling's ``image_size``.

        Raises:
            ValueError: If the region is empty, or no patch has half of its pixels in it.
        """
        region = RegionOfInterest(pixels.to(self.anomaly_map_generator.kernel.device))
        return self.anomaly_map_generator.within_reach(region, self.backbone.grid((pixels.shape[0], pixels.shape[1])))

    def intermediate_outputs(self, images: torch.Tensor, text_features: torch.Tensor) -> IntermediateOutputs:
        """Score images and patches by the text, for inference and training.

        Args:
            images (torch.Tensor): Normalized images, shape ``[B, 3, H, W]``, sides multiples of the patch.
            text_features (torch.Tensor): Normalized text features, normal state first, shape ``[2, D]``: from
                :meth:`text_features` for inference, from :meth:`encode_text` for training.

        Raises:
            ValueError: If the size of the images does not fit the backbone.
        """
        layer_tokens, grid = self.backbone.encode_image(images)
        maps = self.mvfbe(layer_tokens, grid)
        embeddings = [self.backbone.project_image(tokens) for tokens in maps]
        probability = self.alignment(embeddings, text_features)
        class_score, patch_map = probability[:, 0], probability[:, 1:].unflatten(1, (1, *grid))
        return IntermediateOutputs(class_score, patch_map, embeddings, text_features, layer_tokens)
