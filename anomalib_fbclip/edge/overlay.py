# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Pictures of predictions: the image, how anomalous each place is, and an outline of the anomalous region."""

from PIL import Image

from anomalib_fbclip.report.heatmap import draw_heatmap

from .inferencer import Prediction


def draw_overlay(prediction: Prediction) -> Image.Image:
    """Draw a prediction on its image, which is gray, so that all color is the anomaly map's.

    Args:
        prediction (Prediction): The prediction.

    Returns:
        Image.Image: An RGB picture of the image's size. A color stands for the same value in every picture.
    """
    return draw_heatmap(Image.fromarray(prediction.image), prediction.anomaly_map, prediction.mask)
