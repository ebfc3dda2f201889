# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The choice of photographs to compare with."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from anomalib_fbclip.images.image_files import find_images, printable
from anomalib_fbclip.results.good_photographs import find_copies

from .image_source import ImageSource

if TYPE_CHECKING:
    from anomalib.data import AnomalibDataModule


DATASET = "dataset"
"""Name of the images of the run itself."""


class ReferencesError(ValueError):
    """Good photographs that were asked for can't be had. The message is one line, and says what to do."""


class ReferenceChoice(NamedTuple):
    """The choice of photographs of good parts.

    Attributes:
        few_shot_source (Path | None): A folder of them, or a single one.
        k_shot (int): How many are taken: of the folder or, without one, of the normal images of a datamodule's
            training split. 0: all of the folder.
        seed (int): Seed of the choice.
    """

    few_shot_source: Path | None
    k_shot: int
    seed: int

    @classmethod
    def of(cls, few_shot_source: str | None, k_shot: int, seed: int) -> "ReferenceChoice":
        """Check the arguments of a model.

        Raises:
            ValueError: If ``k_shot`` is negative.
        """
        if k_shot < 0:
            msg = f"k_shot {k_shot} can't be used: give the number of good photographs, or 0."
            raise ValueError(msg)
        return cls(None if few_shot_source is None else Path(few_shot_source), k_shot, seed)

    @classmethod
    def none(cls) -> "ReferenceChoice":
        """Ask for no photographs."""
        return cls(few_shot_source=None, k_shot=0, seed=0)

    @property
    def is_made(self) -> bool:
        """True if any are asked for."""
        return self.few_shot_source is not None or self.k_shot > 0

    @property
    def is_unlabeled(self) -> bool:
        """True if they may be defective, and are compared with each other."""
        return False

    @property
    def is_upright(self) -> bool:
        """True if they are turned upright also in a run, which otherwise reads them like its own images."""
        return False

    def find(self, datamodule: "AnomalibDataModule | None", images: Sequence[Path] = ()) -> list[ImageSource]:
        """Find the photographs.

        What the datamodule tests or validates with is not chosen, unless there are too few others.

        Args:
            datamodule (AnomalibDataModule | None): The datamodule of a run or of an export; ``None`` if there is none.
            images (Sequence[Path], optional): Not used. Defaults to ``()``.

        Returns:
            list[ImageSource]: The files, in the order of their names.

        Raises:
            ReferencesError: If there are fewer than asked for, or none.
        """
        del images
        tested = _tested_images(datamodule) if datamodule is not None and self.k_shot else []
        if self.few_shot_source is not None:
            origin = f"few_shot_source {printable(self.few_shot_source)}"
            return self._choose(_find(self.few_shot_source, "few_shot_source", "good photographs"), origin, tested)
        if datamodule is None:
            msg = (
                "k_shot alone takes good photographs from a datamodule's training split, and there is none here: give "
                "a folder as few_shot_source."
            )
            raise ReferencesError(msg)
        return self._choose(_normal_images(datamodule), f"The training split of {datamodule.name}", tested)

    def _choose(self, paths: Sequence[Path], origin: str, tested: Sequence[Path]) -> list[ImageSource]:
        if not paths:
            msg = f"{origin} has no good photographs: give a folder of them as few_shot_source."
            raise ReferencesError(msg)
        if len(paths) < self.k_shot:
            msg = f"{origin} has {len(paths)} good photographs, and k_shot is {self.k_shot}: add some, or lower k_shot."
            raise ReferencesError(msg)
        chosen = self._sample(paths)
        # Only what is chosen is compared: to compare all would read datasets whose files are of one size.
        while copies := find_copies(chosen, tested):
            others = [path for path in paths if path not in copies]
            if len(others) < self.k_shot:
                break
            paths, chosen = others, self._sample(others)
        return [*sorted(chosen)]

    def _sample(self, paths: Sequence[Path]) -> list[Path]:
        return random.Random(self.seed).sample(list(paths), self.k_shot or len(paths))  # noqa: S311 - no secret


class GivenReferences(NamedTuple):
    """Photographs that were handed in.

    Attributes:
        images (tuple[ImageSource, ...]): The photographs.
        is_unlabeled (bool): Whether they may be defective, and are compared with each other.
    """

    images: tuple[ImageSource, ...]
    is_unlabeled: bool = False

    @property
    def is_made(self) -> bool:
        """True if any are asked for."""
        return True

    @property
    def is_upright(self) -> bool:
        """True if they are turned upright also in a run."""
        return True

    def find(self, datamodule: "AnomalibDataModule | None", images: Sequence[Path] = ()) -> list[ImageSource]:
        """Give the photographs."""
        del datamodule, images
        return [*self.images]


class UnlabeledChoice(NamedTuple):
    """The choice of photographs without labels.

    Attributes:
        unlabeled_source (str): A folder of them, or ``dataset``: the images of the run itself.
    """

    unlabeled_source: str

    @property
    def is_made(self) -> bool:
        """True if any are asked for."""
        return True

    @property
    def is_unlabeled(self) -> bool:
        """True if they may be defective, and are compared with each other."""
        return True

    @property
    def is_upright(self) -> bool:
        """True if they are turned upright also in a run, which otherwise reads them like its own images."""
        return False

    def find(self, datamodule: "AnomalibDataModule | None", images: Sequence[Path] = ()) -> list[ImageSource]:
        """Find the photographs.

        Args:
            datamodule (AnomalibDataModule | None): The images of a run with one are those that it tests with.
            images (Sequence[Path], optional): The images of a run without one. Defaults to ``()``.

        Returns:
            list[ImageSource]: The files, in the order of their names.

        Raises:
            ReferencesError: If there are none.
        """
        if self.unlabeled_source != DATASET:
            paths = _find(Path(self.unlabeled_source), "unlabeled_source", "photographs")
        elif datamodule is None:
            paths = [*images]
        else:
            _set_up(datamodule)
            paths = [Path(path) for path in datamodule.test_data.samples["image_path"]]
        if not paths:
            msg = f"unlabeled_source {printable(self.unlabeled_source)} has no photographs here: give a folder of them."
            raise ReferencesError(msg)
        return [*sorted(paths)]


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
    from anomalib.data.utils import LabelName  # a datamodule is here, so that anomalib is imported already

    _set_up(datamodule)
    samples = datamodule.train_data.samples
    return sorted(map(Path, samples.loc[samples["label_index"] == LabelName.NORMAL, "image_path"]))


def _tested_images(datamodule: "AnomalibDataModule") -> list[Path]:
    """List what a datamodule tests and validates with, so that both have the same good photographs."""
    _set_up(datamodule)
    subsets = (getattr(datamodule, name, None) for name in ("test_data", "val_data"))
    return [Path(path) for subset in subsets if subset is not None for path in subset.samples["image_path"]]
