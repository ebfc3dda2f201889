# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Comparison with photographs in runs of a Lightning model, and explanations of its scores."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from anomalib.data import AnomalibDataModule, InferenceBatch
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image
from tqdm import tqdm

from anomalib_fbclip.data.image_source import ImageLike, load_image
from anomalib_fbclip.data.reference_set import ReferencePatch, ReferenceSet, threshold_source
from anomalib_fbclip.data.references import AnyChoice, GivenReferences, choose_references
from anomalib_fbclip.data.unlabeled_set import UnlabeledSet
from anomalib_fbclip.images.region_of_interest import RegionMasks, RegionSource, paint_region, parse_region
from anomalib_fbclip.modeling.decision import ModelOutput
from anomalib_fbclip.modeling.explanation import Explanation, explain
from anomalib_fbclip.modeling.fbclip import FBClipModel
from anomalib_fbclip.modeling.few_shot import MAPS, MutualScoring
from anomalib_fbclip.modeling.region import RegionOfInterest
from anomalib_fbclip.weights.adapters import Adapters, digest_tensors, keep_decision
from anomalib_fbclip.weights.source import AdapterSource

from .post_processing import ThresholdPostProcessor
from .trainer_run import TrainerRun

if TYPE_CHECKING:
    from anomalib.models.components import AnomalibModule

    ModelMixin = AnomalibModule
else:

    class ModelMixin:
        """Base class at run time: anomalib lists subclasses of ``AnomalibModule`` as models."""


logger = logging.getLogger(__name__)


