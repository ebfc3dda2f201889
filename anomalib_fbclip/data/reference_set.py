# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Photographs of good parts that others are compared with: read, fitted, named, and shown."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F  # noqa: N812

from anomalib_fbclip.images.image_files import printable
from anomalib_fbclip.images.region_of_interest import Mask, RegionSource, paint_region
from anomalib_fbclip.modeling.decision import Decision
from anomalib_fbclip.modeling.fbclip import FBClipModel
from anomalib_fbclip.modeling.few_shot import MAPS, FewShot, Fit, MutualScoring, ReferenceImage, fit
from anomalib_fbclip.modeling.few_shot.few_shot import later_half
from anomalib_fbclip.modeling.few_shot.memory_bank import join_layers
from anomalib_fbclip.modeling.region import RegionOfInterest
from anomalib_fbclip.results.thresholds import DEFAULT, REFERENCES, UNLABELED

from .image_source import ImageSource, crop_patch, load_image
from .near_copies import describe_near_copies, leave_out_copies

ROTATIONS = 4
"""Copies of each photograph, turned by equal parts of a full turn."""

NEARER_WITH_TURNS = 0.1
"""Share by which photographs of parts at any angle come nearer to each other with twice as many turned copies. Screws
that were turned at random: 0.23; hazelnuts: 0.05; textures, and parts that all lie one way: 0.03 at most."""

TURNS = "turned copies of each, with --rotations or reference_rotations"

FEW = 4
"""Photographs below which a threshold from them is poor."""

LARGEST_TURNED = 2048
"""Pixels that the shorter side of a turned copy has at most: models look at fewer, and to turn more takes memory."""


class ReferencePatch(NamedTuple):
    """A patch of a photograph of a good part.

    Attributes:
        photograph (int): The photograph's index in the set.
        name (str): Its file, or its number.
        turn (int): Which of its turned copies: 0 is not turned.
        place (tuple[int, int]): Row and column of the patch in the copy.
        grid (tuple[int, int]): Number of rows and columns.
    """

    photograph: int
    name: str
    turn: int
    place: tuple[int, int]
    grid: tuple[int, int]


