# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""What takes part in a validation, a test or a prediction, and in which order."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from anomalib.data import AnomalibDataModule, AnomalibDataset
from anomalib.models.components import AnomalibModule
from anomalib.visualization import ImageVisualizer
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.trainer.states import RunningStage, TrainerFn

from anomalib_fbclip.lightning.components import ModelMixin
from anomalib_fbclip.lightning.evaluation.evaluator import RankingEvaluator
from anomalib_fbclip.lightning.post_processing import ThresholdPostProcessor
from anomalib_fbclip.lightning.trainer_run import TrainerRun
from anomalib_fbclip.modeling.fbclip import FBClipModel

from .batch_records import BatchRecords, ImageSizes
from .checked_data import CheckedData, has_val_data
from .interruption import Interruption, check_checkpoint
from .pictures import PhotographVisualizer, Pictures
from .precision_check import PrecisionCheck
from .prediction_table import PredictionTable
from .reference_check import ReferenceCheck
from .report import FBClipReport
from .results import ResultsFolder
from .threshold_report import ThresholdReport


class EvaluationRunMixin(ModelMixin):
    """Makes the runs of :class:`FBClip` end with results that hold."""

    model: FBClipModel
    white_level: int | None
    prepare_data_per_node = False

    @cached_property
    def _results(self) -> ResultsFolder:
        return ResultsFolder()

    @cached_property
    def _data(self) -> CheckedData:
        return CheckedData(max(self.model.backbone.patch_size), self.white_level)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override] # what is passed on may be anything
        cls, checkpoint_path: str | Path, *args, **kwargs
    ) -> AnomalibModule:
        """Load a model from a checkpoint. See :meth:`anomalib.models.components.AnomalibModule.load_from_checkpoint`.

        Args:
            checkpoint_path (str | Path): The checkpoint.
            *args: Passed on.
            **kwargs: Passed on.

        Returns:
            AnomalibModule: The model.

        Raises:
            ValueError: If the checkpoint can't be read, or does not fit.
        """
        try:
            return super().load_from_checkpoint(checkpoint_path, *args, **kwargs)
        except Exception:
            check_checkpoint(checkpoint_path)  # says so if that is the reason
            raise

    @classmethod
    def configure_visualizer(cls) -> ImageVisualizer:
        """Configure the default visualizer, which draws predictions on photographs in their own size.

        Returns:
            ImageVisualizer: The visualizer.
        """
        return PhotographVisualizer()

    def configure_callbacks(self) -> Sequence[Callback]:
        """List what takes part in a run of the trainer, in the order in which it is called.

        Returns:
            Sequence[Callback]: The model's components that are callbacks, and what makes results that hold.
        """
        requested: Sequence[Callback] = getattr(self._trainer, "callbacks", ())
        sizes = ImageSizes()
        visualizer: object = self.visualizer
        references = ReferenceCheck()
        records = BatchRecords(sizes, references)
        pictures = Pictures(visualizer, records) if isinstance(visualizer, ImageVisualizer) else None
        # A RankingEvaluator takes the scores before the post-processor normalizes them, another one after it.
        is_ranking = isinstance(self.evaluator, RankingEvaluator)
        callbacks = [
            PrecisionCheck(),
            self._results,
            self._data,
            sizes,
            references,
            self.pre_processor,
            self.evaluator if is_ranking else None,
            self.post_processor,
            ThresholdReport(self.post_processor) if isinstance(self.post_processor, ThresholdPostProcessor) else None,
            None if is_ranking else self.evaluator,
            records,
            pictures or visualizer,
            *(callback for callback in requested if isinstance(callback, FBClipReport)),  # moved to where it belongs
            PredictionTable(self._data, records, pictures),
            Interruption(),
        ]
        return [callback for callback in callbacks if isinstance(callback, Callback)]

    def prepare_data(self) -> None:
        """Give the results a folder of their own."""
        self._results.prepare(self.trainer)

    def on_test_model_eval(self) -> None:
        """Fit thresholds, and switch to evaluation."""
        self._fit_thresholds_of_checkpoint()
        super().on_test_model_eval()

    def on_predict_model_eval(self) -> None:
        """Fit thresholds, and switch to evaluation."""
        self._fit_thresholds_of_checkpoint()
        super().on_predict_model_eval()

    def fit_thresholds(self, datamodule: AnomalibDataModule | None) -> None:
        """Fit thresholds to labeled images before an export, as before a test.

        Args:
            datamodule (AnomalibDataModule | None): The images. Without validation images nothing changes, nor does it
                if thresholds were fitted before.
        """
        post_processor = self.post_processor
        if datamodule is None or not isinstance(post_processor, ThresholdPostProcessor) or post_processor.is_fitted:
            return
        Trainer(devices=1, logger=False, enable_checkpointing=False, enable_model_summary=False).validate(
            self, datamodule=datamodule, verbose=False
        )

    def check_images(self, dataset: AnomalibDataset) -> Any:  # noqa: ANN401 - a dataset
        """Have a dataset read its images as in a run: correctly, or they are rejected by name.

        Args:
            dataset (AnomalibDataset): The dataset.

        Returns:
            Any: A dataset of the same images.
        """
        return self._data.check(dataset)

    def _fit_thresholds_of_checkpoint(self) -> None:
        """Fit thresholds to the data at hand where they are a checkpoint's: anomalib's engine leaves that out."""
        post_processor = self.post_processor
        if not isinstance(post_processor, ThresholdPostProcessor) or not post_processor.is_of_checkpoint:
            return
        datamodule = TrainerRun(self.trainer).datamodule
        if datamodule is None or not has_val_data(datamodule):
            return
        loop, state = self.trainer.validate_loop, self.trainer.state
        fn, stage = state.fn, state.stage
        self._data.prepare_evaluation(self.trainer, loop)
        state.fn, state.stage = TrainerFn.VALIDATING, RunningStage.VALIDATING
        loop.verbose = False
        loop.run()
        state.fn, state.stage = fn, stage
