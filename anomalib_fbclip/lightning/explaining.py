# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Explanations of a Lightning model: of an image from wherever it is, through the model's own pre-processor."""

from typing import NamedTuple

from PIL import Image

from anomalib_fbclip.data.image_source import ImageSource, crop_patch, load_image
from anomalib_fbclip.data.references import turned_copy
from anomalib_fbclip.modeling.explanation import Explanation, explain

from .few_shot import FewShotMixin, reference_name
from .trainer_run import TrainerRun


class ReferencePatch(NamedTuple):
    """A patch of a photograph of a good part.

    Attributes:
        photograph (int): The photograph's index in ``FBClip.references``.
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


class ExplanationMixin(FewShotMixin):
    """Shows how :class:`FBClip` comes to its answers."""

    def explain(self, image: ImageSource) -> Explanation:
        """Show how the model comes to its answer for one image.

        Args:
            image (ImageSource): A file, an image of Pillow, an array ``[H, W, 3]`` or a tensor ``[3, H, W]``, in RGB:
                whole numbers, or fractions 0..1.

        Returns:
            Explanation: The intermediate maps of every layer and view, the comparison with good photographs if there
                are any, and the score and the anomaly map before the post-processor.

        Raises:
            ImageError: If a file or an image of Pillow can't be read, the range of its values is not known, or it is
                smaller than a patch.
            ValueError: If it is no RGB image.

        Example:
            >>> explanation = FBClip().explain("photograph.jpg")  # doctest: +SKIP
            >>> explanation.foreground_masks.shape  # of each layer  # doctest: +SKIP
            torch.Size([5, 37, 37])
            >>> explanation.similarities.shape  # of each layer and view  # doctest: +SKIP
            torch.Size([5, 3, 37, 37])
        """
        self.prepare_references(TrainerRun(self._trainer))
        loaded = load_image(image, max(self.model.backbone.patch_size), white_level=self.white_level)
        pixels = loaded.unsqueeze(0).to(self.device)
        return explain(self.model, self.pre_processor(pixels) if self.pre_processor else pixels)

    def nearest_reference(self, explanation: Explanation, place: tuple[int, int] | None = None) -> ReferencePatch:
        """Find the patch of a good photograph that a place of an image is nearest to.

        Args:
            explanation (Explanation): What :meth:`explain` gave for the image, with the same good photographs.
            place (tuple[int, int] | None, optional): Row and column of the patch. ``None``: the most anomalous one.
                Defaults to ``None``.

        Returns:
            ReferencePatch: The patch. :meth:`reference_crop` cuts it out.

        Raises:
            ValueError: If there are no good photographs, or only their patches are known, from a file of adapters.

        Example:
            >>> model.use_references(["good/1.jpg", "good/2.jpg"])  # doctest: +SKIP
            >>> nearest = model.nearest_reference(model.explain("photograph.jpg"))  # doctest: +SKIP
            >>> nearest.name, nearest.turn, nearest.place  # doctest: +SKIP
            ('good/2.jpg', 0, (7, 12))
        """
        maps = explanation.reference_maps
        if maps is None or self.reference_fit is None:
            msg = "The good photographs are not known here: give them to use_references, then call explain."
            raise ValueError(msg)
        rows, columns = maps.rows.shape
        photograph, turn, patch = self.reference_fit.origins[maps.rows[place or maps.most_anomalous]].tolist()
        name = reference_name(self.references[photograph], photograph)
        return ReferencePatch(photograph, name, turn, divmod(patch, columns), (rows, columns))

    def reference_crop(self, patch: ReferencePatch) -> Image.Image:
        """Cut a patch out of a good photograph, with the patches around it.

        Args:
            patch (ReferencePatch): What :meth:`nearest_reference` gave.

        Returns:
            Image.Image: The piece of the turned copy, as large as
                :func:`~anomalib_fbclip.data.image_source.crop_patch` cuts it.
        """
        reference = self.references[patch.photograph]
        photograph = load_image(reference, upright=self.references_upright, white_level=self.white_level)
        copy = turned_copy(photograph, self.reference_rotations, patch.turn)
        return crop_patch(copy, patch.place, patch.grid)
