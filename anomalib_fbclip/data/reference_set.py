# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Good photographs for comparison: read, fitted, named, and shown."""

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
from anomalib_fbclip.weights.adapters import Adapters, keep_decision
from anomalib_fbclip.weights.metadata import REFERENCES_PREFIX
from anomalib_fbclip.weights.tensor_files import reading

from .image_source import ImageLike, crop_patch, load_image
from .near_copies import describe_near_copies, leave_out_copies

ROTATIONS = 4
"""Rotated copies per photograph (4 = every 90°)."""

NEARER_WITH_TURNS = 0.1
"""Share by which twice as many rotated copies reduce the distance of parts that lie at any angle. Randomly rotated
screws: 0.23; hazelnuts: 0.05; textures, and parts that all lie the same way: 0.03 at most."""

FEW = 4
"""Number of photographs below which their threshold is unreliable."""

KEPT_INPUTS = 2
"""Ratio of each side of a kept photograph to the model's input, unless it was shorter."""

FIT_TENSORS = ("origins", "logits", "inside", "scores", "unlikeness")
"""Fields of a fit that a file keeps, besides the decision."""

LARGEST_TURNED = 2048
"""Longest shorter side of a rotated copy in pixels, to save memory: models use fewer."""


class ReferencePatch(NamedTuple):
    """A patch of a good photograph.

    Attributes:
        photograph (int): The photograph's index in the set.
        name (str): Its file, or its number.
        turn (int): The rotated copy; 0 is not rotated.
        place (tuple[int, int]): Row and column of the patch in the copy.
        grid (tuple[int, int]): Number of rows and columns.
    """

    photograph: int
    name: str
    turn: int
    place: tuple[int, int]
    grid: tuple[int, int]


