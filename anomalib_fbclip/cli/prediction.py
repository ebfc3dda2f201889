# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Predictions, and the interface of the models that make them."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from anomalib_fbclip.errors import ImageError
from anomalib_fbclip.exported.images import ImageSource
from anomalib_fbclip.exported.inferencer import Prediction
from anomalib_fbclip.images.photographs import Enough
from anomalib_fbclip.images.region_of_interest import Mask, RegionMasks
from anomalib_fbclip.results.report.page import NearestReference
from anomalib_fbclip.results.report.pictures import MAX_SIDE

INPUTS_OF_MODEL = 2
"""Smallest ratio between a side of a reduced photograph and that of the model's input."""


@dataclass(frozen=True, eq=False)
class ComparedPrediction(Prediction):
    """A prediction by good photographs.

    Attributes:
        nearest (NearestReference): The most anomalous place, and the nearest place in a good photograph.
        thresholds (tuple[float, float]): Thresholds of images and places.
        threshold_sources (tuple[str, str]): Their sources, in the words of the table.
        region (Mask | None): Where to look, if it is the same in all photographs of the product; ``None``: everywhere.
        is_unknown (bool): Whether it is unlike all of several products. It was compared with the nearest.
    """

    nearest: NearestReference
    thresholds: tuple[float, float]
    threshold_sources: tuple[str, str]
    region: Mask | None
    is_unknown: bool


class Inferencer(Protocol):
    """A model in torch, or an exported one: :class:`~anomalib_fbclip.exported.EdgeInferencer`."""

    @property
    def minimum_side(self) -> int:
        """Pixels that each side of a photograph must have."""

    @property
    def input_size(self) -> tuple[int, int] | None:
        """Height and width of the model's input in pixels; ``None`` if they are not known."""

    @property
    def tile_count(self) -> int:
        """Number of tiles besides the whole photograph."""

    @property
    def region(self) -> RegionMasks | Mask | None:
        """Masks of where to look, by photograph, or one for all; ``None``: everywhere."""

    @property
    def white_level(self) -> int | None:
        """Value of white in a photograph of more than 8 bits that does not name it; ``None`` if it is not known."""

    def describe(self) -> str:
        """Say in one line which model it is."""

    def decision_thresholds(self) -> tuple[float | None, float | None]:
        """Return the thresholds of scores and of anomaly maps; ``None`` where they are not known."""

    def decide_at(self, threshold: float) -> None:
        """Set the threshold of scores, and that of places unless it was given."""

    def threshold_sources(self) -> tuple[str | None, str | None]:
        """Return the sources of the thresholds, in the words of the table."""

    def stream(
        self,
        images: Iterable[ImageSource],
        on_failure: Callable[[ImageSource, ImageError], None] | None = None,
    ) -> Iterator[Prediction]:
        """Predict images in their order.

        Args:
            images (Iterable[ImageSource]): The images.
            on_failure (Callable[[ImageSource, ImageError], None] | None, optional): Called in order with each image
                that can't be read. ``None``: the error is raised. Defaults to ``None``.

        Yields:
            Prediction: The predictions.
        """


class MaskedImage(NamedTuple):
    """An image that has a region of interest of its own.

    Attributes:
        pixels (NDArray[np.uint8]): RGB values of shape ``[H, W, 3]``.
        region (Mask): Where to look, of the size of the model's input.
    """

    pixels: NDArray[np.uint8]
    region: Mask


def choose_enough(input_size: tuple[int, int] | None) -> Enough | None:
    """Choose the size of a photograph that suffices for the model and for the picture.

    Args:
        input_size (tuple[int, int] | None): Height and width of the model's input; ``None`` if they are not known.

    Returns:
        Enough | None: The size. ``None``: full size is needed.
    """
    if input_size is None:
        return None
    least = INPUTS_OF_MODEL * max(input_size)
    return Enough(longer=max(MAX_SIDE, least), shorter=least)