class FewShotMixin(ModelMixin):
    """Comparison with photographs, and explanations, for :class:`FBClip`.

    Attributes:
        reference_choice (AnyChoice | None): The requested photographs.
        reference_set (ReferenceSet | None): The photographs in use; ``None`` if there are none, or only their patches.
        product (tuple[str, str] | None): Name of the product that the model was loaded from, and when it was taught.
    """

    model: FBClipModel
    _adapters: AdapterSource
    reference_choice: AnyChoice | None
    white_level: int | None
    region_source: RegionSource | None
    reference_set: ReferenceSet | None
    product: tuple[str, str] | None = None

    def configure_references(
        self,
        few_shot_source: str | None,
        k_shot: int,
        unlabeled_source: str | None,
        seed: int,
        rotations: int,
        maps: Sequence[str],
    ) -> None:
        """Set the photographs to compare with, and how. See :class:`FBClip`."""
        self.reference_choice = choose_references(few_shot_source, k_shot, unlabeled_source, seed)
        if rotations < 1:
            msg = f"reference_rotations {rotations} can't be used: give 1, for no rotated copies, or more."
            raise ValueError(msg)
        if not maps or len(set(maps)) < len(maps) or not set(maps) <= set(MAPS):
            msg = f"few_shot_maps {maps} can't be used: choose one or both of {list(MAPS)}."
            raise ValueError(msg)
        self.reference_rotations = rotations
        self.few_shot_maps = [*maps]
        self.reference_set = None

    def configure_region(self, region: str | None) -> None:
        """Set the region of interest. See :class:`FBClip`."""
        self.region_source = None if region is None else parse_region(region)
        if self.region_source is not None and not isinstance(self.region_source, RegionMasks):
            self.model.region = self._paint_region()

    def _paint_region(self, photograph: ImageLike | None = None) -> RegionOfInterest | None:
        """Paint the region of interest of a photograph; ``None`` if it is the same for all."""
        if self.region_source is None or self.model.region is not None:
            return None
        name = Path(photograph) if isinstance(photograph, str | Path) else None
        pixels = paint_region(self.region_source, self.model.tiling.image_size, name)
        return self.model.region_of(torch.from_numpy(pixels))

    def predict_images(self, images: torch.Tensor, paths: Sequence[str] | None) -> ModelOutput:
        """Predict normalized images of the model's input size, ``[B, 3, H, W]``, with their regions of interest."""
        if not isinstance(self.region_source, RegionMasks):
            return self.model(images)
        files = [None] * len(images) if paths is None else paths
        parts = [self.model(image[None], self._paint_region(file)) for image, file in zip(images, files, strict=True)]
        return ModelOutput(*(torch.cat(values) for values in zip(*parts, strict=True)))

    @property
    def is_few_shot(self) -> bool:
        """True if good photographs are in use, or will be."""
        if self.reference_choice:
            return not self.reference_choice.is_unlabeled
        return self.model.decision.k_shot > 0 and not isinstance(self.model.decision, MutualScoring)

    @property
    def references(self) -> list[ImageLike]:
        """The good photographs in use, without near copies."""
        return self.reference_set.images if self.reference_set and self.is_few_shot else []

    def use_references(self, references: Sequence[ImageLike]) -> None:
        """Compare with good photographs from now on. They also set the thresholds.

        Args:
            references (Sequence[ImageLike]): Files, Pillow images, arrays ``[H, W, 3]`` or tensors ``[3, H, W]``, as
                for :meth:`explain`. Files and Pillow images are turned upright.

        Raises:
            ImageError: If one can't be read, or is smaller than a patch.
            ValueError: If there are none, or one is not an RGB image.

        Example:
            >>> model = FBClip("fbclip-small")  # doctest: +SKIP
            >>> model.use_references(["good/1.jpg", "good/2.jpg"])  # doctest: +SKIP
        """
        if not references:
            msg = "There are no good photographs: give at least one."
            raise ValueError(msg)
        self.reference_choice = choice = GivenReferences(tuple(references))
        self._fit_references(choice, list(references), upright=True)

    def use_unlabeled(self, photographs: Sequence[ImageLike]) -> None:
        """Compare with photographs without labels from now on, most of them good. They also set the thresholds.

        Args:
            photographs (Sequence[ImageLike]): 8 or more photographs, as for :meth:`use_references`. They may be the
                ones to inspect. Files that can't be read are skipped.

        Raises:
            ValueError: If one is not an RGB image.

        Example:
            >>> model = FBClip("fbclip-small")  # doctest: +SKIP
            >>> model.use_unlabeled(sorted(Path("photographs").glob("*.jpg")))  # doctest: +SKIP
        """
        self.reference_choice = choice = GivenReferences(tuple(photographs), is_unlabeled=True)
        self._fit_references(choice, list(photographs), upright=True)

    def forward(self, batch: torch.Tensor, *args, **kwargs) -> InferenceBatch:
        """Predict images with values 0..1, shape ``[B, 3, H, W]``. See :meth:`AnomalibModule.forward`."""
        self.prepare_references()
        if isinstance(self.region_source, RegionMasks):
            msg = "Images that are not files have no masks: give one mask for all as region."
            raise ValueError(msg)  # noqa: TRY004 - not a wrong type
        return super().forward(batch, *args, **kwargs)

    def explain(self, image: ImageLike) -> Explanation:
        """Explain the score of one image.

        Args:
            image (ImageLike): A file, a Pillow image, an array ``[H, W, 3]`` or a tensor ``[3, H, W]``, in RGB: whole
                numbers, or fractions 0..1.

        Returns:
            Explanation: The intermediate maps of every layer and view, the comparison with good photographs if there
                are any, and the score and the anomaly map before the post-processor.

        Raises:
            ImageError: If a file or a Pillow image can't be read, its range is unknown, or it is smaller than a patch.
            ValueError: If it is not an RGB image.

        Example:
            >>> explanation = FBClip().explain("photograph.jpg")  # doctest: +SKIP
            >>> explanation.foreground_masks.shape  # of each layer  # doctest: +SKIP
            torch.Size([5, 37, 37])
            >>> explanation.similarities.shape  # of each layer and view  # doctest: +SKIP
            torch.Size([5, 3, 37, 37])
        """
        self.prepare_references_of_run()
        loaded = load_image(image, self.model.backbone.minimum_side, white_level=self.white_level)
        return explain(self.model, self._normalize(loaded.unsqueeze(0)), self._paint_region(image))

    def nearest_reference(self, explanation: Explanation, place: tuple[int, int] | None = None) -> ReferencePatch:
        """Find the good photographs' patch that is nearest to a patch of an image.

        Args:
            explanation (Explanation): The image's explanation, from :meth:`explain` with the same good photographs.
            place (tuple[int, int] | None, optional): Row and column of the image's patch; ``None`` for the most
                anomalous one. Defaults to ``None``.

        Returns:
            ReferencePatch: The nearest patch. :meth:`reference_crop` crops it.

        Raises:
            ValueError: If there are no good photographs, or only their patches are known.

        Example:
            >>> model.use_references(["good/1.jpg", "good/2.jpg"])  # doctest: +SKIP
            >>> nearest = model.nearest_reference(model.explain("photograph.jpg"))  # doctest: +SKIP
            >>> nearest.name, nearest.turn, nearest.place  # doctest: +SKIP
            ('good/2.jpg', 0, (7, 12))
        """
        maps = explanation.reference_maps
        if maps is None or self.reference_set is None:
            msg = "The good photographs are not available: give them to use_references, then call explain."
            raise ValueError(msg)
        return self.reference_set.nearest(maps.rows, place or explanation.most_anomalous)

    def reference_crop(self, patch: ReferencePatch) -> Image.Image:
        """Crop a patch and its neighbors from the rotated copy of a good photograph.

        Args:
            patch (ReferencePatch): The patch, from :meth:`nearest_reference`.

        Returns:
            Image.Image: The crop, see :func:`~anomalib_fbclip.data.image_source.crop_patch`.

        Raises:
            ValueError: If the good photographs are no longer in use.
        """
        if self.reference_set is None:
            msg = "The good photographs are not available: give them to use_references."
            raise ValueError(msg)
        return self.reference_set.crop(patch, self.reference_set.load(patch.photograph))

    @property
    def _run(self) -> TrainerRun:
        return TrainerRun(self._trainer)

    def prepare_references_of_run(self) -> None:
        """Read the requested photographs for a run. A run, unlike a program, does not turn them upright.

        Photographs in use are kept, unless the run has a datamodule, which may have others.
        """
        run, choice = self._run, self.reference_choice
        if choice and not run.is_fitting and (run.datamodule is not None or self.reference_set is None):
            with run.forward_context():
                self._take_references(choice, run.datamodule, run.images, upright=run.trainer is None)

    def prepare_references(self, datamodule: AnomalibDataModule | None = None) -> None:
        """Read the requested photographs outside of a run. Those in use are kept.

        The training split of the datamodule has them if only ``k_shot`` is set.
        """
        if self.reference_choice and self.reference_set is None:
            self._take_references(self.reference_choice, datamodule, (), upright=True)

    def forget_references(self) -> None:
        """Stop comparing with photographs."""
        self.outdate_references()
        self.reference_choice = None

    def outdate_references(self) -> None:
        """Discard the comparison with photographs, because adapters change. The next run fits it again."""
        if self.model.decision.k_shot:
            self.reference_set, self.model.decision = None, self.model.zero_shot
            self.expect_other_scores()

    def expect_other_scores(self) -> None:
        """Discard fitted thresholds, because scores change with the photographs."""
        if isinstance(self.post_processor, ThresholdPostProcessor):
            self.post_processor.forget_fit(threshold_source(self.model.decision))

    def keep_references(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Collect tensors and metadata of the comparison with photographs for a file."""
        self.prepare_references()
        if not self.model.decision.k_shot:
            msg = "There are no good photographs to save: give some to use_references, or set few_shot_source."
            raise ValueError(msg)
        return keep_decision(self.model) if self.reference_set is None else self.reference_set.keep(self.model)

    def restore_references(self, adapters: Adapters) -> None:
        """Use the photographs and the region of interest of a product, if the adapters are one."""
        if adapters.is_product and self.region_source is not None:
            msg = f"{adapters.origin} contains a region: leave out region."
            raise ValueError(msg)
        if self.model.region is not None and self.region_source is None:
            self.region_source = self.model.region.pixels.cpu().numpy()
        if adapters.is_product and self.reference_choice:
            logger.warning("The given photographs replace those of %s.", adapters.origin)
        elif adapters.is_product:
            self.reference_set = ReferenceSet.restore(adapters, self.model.decision, self.model.region)
            self.product = Path(self.hparams["weights"]).stem, adapters.metadata["taught"]
        if self.model.decision.k_shot:
            self.expect_other_scores()

    def _take_references(
        self, choice: AnyChoice, datamodule: AnomalibDataModule | None, images: Sequence[Path], *, upright: bool
    ) -> None:
        found = choice.find(datamodule, images)
        if self.reference_set is None or found != self.reference_set.found:
            self._fit_references(choice, found, upright=upright or isinstance(choice, GivenReferences))

    def _fit_references(self, choice: AnyChoice, found: list[ImageLike], *, upright: bool) -> None:
        self.outdate_references()
        self._adapters.make_ready()
        references = self._make_set(choice, found, upright=upright)
        # Lightning sets the rank. None hides the bar unless there is a terminal.
        is_hidden = True if rank_zero_only.rank else None  # type: ignore[attr-defined]
        with tqdm(desc="Good photographs", total=2 * len(references.images), leave=False, disable=is_hidden) as bar:
            references.fit_model(self.model, self._normalize, self.few_shot_maps, bar.update)
        self.reference_set = references
        self.expect_other_scores()
        self.product = None
        self._report_references(references)

    def digest_references(self) -> str | None:
        """Digest the photographs to compare with; ``None`` if there are none."""
        if not self.model.decision.k_shot:
            return None
        if self.reference_set is None:
            return digest_tensors(keep_decision(self.model)[0])
        return self.reference_set.digest()

    def _make_set(self, choice: AnyChoice, found: list[ImageLike], *, upright: bool) -> ReferenceSet:
        arguments: dict[str, Any] = {"upright": upright, "white_level": self.white_level, "region": self.region_source}
        if not choice.is_unlabeled:
            return ReferenceSet(found, self.reference_rotations, **arguments)
        return UnlabeledSet(found, self.hparams["seed"], self.model.backbone.minimum_side, **arguments)

    def _normalize(self, images: torch.Tensor) -> torch.Tensor:
        """Convert RGB values 0..1, shape ``[B, 3, H, W]``, to the model's input."""
        images = images.to(self.device)
        return self.pre_processor(images) if self.pre_processor else images

    @rank_zero_only
    def _report_references(self, references: ReferenceSet) -> None:
        source = getattr(self.post_processor, "image_threshold_source", None)
        decides = source == threshold_source(self.model.decision)
        level = logging.WARNING if decides and references.is_doubtful else logging.INFO
        logger.log(level, references.describe(decides=decides))
        for line in references.warnings():
            logger.warning(line)
