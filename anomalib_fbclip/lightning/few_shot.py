# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Few-shot runs of a Lightning model: photographs of good parts, from wherever they are, through its pre-processor."""

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from anomalib.data import AnomalibDataModule, InferenceBatch
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image
from rich.console import Console
from rich.progress import Progress

from anomalib_fbclip.data.image_source import ImageSource, load_image
from anomalib_fbclip.data.near_copies import describe_near_copies, leave_out_copies
from anomalib_fbclip.data.references import GivenReferences, ReferenceChoice, turned_copies
from anomalib_fbclip.images.image_files import printable
from anomalib_fbclip.modeling.fbclip import FBClipModel
from anomalib_fbclip.modeling.few_shot import MAPS, Fit, fit
from anomalib_fbclip.results.thresholds import DEFAULT
from anomalib_fbclip.weights.adapters import FEW_SHOT_PREFIX
from anomalib_fbclip.weights.source import AdapterSource

from .components import ModelMixin
from .post_processing import REFERENCES, ThresholdPostProcessor
from .trainer_run import TrainerRun

logger = logging.getLogger(__name__)


class FewShotMixin(ModelMixin):
    """Lets :class:`FBClip` compare photographs with those of good parts.

    Attributes:
        references (list[ImageSource]): The photographs of good parts that are in use, without near copies.
        references_upright (bool): Whether files and images of Pillow among them were turned as their EXIF data say.
        reference_fit (Fit | None): What came of them.
    """

    model: FBClipModel
    _adapters: AdapterSource
    reference_choice: ReferenceChoice | GivenReferences
    reference_rotations: int
    few_shot_maps: list[str]
    white_level: int | None
    references: list[ImageSource]
    _found_references: list[ImageSource]
    references_upright: bool
    reference_fit: Fit | None

    def configure_references(
        self,
        few_shot_source: str | None,
        k_shot: int,
        seed: int,
        rotations: int,
        maps: Sequence[str],
    ) -> None:
        """Note which photographs of good parts are asked for, and how they are compared with. See :class:`FBClip`.

        Raises:
            ValueError: If ``k_shot`` is negative, there is no copy, or a map is unknown, named twice, or there is none.
        """
        self.reference_choice = ReferenceChoice.of(few_shot_source, k_shot, seed)
        if rotations < 1:
            msg = f"reference_rotations {rotations} can't be used: give 1 for no turned copies, or more."
            raise ValueError(msg)
        if not maps or len(set(maps)) < len(maps) or not set(maps) <= set(MAPS):
            msg = f"few_shot_maps {maps} can't be used: choose one or both, each once, of {list(MAPS)}."
            raise ValueError(msg)
        self.reference_rotations = rotations
        self.few_shot_maps = [*maps]
        self.references, self._found_references = [], []
        self.references_upright = False
        self.reference_fit = None

    @property
    def is_few_shot(self) -> bool:
        """Whether photographs of good parts are in use, or will be."""
        return self.reference_choice.is_made or self.model.decision.k_shot > 0

    def use_references(self, references: Sequence[ImageSource]) -> None:
        """Compare with photographs of good parts from now on. Thresholds come from them, too.

        Args:
            references (Sequence[ImageSource]): Files, images of Pillow, arrays ``[H, W, 3]`` or tensors ``[3, H, W]``,
                as :meth:`explain` takes them. Files and images of Pillow are turned upright.

        Raises:
            ImageError: If one can't be read, or is smaller than a patch.
            ValueError: If there are none, or one is no RGB image.

        Example:
            >>> model = FBClip("fbclip-small")  # doctest: +SKIP
            >>> model.use_references(["good/1.jpg", "good/2.jpg"])  # doctest: +SKIP
        """
        if not references:
            msg = "There are no photographs of good parts: give at least one."
            raise ValueError(msg)
        self.reference_choice = GivenReferences(tuple(references))
        self._fit_references(list(references), upright=True)

    def forward(self, batch: torch.Tensor, *args, **kwargs) -> InferenceBatch:
        """Predict images. See :meth:`anomalib.models.components.AnomalibModule.forward`.

        Args:
            batch (torch.Tensor): Images with values 0..1, shape ``[B, 3, H, W]``.
            *args: Passed on.
            **kwargs: Passed on.

        Returns:
            InferenceBatch: The predictions.
        """
        self.prepare_references(TrainerRun(None))
        return super().forward(batch, *args, **kwargs)

    def prepare_references(self, run: TrainerRun) -> None:
        """Get the photographs that were asked for ready, as a run reads its images: not turned upright.

        Those in use stay where there is no datamodule that may have others.

        Raises:
            ImageError: If one can't be read, or is smaller than a patch.
            ReferencesError: If there are fewer than asked for.
        """
        is_asked_for = self.reference_choice.is_made and not run.is_fitting
        if is_asked_for and (run.datamodule is not None or not self.references):
            with run.forward_context():
                self._take_references(run.datamodule, upright=run.trainer is None)

    def prepare_references_of(self, datamodule: AnomalibDataModule | None) -> None:
        """Get the photographs that were asked for ready for an export. Those in use stay.

        Args:
            datamodule (AnomalibDataModule | None): Its training split has them if ``k_shot`` alone was given.

        Raises:
            ImageError: If one can't be read, or is smaller than a patch.
            ReferencesError: If there are fewer than asked for.
        """
        if self.reference_choice.is_made and not self.references:
            self._take_references(datamodule, upright=True)

    def forget_references(self) -> None:
        """Compare with no photographs of good parts any more."""
        self.outdate_references()
        self.reference_choice = ReferenceChoice.none()

    def outdate_references(self) -> None:
        """Forget what came of photographs of good parts, because adapters change: the next run makes it anew."""
        if self.model.decision.k_shot:
            self.references, self._found_references = [], []
            self.reference_fit, self.model.decision = None, self.model.zero_shot
            self.expect_other_scores()

    def forget_photographs(self) -> None:
        """Forget the photographs of good parts themselves. What came of them stays."""
        self.reference_choice = ReferenceChoice.none()
        self.references, self._found_references, self.reference_fit = [], [], None

    def expect_other_scores(self) -> None:
        """Forget thresholds that were fitted: with good photographs, or without any more, scores are others."""
        if isinstance(self.post_processor, ThresholdPostProcessor):
            self.post_processor.forget_fit(REFERENCES if self.model.decision.k_shot else DEFAULT)

    def reference_tensors(self) -> dict[str, torch.Tensor]:
        """What a file of adapters holds of the photographs of good parts.

        Raises:
            ValueError: If there are none.
        """
        self.prepare_references(TrainerRun(None))
        if not self.model.decision.k_shot:
            msg = "There are no photographs of good parts to save: give some to use_references, or set few_shot_source."
            raise ValueError(msg)
        return {f"{FEW_SHOT_PREFIX}{name}": tensor for name, tensor in self.model.decision.tensors().items()}

    def _take_references(self, datamodule: AnomalibDataModule | None, *, upright: bool) -> None:
        references = self.reference_choice.find(datamodule)
        if references != self._found_references:
            self._fit_references(references, upright=upright or self.reference_choice.is_upright)

    def _fit_references(self, found: list[ImageSource], *, upright: bool) -> None:
        self.outdate_references()
        self._adapters.make_ready()
        references = leave_out_copies(found, self.white_level)
        with _progress(2 * len(references)) as advance:
            load = partial(self._load_reference, upright=upright, advance=advance)
            result = fit(self.model, [partial(load, reference) for reference in references], self.few_shot_maps)
        self.references, self._found_references, self.references_upright = references, found, upright
        self.reference_fit, self.model.decision = result, result.few_shot
        self.expect_other_scores()
        self._report_references(result)

    def _load_reference(
        self, reference: ImageSource, upright: bool, advance: Callable[[], None]
    ) -> Iterator[torch.Tensor]:
        """Give a photograph and its turned copies, each only once it is asked for, as batches of one image."""
        minimum_side = max(self.model.backbone.patch_size)
        image = load_image(reference, minimum_side, upright=upright, white_level=self.white_level)
        advance()
        for copy in turned_copies(image, self.reference_rotations):
            batch = copy.unsqueeze(0).to(self.device)
            yield self.pre_processor(batch) if self.pre_processor else batch

    @property
    def _has_threshold_of_references(self) -> bool:
        post_processor = self.post_processor
        return (
            isinstance(post_processor, ThresholdPostProcessor) and post_processor.image_threshold_source == REFERENCES
        )

    @rank_zero_only
    def _report_references(self, result: Fit) -> None:
        """Say how sure a threshold from so few photographs is, and which of them are unlike the others."""
        count = len(self.references)
        for line in describe_near_copies(len(self._found_references), count):
            logger.warning(line)
        if self._has_threshold_of_references:
            logger.info(
                "Thresholds from %s: of good parts, about %d in %d may be called anomalous.",
                f"{count} good photographs" if count > 1 else "1 good photograph",
                result.false_alarms,
                count + 1,
            )
        if count == 1 and self._has_threshold_of_references:
            logger.warning("A threshold from one photograph calls many good parts anomalous: give four or more.")
        for index in result.outliers:
            logger.warning(
                "%s is unlike the other good photographs: it is defective, or of another kind. Look at it.",
                reference_name(self.references[index], index),
            )


def reference_name(reference: ImageSource, index: int) -> str:
    """Give the file of a photograph of a good part, or its number if it is not from a file."""
    if isinstance(reference, str | Path):
        return printable(reference)
    filename = getattr(reference, "filename", "") if isinstance(reference, Image.Image) else ""
    return printable(filename) if filename else f"Good photograph {index + 1}"


@contextmanager
def _progress(total: int) -> Generator[Callable[[], None]]:
    console = Console(stderr=True)
    # Elsewhere than on a terminal, a transient bar leaves an empty line. Lightning sets the rank.
    is_quiet = rank_zero_only.rank > 0 or not console.is_terminal  # type: ignore[attr-defined]
    with Progress(console=console, transient=True, disable=is_quiet) as progress:
        task = progress.add_task("Good photographs", total=total)
        yield lambda: progress.advance(task)
