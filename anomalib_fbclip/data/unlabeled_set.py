# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Photographs without labels that are compared with each other, unless they differ too much."""

import random
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, ClassVar

import torch

from anomalib_fbclip.errors import ImageError
from anomalib_fbclip.images.photographs import Enough, PhotographSource, read_reduced
from anomalib_fbclip.images.region_of_interest import RegionMasks, RegionSource
from anomalib_fbclip.modeling.fbclip import FBClipModel
from anomalib_fbclip.modeling.few_shot import MAPS, MutualScoring
from anomalib_fbclip.modeling.few_shot.calibration import STEEPNESS
from anomalib_fbclip.modeling.few_shot.mutual_scoring import (
    are_unalike,
    find_kinds,
    is_split,
    photograph_distances,
)
from anomalib_fbclip.weights.adapters import keep_decision

from .image_source import ImageLike, load_image
from .reference_set import ReferenceSet

FEWEST = 8
"""Number of photographs below which a comparison with each other gains nothing."""

MOST = 32
"""Largest number of photographs that all are compared with, so that time grows only linearly."""

ENOUGH_TO_READ = Enough(longer=64, shorter=64)


class UnlabeledSet(ReferenceSet):
    """Photographs without labels, most of which are good, that a model is fitted to. See :class:`ReferenceSet`.

    Those that can't be read or are smaller than ``minimum_side`` are not chosen. They are inspected at the size of
    ``enough``, or at their full size if it is ``None``.
    """

    decision: ClassVar[type[MutualScoring]] = MutualScoring
    noun: ClassVar[str] = "Photograph"

    def __init__(
        self,
        found: Sequence[ImageLike],
        seed: int = 0,
        minimum_side: int = 1,
        enough: Enough | None = None,
        *,
        upright: bool = True,
        white_level: int | None = None,
        region: RegionSource | None = None,
    ) -> None:
        order = random.Random(seed).sample(range(len(found)), len(found))  # noqa: S311 - no secret
        readable = (index for index in order if _is_readable(found[index], minimum_side, white_level, region))
        chosen = sorted(islice(readable, MOST))
        super().__init__(
            [found[index] for index in chosen], rotations=1, upright=upright, white_level=white_level, region=region
        )
        self.found = [*found]
        self.doubt: str | None = None  # why they are not compared with each other; known after fit_model
        self._enough = enough

    def fit_model(
        self,
        model: FBClipModel,
        transform: Callable[[torch.Tensor], torch.Tensor],
        maps: Sequence[str] = MAPS,
        advance: Callable[[], None] = lambda: None,
    ) -> None:
        """Give a model a decision by comparison, or set :attr:`doubt`. See :meth:`ReferenceSet.fit_model`."""
        count = len(self.images)
        if count < FEWEST:
            self.doubt = f"Only {count} of the {len(self.found)} photographs can be read and are not copies."
            return
        previous = model.decision
        super().fit_model(model, transform, maps, advance)
        self.doubt = _find_doubt(photograph_distances(self.fit.decision.memory).cpu())
        if self.doubt:
            model.decision = previous

    def keep(self, model: FBClipModel) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:  # noqa: PLR6301 - overrides
        """Collect the decision for a file, without the photographs. See :meth:`ReferenceSet.keep`."""
        return keep_decision(model)

    def load(self, index: int, minimum_side: int = 1) -> torch.Tensor:
        """Read a photograph at the size at which it is inspected. See :meth:`ReferenceSet.load`."""
        source = self.images[index]
        if self._enough is None or not isinstance(source, PhotographSource):
            return super().load(index, minimum_side)
        return load_image(
            read_reduced(source, enough=self._enough, minimum_side=minimum_side, white_level=self.white_level).pixels
        )

    @property
    def is_doubtful(self) -> bool:
        """True if the photographs are not compared with each other."""
        return self.doubt is not None

    def describe(self, *, decides: bool) -> str:
        """Say how the photographs are inspected, and when that works."""
        del decides
        if self.doubt:
            return f"{self.doubt} Each photograph is inspected by itself."
        total, count = len(self.found), len(self.images)
        others = "each other" if total == count else f"{count} of them"
        return f"The {total} photographs are compared with {others}. This works if most of them are good."

    def warnings(self) -> list[str]:
        """Warn if half of the photographs may be defective."""
        # This undoes the calibration: values in units of the threshold.
        if self.doubt or not is_split(self.fit.scores.logit(eps=1e-6) / STEEPNESS + 1):
            return []
        found = "The scores fall into two groups: up to half of the photographs may be defective."
        return [f"{found} Use good photographs instead."]


def _is_readable(source: ImageLike, minimum_side: int, white_level: int | None, region: RegionSource | None) -> bool:
    """Tell whether a photograph and its mask can be read. The inspection reports it if not."""
    if not isinstance(source, PhotographSource):
        return True
    try:
        photograph = read_reduced(source, enough=ENOUGH_TO_READ, minimum_side=minimum_side, white_level=white_level)
        if isinstance(region, RegionMasks):
            height, width = photograph.pixels.shape[:2]
            region.mask(source, (height, width))
    except ImageError:
        return False
    return True


def _find_doubt(distances: torch.Tensor) -> str | None:
    if are_unalike(distances):
        return "The photographs are not alike."
    if kinds := find_kinds(distances):
        first, second = (f"{size / len(distances):.0%}" for size in sorted(kinds, reverse=True))
        return f"The photographs show different things (about {first} and {second}): put each kind in its own folder."
    return None
