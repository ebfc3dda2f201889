# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Photographs of good parts that others are compared with: read, fitted, named, and shown."""

import io
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F  # noqa: N812

from anomalib_fbclip.images.image_files import printable
from anomalib_fbclip.images.photographs import KeptPhotograph, digest_file
from anomalib_fbclip.images.region_of_interest import ONE_REGION, Mask, RegionMasks, RegionSource, paint_region
from anomalib_fbclip.modeling.decision import Decision
from anomalib_fbclip.modeling.fbclip import FBClipModel
from anomalib_fbclip.modeling.few_shot import MAPS, Block, FewShot, Fit, MutualScoring, ReferenceImage, fit
from anomalib_fbclip.modeling.few_shot.few_shot import later_half
from anomalib_fbclip.modeling.few_shot.memory_bank import join_layers
from anomalib_fbclip.modeling.region import RegionOfInterest
from anomalib_fbclip.results.thresholds import DEFAULT, REFERENCES, UNLABELED
from anomalib_fbclip.weights.adapters import REFERENCES_PREFIX, Adapters, keep_decision
from anomalib_fbclip.weights.tensor_files import reading

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

KEPT_INPUTS = 2
"""Ratio of each side of a kept photograph to that of the model's input, unless it was shorter."""

FIT_TENSORS = ("origins", "logits", "inside", "scores", "unlikeness")
"""Fields of a fit that a file keeps, besides its decision."""

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
        images (Sequence[ImageSource] | None, optional): Those that are used. ``None``: they are looked through for near
            copies. Defaults to ``None``.
        known (Mapping[str, Block] | None, optional): What an earlier fit kept of photographs, by their digests.
            Defaults to ``None``.

    Attributes:
        decision (type[FewShot]): How the model decides by them.
        noun (str): What a photograph is called that is not a file.
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
        images: Sequence[ImageSource] | None = None,
        known: Mapping[str, Block] | None = None,
    ) -> None:
        self.found = [*found]
        self.images = leave_out_copies(self.found, white_level) if images is None else [*images]
        self.rotations = rotations
        self.upright = upright
        self.white_level = white_level
        self.region = region
        self._fit: Fit | None = None
        self._known = known or {}
        self._needs_turns = False

    @property
    def fit(self) -> Fit:
        """The fit to the photographs.

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

        kept = [image.digest if isinstance(image, KeptPhotograph) else "" for image in self.images]
        known = {index: self._known[digest] for index, digest in enumerate(kept) if digest in self._known}
        for _ in known:
            advance()
        photographs = [partial(read, index) for index in range(len(self.images))]
        self._fit = fit(model, photographs, maps, self.decision, known)
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
        return self._load(self.images[index], minimum_side)

    def _load(self, image: ImageSource, minimum_side: int = 1) -> torch.Tensor:
        return load_image(image, minimum_side, upright=self.upright, white_level=self.white_level)

    def name(self, index: int) -> str:
        """Give the file of a photograph, or its number if it is not from a file."""
        file = _file_of(self.images[index])
        return printable(file) if file else f"{self.noun} {index + 1}"

    def keep(self, model: FBClipModel) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Collect what a file keeps of the photographs, so that they are not needed any more.

        Args:
            model (FBClipModel): The model that was fitted to them.

        Returns:
            tuple[dict[str, torch.Tensor], dict[str, Any]]: Tensors by name, and what is said of them.

        Raises:
            ImageError: If a photograph can't be read any more.
            ValueError: If each photograph has a region of interest of its own.
        """
        if isinstance(self.region, RegionMasks):
            raise ValueError(ONE_REGION)  # noqa: TRY004 - the argument is of a right type
        tensors, metadata = keep_decision(model)
        least = [KEPT_INPUTS * side for side in model.tiling.image_size]
        kept = [self._keep(photograph, index, least) for index, photograph in enumerate(self.found)]
        images = {f"image.{index}": _from_bytes(photograph.content) for index, photograph in enumerate(kept)}
        values = {name: getattr(self.fit, name) for name in FIT_TENSORS}
        places = {id(photograph): index for index, photograph in reversed([*enumerate(self.found)])}
        return tensors | {f"{REFERENCES_PREFIX}{name}": tensor for name, tensor in (images | values).items()}, {
            **metadata,
            "photographs": [
                {"name": name, "size": photograph.size, "digest": photograph.digest}
                for name, photograph in zip(_tell_apart([photograph.name for photograph in kept]), kept, strict=True)
            ],
            "used": [places[id(image)] for image in self.images],
            "outliers": self.fit.outliers,
            "rotations": self.rotations,
            "white_level": self.white_level,
        }

    def _keep(self, photograph: ImageSource, index: int, least: Sequence[int]) -> KeptPhotograph:
        """Keep a photograph as it was read, at a size that the model could still be taught anew with."""
        if isinstance(photograph, KeptPhotograph):
            return photograph
        image = self._load(photograph)
        scale = max(side / own for side, own in zip(least, image.shape[1:], strict=True))
        if scale < 1:
            image = F.resize(image, [max(round(scale * side), 1) for side in image.shape[1:]], antialias=True)
        file = io.BytesIO()
        F.to_pil_image(image).save(file, "PNG")
        name = Path(_file_of(photograph)).name or f"{self.noun} {index + 1}"
        size = Path(photograph).stat().st_size if isinstance(photograph, str | Path) else 0
        return KeptPhotograph(name, file.getvalue(), size, self._digest(photograph))

    def _digest(self, photograph: ImageSource) -> str:
        if isinstance(photograph, KeptPhotograph):
            return photograph.digest
        if isinstance(photograph, str | Path):
            return digest_file(photograph)
        return sha256(self._load(photograph).numpy().tobytes()).hexdigest()

    def digest(self) -> str:
        """Digest the photographs, so that it can be told whether others are the same: 16 hexadecimal digits."""
        digests = sorted(self._digest(photograph) for photograph in self.found)
        return sha256("".join(digests).encode()).hexdigest()[:16]

    @classmethod
    def restore(cls, product: Adapters, decision: Decision | None, region: RegionOfInterest | None) -> "ReferenceSet":
        """Restore a set from what :meth:`keep` gave.

        Args:
            product (Adapters): What a file of adapters holds, with good photographs.
            decision (Decision | None): What was read of it.
            region (RegionOfInterest | None): What was read of it.

        Returns:
            ReferenceSet: The set.

        Raises:
            ValueError: If what is known of them is damaged.
        """
        said = product.metadata
        if not isinstance(decision, FewShot):
            msg = f"{product.origin} lacks the results of its good photographs: teach it again."
            raise ValueError(msg)  # noqa: TRY004 - of the file, not of an argument
        mask = None if region is None else region.pixels.cpu().numpy()
        with reading(product.origin):
            kept = {
                name: product.tensors[f"{REFERENCES_PREFIX}{name}"].to(decision.memory.patches.device)
                for name in FIT_TENSORS
            }
            found = [
                KeptPhotograph(content=_to_bytes(product.tensors[f"{REFERENCES_PREFIX}image.{index}"]), **one)
                for index, one in enumerate(said["photographs"])
            ]
            for photograph in found:
                photograph.check()
            images = [found[index] for index in said["used"]]
            restored = cls(found, said["rotations"], white_level=said["white_level"], region=mask, images=images)
            restored._fit = Fit(decision=decision, outliers=said["outliers"], **kept)
            _check_fit(restored.fit, len(images))
        return restored

    @property
    def kept(self) -> list[KeptPhotograph]:
        """Those that a product's file keeps, near copies among them."""
        return [photograph for photograph in self.found if isinstance(photograph, KeptPhotograph)]

    def change(self, added: Sequence[ImageSource], removed: Collection[str], model: FBClipModel) -> "ReferenceSet":
        """Add photographs to a restored set, and leave others out.

        Args:
            added (Sequence[ImageSource]): Further photographs.
            removed (Collection[str]): Names of those that are left out.
            model (FBClipModel): The model that was fitted to the set.

        Returns:
            ReferenceSet: Another set, to which a model is still to be fitted. What is known of the photographs is used.

        Raises:
            ImageError: If a photograph can't be read.
        """
        left = [photograph for photograph in self.found if _file_of(photograph) not in removed]
        known = {
            image.digest: self.fit.block(index, model.region)
            for index, image in enumerate(self.images)
            if isinstance(image, KeptPhotograph)
        }
        return type(self)(
            [*left, *added], self.rotations, white_level=self.white_level, region=self.region, known=known
        )

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
        return crop_patch(copy.clamp(0, 1), patch.place, patch.grid)  # to be turned adds rounding

    @property
    def is_doubtful(self) -> bool:
        """True if there are too few photographs for a good threshold."""
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
        few = f" Give at least {FEW}; 8 are better." if self.is_doubtful else ""
        return f"{line}: about {self.fit.false_alarms} in {count + 1} good parts may be called anomalous.{few}"

    def warnings(self) -> list[str]:
        """Say which photographs are near copies of others, and which are unlike the others: a line each."""
        unlike = "is unlike the other good photographs: it is defective, or shows another kind of part. Check it."
        return [
            *describe_near_copies(len(self.found), len(self.images)),
            *(f"{self.name(index)} {unlike}" for index in self.fit.outliers),
            *([f"The good photographs lie at many angles: compare {2 * ROTATIONS} {TURNS}."] * self._needs_turns),
        ]


