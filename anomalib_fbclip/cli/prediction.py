# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Predictions, and the interface of the models that make them."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from anomalib_fbclip.errors import ImageError
from anomalib_fbclip.exported.inferencer import ImageSource, Prediction
from anomalib_fbclip.images.photographs import Enough
from anomalib_fbclip.images.region_of_interest import Mask, RegionMasks
from anomalib_fbclip.results.report.page import NearestReference
from anomalib_fbclip.results.report.pictures import MAX_SIDE

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


class Inferencer(Protocol):
    """A model in torch, or an exported one (:class:`~anomalib_fbclip.exported.EdgeInferencer`)."""

    @property
    def minimum_side(self) -> int:
        """Smallest side of a photograph in pixels."""

    @property
    def input_size(self) -> tuple[int, int] | None:
        """Height and width of the model's input in pixels; ``None`` if unknown."""

    @property
    def tile_count(self) -> int:
        """Number of tiles besides the whole photograph."""

    @property
    def region(self) -> RegionMasks | Mask | None:
        """Region of interest: a mask per photograph, or one for all; ``None``: everywhere."""

    @property
    def white_level(self) -> int | None:
        """Value of white in photographs of more than 8 bits that do not state it; ``None`` if unknown."""

    def describe(self) -> str:
        """Describe the model in one line."""

    def decision_thresholds(self) -> tuple[float | None, float | None]:
        """Return the thresholds of scores and of anomaly maps; ``None`` if unknown."""

    def decide_at(self, threshold: float) -> None:
        """Set the threshold of scores, and that of anomaly maps unless it was given."""

    def threshold_sources(self) -> tuple[str | None, str | None]:
        """Return the sources of the thresholds, in the words of the table."""

    def stream(
        self,
        images: Iterable[ImageSource],
        on_failure: Callable[[ImageSource, ImageError], None] | None = None,
    ) -> Iterator[Prediction]:
        """Predict images in order.

        Args:
            images (Iterable[ImageSource]): The images.
            on_failure (Callable[[ImageSource, ImageError], None] | None, optional): Called in order with each image
                that can't be read. ``None``: the error is raised. Defaults to ``None``.
        """


class MaskedImage(NamedTuple):
    """An image with its region of interest.

    Attributes:
        pixels (NDArray[np.uint8]): RGB values of shape ``[H, W, 3]``.
        region (Mask): The region, of the size of the model's input.
    """

    pixels: NDArray[np.uint8]
    region: Mask


def choose_enough(input_size: tuple[int, int] | None) -> Enough | None:
    """Choose the size of a photograph that suffices for a model's input and for the picture.

    ``None`` for an unknown input means full size.
    """
    if input_size is None:
        return None
    least = INPUTS_OF_MODEL * max(input_size)
    return Enough(longer=max(MAX_SIDE, least), shorter=least)
