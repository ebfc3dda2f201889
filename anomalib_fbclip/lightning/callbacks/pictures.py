# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Pictures of predictions, each written completely or not at all. They do not overwrite others."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from anomalib.data import ImageBatch, ImageItem
from anomalib.data.utils.image import duplicate_filename
from anomalib.utils.path import generate_output_filename
from anomalib.visualization import ImageVisualizer
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from PIL import Image

from anomalib_fbclip.images.photographs import needs_own_reading, read_photograph
from anomalib_fbclip.images.region_of_interest import RegionSource, shade_photograph
from anomalib_fbclip.results.files import incomplete_folder
from anomalib_fbclip.results.pictures import draw_picture
from anomalib_fbclip.results.records import Record


class PhotographVisualizer(ImageVisualizer):
    """Draws the anomaly map and the regions on each photograph of a prediction, with score, verdict and threshold.

    A picture has the photograph's proportions, and its size up to 2048 pixels a side. A test's pictures, which show the
    ground truth, are those of :class:`~anomalib.visualization.ImageVisualizer`, and its arguments apply only to them.
    """

    @staticmethod
    def draw(
        trainer: Trainer,
        item: ImageItem,
        record: Record,
        folder: Path,
        white_level: int | None,
        region: RegionSource | None,
    ) -> None:
        """Draw an image with an anomaly map, shaded outside the region, with anomalib's file name."""
        if record.path is None or item.anomaly_map is None:
            return
        photograph = read_shaded(record.path, white_level, region)
        datamodule = getattr(trainer, "datamodule", None)
        path = generate_output_filename(
            record.path, folder, getattr(datamodule, "name", None), getattr(datamodule, "category", None)
        )
        draw_picture(photograph, item.anomaly_map.float().cpu().numpy(), record).save(path)


def read_shaded(path: str, white_level: int | None, region: RegionSource | None) -> Image.Image:
    """Read a photograph as a run does, not turned upright, and shade it outside the region."""
    photograph = Image.fromarray(read_photograph(path, upright=False, white_level=white_level))
    return shade_photograph(photograph, region, Path(path))


class Pictures:
    """Lets a visualizer draw into a temporary folder, and moves the complete pictures to their place.

    That is ``images`` in the results if the visualizer has no ``output_dir``.
    """

    def __init__(self, visualizer: ImageVisualizer) -> None:
        self._visualizer = visualizer
        self.folder: Path | None = None

    def draw(
        self,
        trainer: Trainer,
        model: Any,  # noqa: ANN401 - FBClip, which imports the callbacks
        batch: ImageBatch,
        records: Sequence[Record],
        *indices: int,
    ) -> list[Path | None]:
        """Draw the images of a batch that are from files. ``indices`` are those of the batch and the dataloader."""
        output_dir = self._visualizer.output_dir
        folder = Path(trainer.default_root_dir) / "images" if output_dir is None else Path(output_dir)
        paths: list[Path | None] = []
        with incomplete_folder(folder) as incomplete, TemporaryDirectory() as copies:
            self._visualizer.output_dir = incomplete
            try:
                for item, record in zip(batch, records, strict=True):
                    if record.path is None:  # anomalib names pictures by their files
                        paths.append(None)
                        continue
                    is_prediction = trainer.state.fn == TrainerFn.PREDICTING
                    if is_prediction and isinstance(self._visualizer, PhotographVisualizer):
                        self._visualizer.draw(trainer, item, record, incomplete, model.white_level, model.region_source)
                    else:
                        alone: Any = [_in_8_bits(item, Path(copies), model.white_level)]
                        self._visualizer.on_test_batch_end(trainer, model, alone, alone, *indices)
                    paths.append(_move(incomplete, folder))
            finally:
                self._visualizer.output_dir = output_dir
        if any(paths):
            self.folder = folder
        return paths


def _in_8_bits(item: ImageItem, folder: Path, white_level: int | None) -> ImageItem:
    """Replace a file that anomalib's visualizer would misread by a copy in 8 bits."""
    path = Path(str(item.image_path)).absolute()
    if not needs_own_reading(path):
        return item
    copy = folder / path.relative_to(path.anchor)  # pictures are named by the folders, too
    copy.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(read_photograph(path, upright=False, white_level=white_level)).save(copy, "PNG")
    return replace(item, image_path=str(copy))


def _move(source: Path, destination: Path) -> Path | None:
    """Move the only file below a folder to the same place below another, with a new name if that is taken."""
    pictures = [path for path in source.rglob("*") if path.is_file()]
    if not pictures:
        return None
    (picture,) = pictures
    place = destination / picture.relative_to(source)
    place.parent.mkdir(parents=True, exist_ok=True)
    return picture.rename(duplicate_filename(place))