class ReferenceSet:
    """Reads photographs of good parts, fits a model to them, and finds the place that another is nearest to.

    Args:
        found (Sequence[ImageSource]): The photographs.
        rotations (int, optional): Copies of each, turned by equal parts of a full turn. Defaults to ``ROTATIONS``.
        upright (bool, optional): Whether files and images of Pillow are turned as their EXIF data say. Defaults to
            ``True``.
        white_level (int | None, optional): Value of white in files of more than 8 bits that do not say it. Defaults to
            ``None``.
        region (RegionSource | None, optional): Where to look in the photographs. ``None``: everywhere. Defaults to
            ``None``.

    Attributes:
        decision (type[FewShot]): How the model decides by them.
        noun (str): What a photograph is called that is no file.
        found (list[ImageSource]): The photographs.
        images (list[ImageSource]): Those that are used: one of each group of near copies.

    Raises:
        ImageError: If one can't be read.
        ValueError: If the values of one are not those of an RGB image.
    """

    decision: ClassVar[type[FewShot]] = FewShot
    noun: ClassVar[str] = "Good photograph"

    def __init__(
        self,
        found: Sequence[ImageSource],
        rotations: int = ROTATIONS,
        *,
        upright: bool = True,
        white_level: int | None = None,
        region: RegionSource | None = None,
    ) -> None:
        self.found = [*found]
        self.images = leave_out_copies(self.found, white_level)
        self.rotations = rotations
        self.upright = upright
        self.white_level = white_level
        self.region = region
        self._fit: Fit | None = None
        self._needs_turns = False

    @property
    def fit(self) -> Fit:
        """What came of the photographs.

        Raises:
            RuntimeError: If no model was fitted to them.
        """
        if self._fit is None:
            msg = "No model was fitted to these photographs: call fit_model."
            raise RuntimeError(msg)
        return self._fit

    def fit_model(
        self,
        model: FBClipModel,
        transform: Callable[[torch.Tensor], torch.Tensor],
        maps: Sequence[str] = MAPS,
        advance: Callable[[], None] = lambda: None,
    ) -> None:
        """Have a model compare with the photographs from now on (few-shot decision).

        Args:
            model (FBClipModel): The model.
            transform (Callable[[torch.Tensor], torch.Tensor]): From RGB values 0..1, shape ``[1, 3, H, W]``, to what
                the model takes, on its device.
            maps (Sequence[str], optional): Maps that take part in the decision. Defaults to both.
            advance (Callable[[], None], optional): Called when a photograph is read, which is twice for each at most.
                Defaults to nothing.

        Raises:
            ImageError: If one can't be read, or is smaller than a patch.
        """

        def read(index: int) -> Iterator[ReferenceImage]:
            image = self.load(index, max(model.backbone.patch_size))
            advance()
            for turn, copy in enumerate(turned_copies(image, self.rotations)):
                normalized = transform(copy.unsqueeze(0))
                inside = self._inside(index, turn, image.shape[1:], normalized.shape[2:])
                if inside.any():
                    yield ReferenceImage(normalized, None if inside.all() else RegionOfInterest(inside))

        self._fit = fit(model, [partial(read, index) for index in range(len(self.images))], maps, self.decision)
        model.decision = self._fit.decision
        if self.rotations == ROTATIONS and len(self.images) > 1:
            self._needs_turns = self._find_turns(model, transform)

    @torch.inference_mode()
    def _find_turns(self, model: FBClipModel, transform: Callable[[torch.Tensor], torch.Tensor]) -> bool:
        """Tell from two photographs whether parts lie at any angle: then twice as many turned copies are much nearer.

        Of a texture, which looks alike at any angle, they are not.
        """
        first, second = (self.load(index, max(model.backbone.patch_size)) for index in range(2))
        own, *turned = (
            join_layers(later_half(model.backbone.encode_image(model.tiling.split(transform(image[None]))[:1])[0]))[0]
            for image in (first, *turned_copies(second, 2 * ROTATIONS))
        )
        few, many = ((1 - (own @ torch.cat(copies).mT).amax(dim=1)).mean() for copies in (turned[::2], turned))
        return bool(many < (1 - NEARER_WITH_TURNS) * few)

    def _inside(self, index: int, turn: int, size: Sequence[int], image_size: Sequence[int]) -> torch.Tensor:
        """Tell what counts of a copy, bool ``[H, W]``: the region of interest, and no corners that were filled."""
        if turn == 0:
            return torch.from_numpy(self._paint(index, image_size))
        scale = max(image_size) / max(size)  # corners are those of a copy in the photograph's proportions
        painted = self._paint(index, [max(round(side * scale), 1) for side in size])
        angle = 360 * turn / self.rotations
        turned = F.rotate(torch.from_numpy(painted)[None].float(), angle, InterpolationMode.NEAREST)
        return F.resize(turned, list(image_size), InterpolationMode.NEAREST)[0] > 0

    def _paint(self, index: int, size: Sequence[int]) -> Mask:
        """Paint the region of interest of a photograph in a size."""
        height, width = size
        if self.region is None:
            return np.ones((height, width), dtype=np.bool_)
        source = self.images[index]
        return paint_region(self.region, (height, width), Path(source) if isinstance(source, str | Path) else None)

    def load(self, index: int, minimum_side: int = 1) -> torch.Tensor:
        """Read a photograph: RGB values 0..1, shape ``[3, H, W]``.

        Raises:
            ImageError: If it can't be read, or a side has fewer pixels than ``minimum_side``.
        """
        return load_image(self.images[index], minimum_side, upright=self.upright, white_level=self.white_level)

    def name(self, index: int) -> str:
        """Give the file of a photograph, or its number if it is not from a file."""
        image = self.images[index]
        file = image if isinstance(image, str | Path) else getattr(image, "filename", "")
        return printable(file) if file else f"{self.noun} {index + 1}"

    def nearest(self, rows: torch.Tensor, place: tuple[int, int]) -> ReferencePatch:
        """Find the patch of a photograph that a place of an image is nearest to.

        Args:
            rows (torch.Tensor): Row of the memory bank that is nearest to each patch of the image, shape ``[h, w]``.
            place (tuple[int, int]): Row and column of the place.

        Returns:
            ReferencePatch: The patch.
        """
        height, width = rows.shape
        photograph, turn, patch = self.fit.origins[rows[place]].tolist()
        return ReferencePatch(photograph, self.name(photograph), turn, divmod(patch, width), (height, width))

    def crop(self, patch: ReferencePatch, photograph: torch.Tensor) -> Image.Image:
        """Cut a patch out of a photograph, with the patches around it.

        Args:
            patch (ReferencePatch): What :meth:`nearest` gave.
            photograph (torch.Tensor): Its photograph, as :meth:`load` gave it.

        Returns:
            Image.Image: The piece of the turned copy.
        """
        copy = next(islice(turned_copies(photograph, self.rotations), patch.turn, None))
        return crop_patch(copy, patch.place, patch.grid)

    @property
    def is_doubtful(self) -> bool:
        """Whether a threshold from the photographs is poor, because there are too few."""
        return len(self.images) < FEW

    def describe(self, *, decides: bool) -> str:
        """Say how many photographs there are, and how sure a threshold from them is.

        Args:
            decides (bool): Whether the threshold comes from them.
        """
        count = len(self.images)
        line = f"Compared with {count} good photograph{'' if count == 1 else 's'}"
        if not decides:
            return f"{line}."
        few = f" Give {FEW} or more, better 8." if self.is_doubtful else ""
        return f"{line}: about {self.fit.false_alarms} in {count + 1} good parts may be called anomalous.{few}"

    def warnings(self) -> list[str]:
        """Say which photographs are near copies of others, and which are unlike the others: a line each."""
        unlike = "is unlike the other good photographs: it is defective, or of another kind. Look at it."
        return [
            *describe_near_copies(len(self.found), len(self.images)),
            *(f"{self.name(index)} {unlike}" for index in self.fit.outliers),
            *([f"The good photographs lie at many angles: compare {2 * ROTATIONS} {TURNS}."] * self._needs_turns),
        ]


def threshold_source(decision: Decision) -> str:
    """Say where a threshold of 0.5 comes from, in the words of the table."""
    if not decision.k_shot:
        return DEFAULT
    return f"{decision.k_shot} {UNLABELED}" if isinstance(decision, MutualScoring) else REFERENCES


def turned_copies(image: torch.Tensor, count: int) -> Iterator[torch.Tensor]:
    """Turn a photograph, because a part that lies another way is not a defect.

    Args:
        image (torch.Tensor): RGB values, shape ``[3, H, W]``.
        count (int): Number of copies. They are turned by equal parts of a full turn, the first one not at all.

    Yields:
        torch.Tensor: The copies. The first one is the photograph itself. The others may be smaller, with the same ratio
            of sides, and their corners have the photograph's median color.
    """
    yield image
    if min(image.shape[1:]) > LARGEST_TURNED:
        image = F.resize(image, [LARGEST_TURNED], antialias=True)
    fill = image.flatten(1).median(dim=1).values.tolist()
    for index in range(1, count):
        yield F.rotate(image, 360 * index / count, InterpolationMode.BILINEAR, fill=fill)
