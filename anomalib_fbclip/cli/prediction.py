# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The models that predict, and what the one in torch takes and gives beside an exported one."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from anomalib_fbclip.exported.inferencer import EdgeInferencer, Prediction
from anomalib_fbclip.images.photographs import Enough
from anomalib_fbclip.images.region_of_interest import Mask
from anomalib_fbclip.results.pictures import MAX_SIDE
from anomalib_fbclip.results.report import NearestReference

if TYPE_CHECKING:
    from .torch_inferencer import TorchInferencer

Inferencer: TypeAlias = "TorchInferencer | EdgeInferencer"
"""A model in torch, or an exported one."""

INPUTS_OF_MODEL = 2
"""Smallest ratio of a side of a reduced photograph to that of the model's input."""


@dataclass(frozen=True, eq=False)
class ComparedPrediction(Prediction):
    """A prediction by comparison with good photographs.

    Attributes:
        nearest (NearestReference): The most anomalous place, and the nearest place in a good photograph.
        thresholds (tuple[float, float]): Thresholds of images and places.
        threshold_sources (tuple[str, str]): Their sources, in the words of the table.
        region (Mask | None): Region of interest of the product; ``None``: everywhere, or a region per photograph.
        is_unknown (bool): Whether it is unlike all products. It was then compared with the most similar one.
    """

    nearest: NearestReference
    thresholds: tuple[float, float]
    threshold_sources: tuple[str, str]
    region: Mask | None
    is_unknown: bool


class MaskedImage(NamedTuple):
    """RGB values of shape ``[H, W, 3]``, and their region of interest, of the size of the model's input."""

    pixels: NDArray[np.uint8]
    region: Mask


def choose_enough(input_size: tuple[int, int] | None) -> Enough | None:
    """Choose the size of a photograph that suffices for a model's input and for the picture; ``None``: full size."""
    if input_size is None:
        return None
    least = INPUTS_OF_MODEL * max(input_size)
    return Enough(longer=max(MAX_SIDE, least), shorter=least)
