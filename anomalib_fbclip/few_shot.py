# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Few-shot runs of a Lightning model: photographs of good parts, from wherever they are, through its pre-processor."""

import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from rich.console import Console
from rich.progress import Progress

from .callbacks.run import TrainerRun
from .checkpoints.adapters import FEW_SHOT_PREFIX
from .contract.records import printable
from .data.image_source import ImageSource, load_image
from .data.references import ReferenceChoice, turned_copies
from .modeling.fbclip import FBClipModel
from .modeling.few_shot import MAPS, Fit, Photograph, fit
from .processing.mixin import ModelMixin
from .processing.post_processing import ThresholdPostProcessor

logger = logging.getLogger(__name__)


class FewShotMixin(ModelMixin):
    """Lets :class:`FBClip` compare photographs with those of good parts.

    Attributes:
        references (list[ImageSource]): The photographs of good parts that are in use.
        reference_fit (Fit | None): What came of them.
    """

    model: FBClipModel
    reference_choice: ReferenceChoice
    reference_rotations: int
    few_shot_maps: list[str]
    references: list[ImageSource]
    reference_fit: Fit | None

    def configure_references(
        self,
        few_shot_source: str | None,
        k_shot: int,
        seed: int,
        rotations: int,
        maps: list[str],
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
        self.few_shot_maps = maps
        self.references = []
        self.reference_fit = None

    @property
    def is_few_shot(self) -> bool:
        """Whether photographs of good parts are in use, or will be."""
        return self.reference_choice.is_made or self.model.few_shot is not None

    def use_references(self, references: Sequence[ImageSource]) -> None:
        """Compare with photographs of good parts from now on. Thresholds come from them, too.

        Args:
            references (Sequence[ImageSource]): Files, images of Pillow, arrays ``[H, W, 3]`` or tensors ``[3, H, W]``,
                as :meth:`explain` takes them. Files and images of Pillow are turned upright.

        Raises:
            ImageError: If one can't be read, or is smaller than a patch.
            ValueError: If there are none, or one is no RGB image.

        Example:
            >>> model = FBClip("fbclip-nano")  # doctest: +SKIP
            >>> model.use_references(["good/1.jpg", "good/2.jpg"])  # doctest: +SKIP
        """
        if not references:
            msg = "There are no photographs of good parts: give at least one."
            raise ValueError(msg)
        self._fit_references(list(references), upright=True)

    def prepare_references(self, run: TrainerRun) -> None:
        """Get the photographs that were asked for ready, as a run reads its images: not turned upright."""
        if not self.reference_choice.is_made or run.is_fitting:
            return
        paths: list[ImageSource] = list(self.reference_choice.paths(run.datamodule))
        if paths != self.references:
            with run.forward_context():
                self._fit_references(paths, upright=run.trainer is None)

    def forget_references(self) -> None:
        """Compare with no photographs of good parts any more."""
        self.references, self.reference_fit, self.model.few_shot = [], None, None

    def reference_tensors(self) -> dict[str, torch.Tensor]:
        """What a file of adapters holds of the photographs of good parts.

        Raises:
            ValueError: If there are none.
        """
        self.prepare_references(TrainerRun(None))
        if self.model.few_shot is None:
            msg = "There are no photographs of good parts to save: give some to use_references, or set few_shot_source."
            raise ValueError(msg)
        return {f"{FEW_SHOT_PREFIX}{name}": tensor for name, tensor in self.model.few_shot.tensors().items()}

    def _fit_references(self, references: list[ImageSource], upright: bool) -> None:
        self.forget_references()
        with _progress(2 * len(references)) as advance:
            load = partial(self._load_reference, upright=upright, advance=advance)
            result = fit(self.model, [partial(load, reference) for reference in references], self.few_shot_maps)
        self.references, self.reference_fit, self.model.few_shot = references, result, result.few_shot
        if isinstance(self.post_processor, ThresholdPostProcessor):
            self.post_processor.use_references()
        self._report_references(result)

    def _load_reference(self, reference: ImageSource, upright: bool, advance: Callable[[], None]) -> Photograph:
        image = load_image(reference, max(self.model.backbone.patch_size), upright=upright)
        turned = torch.cat([self._pre_process(copy) for copy in turned_copies(image, self.reference_rotations)])
        mirrored = self._pre_process(image.flip(-1))
        advance()
        return Photograph(turned, mirrored)

    def _pre_process(self, image: torch.Tensor) -> torch.Tensor:
        batch = image.unsqueeze(0).to(self.device)
        return self.pre_processor(batch) if self.pre_processor else batch

    def _report_references(self, result: Fit) -> None:
        """Say how sure a threshold from so few photographs is, and which of them are unlike the others."""
        count = len(self.references)
        above = round(result.false_alarm_share * (count + 1))
        logger.info(
            "Thresholds from %s: of good parts, up to %d in %d may be called anomalous.",
            f"{count} good photographs" if count > 1 else "1 good photograph",
            above,
            count + 1,
        )
        if count == 1 and self.reference_rotations == 1:
            logger.warning(
                "A threshold from one photograph without turned copies calls many good parts anomalous: give more "
                "photographs, or set reference_rotations to 4."
            )
        for index in result.outliers:
            logger.warning(
                "%s is unlike the other good photographs: it is defective, or of another kind. Look at it.",
                _name(self.references[index], index),
            )


def _name(reference: ImageSource, index: int) -> str:
    if isinstance(reference, str | Path):
        return printable(reference)
    filename = getattr(reference, "filename", "") if isinstance(reference, Image.Image) else ""
    return printable(filename) if filename else f"Good photograph {index + 1}"


@contextmanager
def _progress(total: int) -> Generator[Callable[[], None]]:
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("Good photographs", total=total)
        yield lambda: progress.advance(task)
