# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Predictions, and what gives them."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from anomalib_fbclip.errors import ImageError
from anomalib_fbclip.exported.images import ImageSource
from anomalib_fbclip.exported.inferencer import Prediction
from anomalib_fbclip.results.report.page import NearestReference


@dataclass(frozen=True, eq=False)
class ComparedPrediction(Prediction):
    """A prediction by good photographs.

    Attributes:
        nearest (NearestReference): The most anomalous place, and the place of a good photograph that it is nearest to.
    """

    nearest: NearestReference


class Inferencer(Protocol):
    """A model in torch, or an exported one: :class:`~anomalib_fbclip.exported.EdgeInferencer`."""

    @property
    def minimum_side(self) -> int:
        """Pixels that each side of a photograph must have."""

    @property
    def input_side(self) -> int | None:
        """Pixels of the longer side that the model resizes photographs to; ``None`` if it is not known."""

    @property
    def white_level(self) -> int | None:
        """Value of white in a photograph of more than 8 bits that does not say it; ``None`` if it is not known."""

    def describe(self) -> str:
        """Say in one line which model it is."""

    def decision_thresholds(self) -> tuple[float | None, float | None]:
        """Give the thresholds of scores and of anomaly maps; ``None`` where they are not known."""

    def threshold_sources(self) -> tuple[str | None, str | None]:
        """Tell where they come from, in the words of the table."""

    def stream(
        self,
        images: Iterable[ImageSource],
        on_failure: Callable[[ImageSource, ImageError], None] | None = None,
    ) -> Iterator[Prediction]:
        """Predict images in their order.

        Args:
            images (Iterable[ImageSource]): The images.
            on_failure (Callable[[ImageSource, ImageError], None] | None, optional): Called with an image that can't be
                read, when it is its turn. ``None``: the error is raised. Defaults to ``None``.

        Yields:
            Prediction: The predictions.
        """