class ReferenceSet:
    """Good photographs that a model is fitted to.

    ``images`` are those in use: if they are ``None``, all that were found but near copies. ``upright`` and
    ``white_level`` apply to files and Pillow images. ``known`` has results of an earlier fit, by the photographs'
    digests. One that can't be read, or is smaller than a patch, is an ``ImageError`` where it is needed.
    """

    decision: ClassVar[type[FewShot]] = FewShot
    noun: ClassVar[str] = "Good photograph"  # the name of one that is not a file

    def __init__(
        self,
        found: Sequence[ImageLike],
        rotations: int = ROTATIONS,
        *,
        upright: bool = True,
        white_level: int | None = None,
        region: RegionSource | None = None,
        images: Sequence[ImageLike] | None = None,
        known: Mapping[str, Block] | None = None,
    ) -> None:
        self.found = [*found]
        self.images = leave_out_copies(self.found, white_level) if images is None else [*images]
        self.rotations = rotations
        self.upright = upright
        self.white_level = white_level
        self.region = region
        self.fit: Fit  # known after fit_model
        self._known = known or {}
        self._needs_turns = False

    def fit_model(
        self,
        model: FBClipModel,
        transform: Callable[[torch.Tensor], torch.Tensor],
        maps: Sequence[str] = MAPS,
        advance: Callable[[], None] = lambda: None,
    ) -> None:
        """Give a model a decision by comparison with the photographs.

        ``transform`` converts RGB values 0..1, shape ``[1, 3, H, W]``, to the model's input on its device. ``advance``
        is called each time a photograph is read, at most twice each.
        """

        def read(index: int) -> Iterator[ReferenceImage]:
            image = self.load(index, model.backbone.minimum_side)
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
        self.fit = fit(model, photographs, maps, self.decision, known)
        model.decision = self.fit.decision
        if self.rotations == ROTATIONS and len(self.images) > 1:
            self._needs_turns = self._find_turns(model, transform)

    @torch.inference_mode()
    def _find_turns(self, model: FBClipModel, transform: Callable[[torch.Tensor], torch.Tensor]) -> bool:
        """Tell from two photographs whether parts lie at any angle: if so, more rotated copies are much nearer."""
        first, second = (self.load(index, model.backbone.minimum_side) for index in range(2))
        own, *turned = (
            join_layers(later_half(model.backbone.encode_image(model.tiling.split(transform(image[None]))[:1])[0]))[0]
            for image in (first, *turned_copies(second, 2 * ROTATIONS))
        )
        few, many = ((1 - (own @ torch.cat(copies).mT).amax(dim=1)).mean() for copies in (turned[::2], turned))
        return bool(many < (1 - NEARER_WITH_TURNS) * few)

    def _inside(self, index: int, turn: int, size: Sequence[int], image_size: Sequence[int]) -> torch.Tensor:
        """Mark the region of interest of a copy without its filled corners, bool ``[H, W]``."""
        if turn == 0:
            return torch.from_numpy(self._paint(index, image_size))
        scale = max(image_size) / max(size)  # the corners depend on the photograph's proportions
        painted = self._paint(index, [max(round(side * scale), 1) for side in size])
        angle = 360 * turn / self.rotations
        turned = F.rotate(torch.from_numpy(painted)[None].float(), angle, InterpolationMode.NEAREST)
        return F.resize(turned, list(image_size), InterpolationMode.NEAREST)[0] > 0

    def _paint(self, index: int, size: Sequence[int]) -> Mask:
        """Paint the region of interest of a photograph."""
        height, width = size
        if self.region is None:
            return np.ones((height, width), dtype=np.bool_)
        return paint_region(self.region, (height, width), self.images[index])

    def load(self, index: int, minimum_side: int = 1) -> torch.Tensor:
        """Read a photograph in use. See :func:`load_image`."""
        return self._load(self.images[index], minimum_side)

    def _load(self, image: ImageLike, minimum_side: int = 1) -> torch.Tensor:
        return load_image(image, minimum_side, upright=self.upright, white_level=self.white_level)

    def name(self, index: int) -> str:
        """Return the file of a photograph, or its number if it is not from a file."""
        file = _file_of(self.images[index])
        return printable(file) if file else f"{self.noun} {index + 1}"

    def keep(self, model: FBClipModel) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Collect tensors and metadata with which a product works without the photographs' files."""
        if isinstance(self.region, RegionMasks):
            raise ValueError(ONE_REGION)  # noqa: TRY004 - not a wrong type
        tensors, metadata = keep_decision(model)
        least = [KEPT_INPUTS * side for side in model.tiling.image_size]
        names = [name for _, name in self.product_names()]
        kept = [self._keep(photograph, name, least) for photograph, name in zip(self.found, names, strict=True)]
        images = {
            f"image.{index}": torch.frombuffer(bytearray(photograph.content), dtype=torch.uint8)
            for index, photograph in enumerate(kept)
        }
        values = {name: getattr(self.fit, name) for name in FIT_TENSORS}
        places = {id(photograph): index for index, photograph in reversed([*enumerate(self.found)])}
        return tensors | {f"{REFERENCES_PREFIX}{name}": tensor for name, tensor in (images | values).items()}, {
            **metadata,
            "photographs": [
                {"name": name, "size": photograph.size, "digest": photograph.digest}
                for name, photograph in zip(names, kept, strict=True)
            ],
            "used": [places[id(image)] for image in self.images],
            "outliers": self.fit.outliers,
            "rotations": self.rotations,
            "white_level": self.white_level,
        }

    def product_names(self) -> list[tuple[str, str]]:
        """Return the name of each photograph, and the one that tells it from the others in a product."""
        own = [Path(_file_of(image)).name or f"{self.noun} {index}" for index, image in enumerate(self.found, start=1)]
        return [*zip(own, _tell_apart(own), strict=True)]

    def _keep(self, photograph: ImageLike, name: str, least: Sequence[int]) -> KeptPhotograph:
        """Keep a photograph as it was read, large enough to teach the model again."""
        if isinstance(photograph, KeptPhotograph):
            return photograph
        image = self._load(photograph)
        scale = max(side / own for side, own in zip(least, image.shape[1:], strict=True))
        if scale < 1:
            image = F.resize(image, [max(round(scale * side), 1) for side in image.shape[1:]], antialias=True)
        file = io.BytesIO()
        F.to_pil_image(image).save(file, "PNG")
        size = Path(photograph).stat().st_size if isinstance(photograph, str | Path) else 0
        return KeptPhotograph(name, file.getvalue(), size, self._digest(photograph))

    def _digest(self, photograph: ImageLike) -> str:
        if isinstance(photograph, KeptPhotograph):
            return photograph.digest
        if isinstance(photograph, str | Path):
            return digest_file(photograph)
        return sha256(self._load(photograph).numpy().tobytes()).hexdigest()

    def digest(self) -> str:
        """Digest the photographs to 16 hexadecimal digits, which show whether others are the same."""
        digests = sorted(self._digest(photograph) for photograph in self.found)
        return sha256("".join(digests).encode()).hexdigest()[:16]

    @classmethod
    def restore(cls, product: Adapters, decision: Decision | None, region: RegionOfInterest | None) -> "ReferenceSet":
        """Restore a set from a product, its decision and its region. A damaged product raises ``ValueError``."""
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
                KeptPhotograph(content=product.tensors[f"{REFERENCES_PREFIX}image.{index}"].numpy().tobytes(), **one)
                for index, one in enumerate(said["photographs"])
            ]
            for photograph in found:
                photograph.check()
            images = [found[index] for index in said["used"]]
            restored = cls(found, said["rotations"], white_level=said["white_level"], region=mask, images=images)
            restored.fit = Fit(decision=decision, outliers=said["outliers"], **kept)
            _check_fit(restored.fit, len(images), restored.rotations)
        return restored

    @property
    def kept(self) -> list[KeptPhotograph]:
        """The photographs that come from a product's file, including near copies."""
        return [photograph for photograph in self.found if isinstance(photograph, KeptPhotograph)]

    def change(self, added: Sequence[ImageLike], removed: Collection[str], model: FBClipModel) -> "ReferenceSet":
        """Add photographs to a restored set, and remove others by name.

        The new set has no fit yet, and reuses the results of this one, which the model was fitted to.
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
        """Find the photographs' patch that is nearest to an image's patch in a row and column.

        ``rows`` has the nearest row of the memory bank for each patch of the image, shape ``[h, w]``.
        """
        height, width = rows.shape
        photograph, turn, patch = self.fit.origins[rows[place]].tolist()
        return ReferencePatch(photograph, self.name(photograph), turn, divmod(patch, width), (height, width))

    def crop(self, patch: ReferencePatch, photograph: torch.Tensor) -> Image.Image:
        """Crop a patch of :meth:`nearest` and its neighbors from the rotated copy of its photograph."""
        copy = next(islice(turned_copies(photograph, self.rotations), patch.turn, None), None)
        if copy is None:
            msg = f"{patch.name} has {self.rotations} rotated copies, and number {patch.turn + 1} is asked for."
            raise ValueError(msg)
        return crop_patch(copy.clamp(0, 1), patch.place, patch.grid)  # rotation adds rounding errors

    @property
    def is_doubtful(self) -> bool:
        """True if there are too few photographs for a good threshold."""
        return len(self.images) < FEW

    @property
    def advice(self) -> str:
        """How many photographs to give, if there are too few."""
        return f"Give at least {FEW}; 8 are better." if self.is_doubtful else ""

    def describe(self, *, decides: bool) -> str:
        """Say how many photographs there are and, if the threshold comes from them, how reliable it is."""
        count = len(self.images)
        line = f"Compared with {count} good photograph{'' if count == 1 else 's'}"
        if not decides:
            return f"{line}."
        likely = f"about {self.fit.false_alarms} in {count + 1} good parts may be called anomalous."
        return f"{line}: {likely} {self.advice}".rstrip()

    def warnings(self) -> list[str]:
        """Warn of near copies, outliers, and parts at many angles."""
        unlike = "is unlike the other good photographs. Check it: it may be defective, or show another kind of part."
        lines = describe_near_copies(len(self.found), len(self.images))
        lines += [f"{self.name(index)} {unlike}" for index in self.fit.outliers]
        if self._needs_turns:
            lines.append(
                f"The parts lie at many angles: set --rotations (in anomalib: reference_rotations) to {2 * ROTATIONS}."
            )
        return lines


def _file_of(image: ImageLike) -> str:
    """Return the path of a photograph's file; empty if it is not from a file."""
    if isinstance(image, str | Path):
        return str(image)
    return image.name if isinstance(image, KeptPhotograph) else str(getattr(image, "filename", ""))


