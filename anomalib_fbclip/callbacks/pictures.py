# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Pictures of predictions, each written whole or not at all, which overwrite no others."""

from pathlib import Path
from typing import Any

from anomalib.data.utils.image import duplicate_filename
from anomalib.visualization import ImageVisualizer
from lightning.pytorch import Callback, LightningModule, Trainer

from anomalib_fbclip.contract.files import incomplete_folder


class Pictures(Callback):
    """Has a visualizer of anomalib draw into a folder of its own, and moves the complete pictures to their place.

    Args:
        visualizer (ImageVisualizer): The visualizer. Where it has no ``output_dir``, the pictures go to ``images`` in
            the folder of the results.

    Attributes:
        folder (Path | None): Folder of the pictures; ``None`` before the first.
        paths (list[Path | None]): Picture of each image of the batch.
    """

    def __init__(self, visualizer: ImageVisualizer) -> None:
        self._visualizer = visualizer
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
        model: Any = pl_module
        output_dir = self._visualizer.output_dir
        self.folder = Path(trainer.default_root_dir) / "images" if output_dir is None else Path(output_dir)
        self.paths = []
        with incomplete_folder(self.folder) as incomplete:
            self._visualizer.output_dir = incomplete
            try:
                for item in batch:
                    alone: Any = [item]
                    self._visualizer.on_test_batch_end(trainer, model, alone, alone, batch_idx, dataloader_idx)
                    self.paths.append(_move(incomplete, self.folder))
            finally:
                self._visualizer.output_dir = output_dir

    on_predict_batch_end = on_test_batch_end


def _move(source: Path, destination: Path) -> Path | None:
    """Move the only file below a folder to the same place below another, or to a free one beside it."""
    pictures = [path for path in source.rglob("*") if path.is_file()]
    if not pictures:
        return None
    (picture,) = pictures
    place = destination / picture.relative_to(source)
    place.parent.mkdir(parents=True, exist_ok=True)
    return picture.rename(duplicate_filename(place))
