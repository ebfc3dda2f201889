# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Pictures of predictions, each written completely or not at all. They do not overwrite others."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from anomalib.data import ImageItem
from anomalib.data.utils.image import duplicate_filename
from anomalib.utils.path import generate_output_filename
from anomalib.visualization import ImageVisualizer
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from PIL import Image

from anomalib_fbclip.images.photographs import needs_own_reading, read_photograph
from anomalib_fbclip.images.region_of_interest import RegionSource, shade_photograph
from anomalib_fbclip.results.files import incomplete_folder
from anomalib_fbclip.results.records import Record
from anomalib_fbclip.results.report.pictures import draw_picture

from .batch_records import BatchRecords


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
        """Draw an image with an anomaly map, with anomalib's file name.

        Args:
            trainer (Trainer): The trainer, whose datamodule is part of the name.
            item (ImageItem): The image.
            record (Record): Its record.
            folder (Path): Folder of the picture.
            white_level (int | None): Value of white in files of more than 8 bits that don't state it.
            region (RegionSource | None): Region of interest; the rest is shaded.

        Raises:
            ImageError: If the photograph can no longer be read.
            OSError: If the picture can't be written.
        """
        if record.path is None or item.anomaly_map is None:
            return
        # A run reads images as they are stored, not turned upright.
        photograph = Image.fromarray(read_photograph(record.path, upright=False, white_level=white_level))
        photograph = shade_photograph(photograph, region, Path(record.path))
        datamodule = getattr(trainer, "datamodule", None)
        path = generate_output_filename(
            record.path, folder, getattr(datamodule, "name", None), getattr(datamodule, "category", None)
        )
        draw_picture(photograph, item.anomaly_map.float().cpu().numpy(), record).save(path)


class Pictures(Callback):
    """Lets a visualizer draw into a temporary folder, and moves the complete pictures to their place.

    Images that are not from files get no picture.

    Args:
        visualizer (ImageVisualizer): The visualizer. Without ``output_dir``, pictures go to ``images`` in the results.
        batch_records (BatchRecords): Records of each batch.

    Attributes:
        folder (Path | None): Folder of the pictures; ``None`` before the first one.
        paths (list[Path | None]): The picture of each image of the batch.
    """

    def __init__(self, visualizer: ImageVisualizer, batch_records: BatchRecords) -> None:
        self._visualizer = visualizer
        self._batch_records = batch_records
        self.folder: Path | None = None
        self.paths: list[Path | None] = []

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401 - as Lightning has it
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the images of a batch.

        Raises:
            OSError: If a picture can't be written.
        """
        del outputs
        records = self._batch_records.records
        model: Any = pl_module
        output_dir = self._visualizer.output_dir
        folder = Path(trainer.default_root_dir) / "images" if output_dir is None else Path(output_dir)
        self.paths = []
        with incomplete_folder(folder) as incomplete, TemporaryDirectory() as copies:
            self._visualizer.output_dir = incomplete
            try:
                for item, record in zip(batch, records, strict=True):
                    if record.path is None:  # anomalib names pictures by their files
                        self.paths.append(None)
                        continue
                    is_prediction = trainer.state.fn == TrainerFn.PREDICTING
                    if is_prediction and isinstance(self._visualizer, PhotographVisualizer):
                        self._visualizer.draw(trainer, item, record, incomplete, model.white_level, model.region_source)
                    else:
                        alone: Any = [_in_8_bits(item, Path(copies), model.white_level)]
                        self._visualizer.on_test_batch_end(trainer, model, alone, alone, batch_idx, dataloader_idx)
                    self.paths.append(_move(incomplete, folder))
            finally:
                self._visualizer.output_dir = output_dir
        if any(self.paths):
            self.folder = folder

    on_predict_batch_end = on_test_batch_end


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