def _file_of(image: ImageSource) -> str:
    """Give the name of a photograph's file; nothing if it comes from none."""
    if isinstance(image, str | Path):
        return str(image)
    return image.name if isinstance(image, KeptPhotograph) else str(getattr(image, "filename", ""))


def _tell_apart(names: Sequence[str]) -> list[str]:
    """Give each of several photographs of one name a name of its own."""
    taken: list[str] = []
    for name in names:
        path = Path(name)
        others = (name, *(f"{path.stem}-{number}{path.suffix}" for number in range(2, len(names) + 2)))
        taken.append(next(other for other in others if other not in taken))
    return taken


def _check_fit(fit: Fit, count: int) -> None:
    """Make sure that the parts of a fit that was read belong together.

    Raises:
        ValueError: If they don't.
    """
    rows, views = fit.decision.memory.patches.shape[1], fit.decision.memory.views
    shapes = [tuple(getattr(fit, name).shape) for name in FIT_TENSORS]
    grid = tuple(fit.inside.shape[2:])
    expected = [(count * rows, 3), (count, views, *grid), (count, views, *grid), (count,), (count, 2)]
    is_whole = len(grid) == 3 and fit.inside.dtype == torch.bool and fit.decision.k_shot == count > 0  # noqa: PLR2004
    if shapes != expected or not is_whole or not set(fit.outliers) <= set(range(count)):
        msg = "Its parts do not match."
        raise ValueError(msg)


def _from_bytes(content: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def _to_bytes(tensor: torch.Tensor) -> bytes:
    return tensor.numpy().tobytes()


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
