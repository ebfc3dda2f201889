# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Explanations of a Lightning model: of an image from wherever it is, through the model's own pre-processor."""

from .data.image_source import ImageSource, load_image
from .modeling.explanation import Explanation, explain
from .modeling.fbclip import FBClipModel
from .processing.mixin import ModelMixin


class ExplanationMixin(ModelMixin):
    """Shows how :class:`FBClip` comes to its answers."""

    model: FBClipModel

    def explain(self, image: ImageSource) -> Explanation:
        """Show how the model comes to its answer for one image.

        Args:
            image (ImageSource): A file, an image of Pillow, an array ``[H, W, 3]`` or a tensor ``[3, H, W]``, in RGB:
                whole numbers, or fractions 0..1.

        Returns:
            Explanation: The intermediate maps of every layer and view, and the score and the anomaly map before the
                post-processor.

        Raises:
            ImageError: If a file or an image of Pillow can't be read, the range of its values is not known, or it is
                smaller than a patch.
            ValueError: If it is no RGB image.

        Example:
            >>> explanation = FBClip().explain("photograph.jpg")  # doctest: +SKIP
            >>> explanation.foreground_masks.shape  # of each layer  # doctest: +SKIP
            torch.Size([5, 37, 37])
            >>> explanation.similarities.shape  # of each layer and view  # doctest: +SKIP
            torch.Size([5, 3, 37, 37])
        """
        pixels = load_image(image, max(self.model.backbone.patch_size)).unsqueeze(0).to(self.device)
        return explain(self.model, self.pre_processor(pixels) if self.pre_processor else pixels)