def _tell_apart(names: Sequence[str]) -> list[str]:
    """Make names unique: append numbers to repeated ones."""
    taken: list[str] = []
    for name in names:
        path = Path(name)
        others = (name, *(f"{path.stem}-{number}{path.suffix}" for number in range(2, len(names) + 2)))
        taken.append(next(other for other in others if other not in taken))
    return taken


def _check_fit(fit: Fit, count: int, rotations: int) -> None:
    """Raise ``ValueError`` if a fit's tensors don't match in shape and type, or name places that there are not."""
    rows, views = fit.decision.memory.patches.shape[1], fit.decision.memory.views
    shapes = [tuple(getattr(fit, name).shape) for name in FIT_TENSORS]
    grid = tuple(fit.inside.shape[2:])
    expected = [(count * rows, 3), (count, views, *grid), (count, views, *grid), (count,), (count, 2)]
    is_whole = len(grid) == 3 and fit.inside.dtype == torch.bool and fit.decision.k_shot == count > 0  # noqa: PLR2004
    numbers = (fit.logits, fit.scores, fit.unlikeness)
    are_numbers = all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in numbers)
    if shapes != expected or not is_whole or not are_numbers or fit.origins.dtype != torch.int64:
        raise ValueError
    limits = fit.origins.new_tensor([count, rotations, fit.inside[0].numel()])
    if not ((fit.origins >= 0) & (fit.origins < limits)).all():
        raise ValueError


def threshold_source(decision: Decision) -> str:
    """Return the source of a threshold of 0.5, in the words of the table."""
    if not decision.k_shot:
        return DEFAULT
    return f"{decision.k_shot} {UNLABELED}" if isinstance(decision, MutualScoring) else REFERENCES


def turned_copies(image: torch.Tensor, count: int) -> Iterator[torch.Tensor]:
    """Yield a photograph and copies at equal angles, because a part that lies another way is not a defect.

    The rotated ones may be smaller, with the same proportions. Their corners have the photograph's median color.
    """
    yield image
    if min(image.shape[1:]) > LARGEST_TURNED:
        image = F.resize(image, [LARGEST_TURNED], antialias=True)
    fill = image.flatten(1).median(dim=1).values.tolist()
    for index in range(1, count):
        yield F.rotate(image, 360 * index / count, InterpolationMode.BILINEAR, fill=fill)
