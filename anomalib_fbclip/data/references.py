# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The choice of photographs to compare with."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from anomalib_fbclip.images.image_files import find_images, printable
from anomalib_fbclip.results.good_photographs import find_copies

from .image_source import ImageLike

if TYPE_CHECKING:
    from anomalib.data import AnomalibDataModule


DATASET = "dataset"
"""Unlabeled source that stands for the images of the run itself."""


class ReferencesError(ValueError):
    """The requested photographs are not available. The message is one line, and says what to do."""


@dataclass(frozen=True)
class ReferenceChoice:
    """The choice of good photographs: ``k_shot`` of a folder, or all for 0.

    Without a folder they are normal images of a datamodule's training split.
    """

    few_shot_source: Path | None  # a folder, or a single photograph
    k_shot: int
    seed: int

    is_unlabeled: ClassVar[bool] = False  # if so, photographs may be defective, and are compared with each other

    def find(self, datamodule: "AnomalibDataModule | None", images: Sequence[Path] = ()) -> list[ImageLike]:
        """Find the files, sorted, in the given source or in the datamodule of a run or of an export.

        The datamodule's test and validation images are chosen only if there are too few others. None, or fewer than
        requested, are a :class:`ReferencesError`.
        """
        del images
        tested = _tested_images(datamodule) if datamodule is not None and self.k_shot else []
        if self.few_shot_source is not None:
            origin = f"few_shot_source {printable(self.few_shot_source)}"
            return self._choose(_find(self.few_shot_source, "few_shot_source", "good photographs"), origin, tested)
        if datamodule is None:
            msg = (
                "k_shot alone takes good photographs from a datamodule's training split, but there is no datamodule: "
                "give a folder as few_shot_source."
            )
            raise ReferencesError(msg)
        return self._choose(_normal_images(datamodule), f"The training split of {datamodule.name}", tested)

    def _choose(self, paths: Sequence[Path], origin: str, tested: Sequence[Path]) -> list[ImageLike]:
        if not paths:
            msg = f"{origin} has no good photographs: give a folder of them as few_shot_source."
            raise ReferencesError(msg)
        if len(paths) < self.k_shot:
            msg = f"{origin} has {len(paths)} good photographs, and k_shot is {self.k_shot}: add some, or lower k_shot."
            raise ReferencesError(msg)
        chosen = self._sample(paths)
        # Only the chosen ones are compared: to compare all could mean to read the whole dataset.
        while copies := find_copies(chosen, tested):
            others = [path for path in paths if path not in copies]
            if len(others) < self.k_shot:
                break
            paths, chosen = others, self._sample(others)
        return [*sorted(chosen)]

    def _sample(self, paths: Sequence[Path]) -> list[Path]:
        return random.Random(self.seed).sample(list(paths), self.k_shot or len(paths))  # noqa: S311 - no secret


@dataclass(frozen=True)
class GivenReferences:
    """Photographs given by a program. They are turned upright in a run, too, which reads others like its images."""

    images: tuple[ImageLike, ...]
    is_unlabeled: bool = False

    def find(self, datamodule: "AnomalibDataModule | None", images: Sequence[Path] = ()) -> list[ImageLike]:
        """Return the photographs."""
        del datamodule, images
        return [*self.images]


@dataclass(frozen=True)
class UnlabeledChoice:
    """The choice of photographs without labels. See :class:`ReferenceChoice`."""

    unlabeled_source: str  # a folder, or ``DATASET``

    is_unlabeled: ClassVar[bool] = True

    def find(self, datamodule: "AnomalibDataModule | None", images: Sequence[Path] = ()) -> list[ImageLike]:
        """Find the files, sorted, in the given folder, in the datamodule of a run, or among a run's images."""
        if self.unlabeled_source != DATASET:
            paths = _find(Path(self.unlabeled_source), "unlabeled_source", "photographs")
        elif datamodule is None:
            paths = [*images]
        else:
            _set_up(datamodule)
            paths = [Path(path) for path in datamodule.test_data.samples["image_path"]]
        if not paths:
            msg = f"unlabeled_source {printable(self.unlabeled_source)} has no photographs: give a folder of them."
            raise ReferencesError(msg)
        return [*sorted(paths)]


AnyChoice: TypeAlias = ReferenceChoice | UnlabeledChoice | GivenReferences


def choose_references(
    few_shot_source: str | None, k_shot: int, unlabeled_source: str | None, seed: int
) -> AnyChoice | None:
    """Make a choice from the arguments of a model; ``None`` if they request no photographs."""
    if k_shot < 0:
        msg = f"k_shot {k_shot} can't be used: give the number of good photographs, or 0."
        raise ValueError(msg)
    if few_shot_source is None and k_shot == 0:
        return None if unlabeled_source is None else UnlabeledChoice(unlabeled_source)
    if unlabeled_source is not None:
        msg = "Give unlabeled_source, or few_shot_source and k_shot, not both."
        raise ValueError(msg)
    return ReferenceChoice(None if few_shot_source is None else Path(few_shot_source), k_shot, seed)


def _find(source: Path, name: str, what: str) -> list[Path]:
    if source.exists():
        return find_images(source)
    msg = f"{name} {printable(source)} does not exist: give a folder of {what}."
    raise ReferencesError(msg)


def _set_up(datamodule: "AnomalibDataModule") -> None:
    if not hasattr(datamodule, "train_data"):  # outside of a run
        datamodule.prepare_data()
        datamodule.setup("fit")


def _normal_images(datamodule: "AnomalibDataModule") -> list[Path]:
    from anomalib.data.utils import LabelName  # imported already, for the datamodule

    _set_up(datamodule)
    samples = datamodule.train_data.samples
    return sorted(map(Path, samples.loc[samples["label_index"] == LabelName.NORMAL, "image_path"]))


def _tested_images(datamodule: "AnomalibDataModule") -> list[Path]:
    """List a datamodule's test and validation images, so that both runs have the same good photographs."""
    _set_up(datamodule)
    subsets = (getattr(datamodule, name, None) for name in ("test_data", "val_data"))
    return [Path(path) for subset in subsets if subset is not None for path in subset.samples["image_path"]]
