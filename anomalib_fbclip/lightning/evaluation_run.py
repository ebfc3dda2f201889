# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The callbacks of a run, in their order."""

from collections.abc import Sequence

from anomalib.models.components import AnomalibModule
from anomalib.visualization import ImageVisualizer
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.trainer.states import RunningStage, TrainerFn

from .callbacks.batch_records import BatchRecords, IncomingImages
from .callbacks.checked_data import CheckedData, has_val_data
from .callbacks.prediction_table import PredictionTable
from .callbacks.report import FBClipReport, Pictures
from .callbacks.results_folder import ResultsFolder
from .evaluation import RankingEvaluator
from .post_processing import ThresholdPostProcessor
from .screen import Interruption
from .trainer_run import TrainerRun


class EvaluationRun:
    """Callbacks that check the data of a model's runs and write their results."""

    def __init__(self, minimum_side: int, white_level: int | None) -> None:
        self.data = CheckedData(minimum_side, white_level)
        self.results = ResultsFolder()

    def callbacks(self, model: AnomalibModule, requested: Sequence[Callback]) -> list[Callback]:
        """List the callbacks of a run in the order in which they are called.

        Components of the model may be callbacks. Of those requested from the trainer, a report is moved to its place.
        """
        images = IncomingImages()
        records = BatchRecords(images)
        visualizer: object = model.visualizer
        pictures = Pictures(visualizer) if isinstance(visualizer, ImageVisualizer) else None
        # A RankingEvaluator needs the scores before the post-processor normalizes them, others need them afterwards.
        is_ranking = isinstance(model.evaluator, RankingEvaluator)
        callbacks = [
            self.results,
            self.data,
            images,
            model.pre_processor,
            model.evaluator if is_ranking else None,
            model.post_processor,
            None if is_ranking else model.evaluator,
            records,
            None if pictures else visualizer,
            *(callback for callback in requested if isinstance(callback, FBClipReport)),
            PredictionTable(self.data, records, pictures),
            Interruption(),
        ]
        return [callback for callback in callbacks if isinstance(callback, Callback)]

    def fit_thresholds_again(self, trainer: Trainer, post_processor: object) -> None:
        """Replace a checkpoint's thresholds by ones fitted to this data: anomalib's engine does not."""
        if not isinstance(post_processor, ThresholdPostProcessor) or not post_processor.is_of_checkpoint:
            return
        datamodule = TrainerRun(trainer).datamodule
        if datamodule is None or not has_val_data(datamodule):
            return
        loop, state = trainer.validate_loop, trainer.state
        fn, stage = state.fn, state.stage
        self.data.prepare_evaluation(trainer, loop)
        state.fn, state.stage = TrainerFn.VALIDATING, RunningStage.VALIDATING
        loop.verbose = False
        loop.run()
        state.fn, state.stage = fn, stage
