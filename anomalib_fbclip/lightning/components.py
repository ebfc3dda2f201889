# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The model's default pre-processor, post-processor and evaluator."""

from typing import TYPE_CHECKING

from anomalib.metrics import Evaluator
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from torch import nn

from anomalib_fbclip.modeling.resize import create_transform

from .evaluation.evaluator import RankingEvaluator
from .post_processing import ThresholdPostProcessor
from .pre_processing import AntialiasedPreProcessor

if TYPE_CHECKING:
    from anomalib.models.components import AnomalibModule

    ModelMixin = AnomalibModule
else:

    class ModelMixin:
        """A part of one of anomalib's models. Subclasses of ``AnomalibModule`` are listed as models."""


class DefaultComponentsMixin:
    """Configures the default components of one of anomalib's models."""

    @staticmethod
    def configure_pre_processor(image_size: tuple[int, int] | None = None) -> PreProcessor:
        """Configure the default pre-processor: the whole image, resized, with CLIP's mean and standard deviation.

        Args:
            image_size (tuple[int, int] | None, optional): Height and width in pixels. Defaults to 518 x 518.

        Returns:
            PreProcessor: The pre-processor.
        """
        return AntialiasedPreProcessor(transform=create_transform(image_size or (518, 518)))

    @staticmethod
    def configure_post_processor() -> PostProcessor:
        """Configure the default post-processor, which fits thresholds and normalization where there is data to do so.

        Returns:
            PostProcessor: The post-processor.
        """
        return ThresholdPostProcessor()

    @staticmethod
    def configure_evaluator() -> Evaluator:
        """Configure the default evaluator: the paper's four metrics.

        Returns:
            Evaluator: The evaluator.
        """
        return RankingEvaluator()


def resolve_post_processor(
    post_processor: nn.Module | bool,
    image_threshold: float | None,
    pixel_threshold: float | None,
) -> nn.Module | bool:
    """Set thresholds that were given in the default post-processor.

    Args:
        post_processor (nn.Module | bool): A post-processor, or whether to use the default.
        image_threshold (float | None): Score, 0..1, above which an image is anomalous; ``None`` if it is not given.
        pixel_threshold (float | None): Value of the anomaly map above which a pixel is; ``None`` if it is not given.

    Returns:
        nn.Module | bool: The post-processor; ``False`` if there is none.

    Raises:
        ValueError: If a threshold is not in 0..1, or thresholds are given and the default is not used.
    """
    if post_processor is True:
        return ThresholdPostProcessor(image_threshold, pixel_threshold)
    if image_threshold is None and pixel_threshold is None:
        return post_processor
    msg = "image_threshold and pixel_threshold are set in the default post-processor: don't give another one too."
    raise ValueError(msg)
