# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""FB-CLIP: zero-shot anomaly detection with foreground-background disentanglement.

FB-CLIP: Fine-Grained Zero-Shot Anomaly Detection with Foreground-Background Disentanglement, CVPR 2026.
https://arxiv.org/abs/2603.19608
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from anomalib import LearningType
from anomalib.data import Batch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import ImageVisualizer, Visualizer
from lightning.pytorch import Callback
from lightning.pytorch.utilities.types import STEP_OUTPUT

from anomalib_fbclip.images.photographs import check_white_level
from anomalib_fbclip.modeling.fbclip import FBClipModel
from anomalib_fbclip.modeling.few_shot import MAPS
from anomalib_fbclip.modeling.loss import FBClipLoss
from anomalib_fbclip.modeling.mvfbe import VIEWS
from anomalib_fbclip.modeling.resize import create_transform
from anomalib_fbclip.weights.adapters import describe_model
from anomalib_fbclip.weights.backbones import build_model, resolve_backbone, resolve_tiling
from anomalib_fbclip.weights.clip_files import default_pretrained
from anomalib_fbclip.weights.source import AdapterSource, read_adapters_file, read_given_adapters

from .callbacks.batch_records import BatchRecords, IncomingImages
from .callbacks.checked_data import CheckedData
from .callbacks.prediction_table import PredictionTable
from .callbacks.report import FBClipReport, PhotographVisualizer, Pictures
from .callbacks.results_folder import ResultsFolder
from .evaluation import RankingEvaluator
from .post_processing import ThresholdPostProcessor, resolve_post_processor
from .pre_processing import AntialiasedPreProcessor
from .saving import SavingMixin
from .screen import Interruption, configure_screen

if TYPE_CHECKING:
    NonNegativeInt: TypeAlias = int
    PositiveInt: TypeAlias = int
else:  # anomalib's command line rejects other values
    from jsonargparse.typing import NonNegativeInt, PositiveInt

__all__ = ["FBClip"]

PAPER_BACKBONE = "ViT-L-14-336"


class FBClip(SavingMixin, AnomalibModule):  # noqa: PLR0904 - most are hooks of Lightning
    """FB-CLIP Lightning model.

    FB-CLIP finds defects in images of objects that it has never seen. Light adapters on a frozen CLIP are trained once,
    on the labeled images of an auxiliary dataset, and then used on any other.

    With trained adapters (``weights`` other than ``None``, or a checkpoint) this is a zero-shot model: anomalib's
    ``fit`` only validates. With ``weights=None``, ``fit`` trains the adapters on the labeled images of an
    :class:`~anomalib_fbclip.data.AuxiliaryDataModule`.

    Args:
        backbone (str, optional): Frozen CLIP: the name of an open_clip model with a vision transformer and a text
            tower, the path of an open_clip model config (.json), or ``"fbclip-small"``, a small CLIP that comes with
            this package, adapters included, and needs no network. Defaults to ``"ViT-L-14-336"``.
        pretrained (str | Path | None, optional): Weights of the CLIP: a tag of open_clip, or a file that replaces the
            default weights and uses their activation. ``None`` for the default: ``openai`` where open_clip has it,
            those of this package for ``fbclip-small``, and fixed random weights with a warning if there are none.
            Defaults to ``None``.
        weights (str | Path | None, optional): Trained adapters: a file of :meth:`save_adapters`, a training checkpoint,
            one of the reference implementation, or the authors' adapters by their training data: ``"mvtec"`` or
            ``"visa"``. ``"auto"`` chooses those of this package for ``fbclip-small``; otherwise ``visa`` to test
            MVTec AD, and ``mvtec`` for anything else. The authors' adapters fit only ViT-L-14-336, and are fetched when
            they are first needed, unless a checkpoint is given. ``None`` for untrained adapters, which ``fit`` trains.
            Defaults to ``"auto"``.
        image_size (int | tuple[int, int] | None, optional): Side, or height and width, to which images are resized, in
            pixels; multiples of the backbone's patch. ``None`` for the backbone's default, 518 for ViT-L-14-336.
            Defaults to ``None``.
        feature_layers (Sequence[int] | None, optional): Blocks of the image tower that are used, counted from 1, at
            most 6. ``None`` for 1, 6, 12, 18, 24, or the same fractions of another depth; for ``fbclip-small`` 4, 6, 8.
            Defaults to ``None``.
        views (Sequence[str], optional): Views of each layer, of ``identity``, ``semantic`` and ``spatial``. Defaults
            to all three.
        text_strategies (dict[str, float] | None, optional): Weights of the text strategies ``global``, ``attention``
            and ``end_of_text``, 0 if not named. ``None`` for 1.0, 0.5 and 0.5. Defaults to ``None``.
        background_suppression (bool, optional): Whether the background is suppressed in the image tokens. Defaults to
            ``True``.
        image_score (str | None, optional): Score of an image: ``class_token``, as in the paper; ``map``, the mean of
            the highest hundredth of the anomaly map; or ``both``, the mean of the two. With good photographs the map
            alone counts. ``None`` for ``class_token``, or ``both`` for ``fbclip-small``. Defaults to ``None``.
        consistency_weight (float, optional): Weight of the semantic consistency regularization in the training loss.
            Defaults to ``0.15``.
        learning_rate (float, optional): Learning rate of Adam. Defaults to ``5e-5``.
        betas (tuple[float, float], optional): Decay rates of Adam's two averages. Defaults to ``(0.5, 0.999)``.
        seed (int, optional): Seed of the adapters' initial values, and of the choice of good photographs. Defaults to
            ``0``.
        image_threshold (float | None, optional): Score, 0..1, above which an image is anomalous. With labeled
            validation images, scores are normalized, and this applies to the normalized score. ``None`` for 0.5, to
            which normalization moves the best threshold. Defaults to ``None``.
        pixel_threshold (float | None, optional): Value of the normalized anomaly map, 0..1, above which a pixel is
            anomalous. ``None`` for 0.5. Defaults to ``None``.
        pre_processor (PreProcessor | bool, optional): Pre-processor, or whether to use the default. Defaults to
            ``True``.
        post_processor (PostProcessor | bool, optional): Post-processor, or whether to use the default. Defaults to
            ``True``.
        evaluator (Evaluator | bool, optional): Evaluator, or whether to use the default, a
            :class:`~anomalib_fbclip.lightning.evaluation.RankingEvaluator`. Defaults to ``True``.
        visualizer (Visualizer | bool, optional): Visualizer, or whether to use the default. Defaults to ``True``.
        backbone_precision (str, optional): Type of the CLIP's matrices, whatever the trainer's precision: ``float32``,
            or ``bfloat16`` or ``float16``, which halve its memory. Defaults to ``"float32"``.
        few_shot_source (str | Path | None, optional): Folder of good photographs to compare with. They also set the
            thresholds, unless labeled validation images do. Defaults to ``None``.
        k_shot (int, optional): Number of good photographs from the folder or, without one, from the normal images of
            the datamodule's training split. 0 for all in the folder. Defaults to ``0``.
        unlabeled_source (str | Path | None, optional): Folder of photographs without labels to compare with, most of
            them good, or ``dataset`` for the images of the run itself. They also set the thresholds, like good
            photographs. Defaults to ``None``.
        reference_rotations (int, optional): Rotated copies per good photograph (4 = every 90°), for parts that lie at
            any angle. Defaults to ``4``.
        few_shot_maps (Sequence[str], optional): Maps that decide with good photographs: ``references``, ``text`` or
            both. Defaults to both.
        white_level (int | None, optional): Value of white in image files of more than 8 bits that don't state it: 4095
            for 12 bits. ``None`` to reject files whose range is unknown. Defaults to ``None``.
        tiles (int | tuple[int, int] | None, optional): Tiles per side, or rows and columns, for small defects:
            overlapping tiles of ``image_size`` are inspected with the whole image, and joined to one map. ``None`` for
            the whole image only. Defaults to ``None``.
        region (str | Path | None, optional): Region of interest: a mask, white inside and black outside; a folder of
            masks with the photographs' names; or ``x,y,width,height`` in fractions of the photograph. The outside is
            ignored, and the score is that of the map. ``None`` for the whole photograph. Defaults to ``None``.

    Raises:
        ValueError: If an argument does not fit the backbone, or a file can't be read or belongs to another model.

    Example:
        >>> from anomalib.models import FBClip
        >>> model = FBClip()  # doctest: +SKIP
        >>> # Adapters of your own
        >>> model = FBClip(weights="adapters.safetensors")  # doctest: +SKIP
    """

    model: FBClipModel
    prepare_data_per_node = False

    def __init__(  # noqa: PLR0914 - hyper-parameters are read from local names
        self,
        backbone: str = PAPER_BACKBONE,
        pretrained: str | Path | None = None,
        weights: str | Path | None = "auto",
        image_size: int | tuple[int, int] | None = None,
        feature_layers: Sequence[int] | None = None,
        views: Sequence[str] = tuple(VIEWS),
        text_strategies: dict[str, float] | None = None,
        background_suppression: bool = True,
        image_score: Literal["class_token", "map", "both"] | None = None,
        consistency_weight: float = 0.15,
        learning_rate: float = 5e-5,
        betas: tuple[float, float] = (0.5, 0.999),
        seed: int = 0,
        image_threshold: float | None = None,
        pixel_threshold: float | None = None,
        pre_processor: PreProcessor | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
        backbone_precision: str = "float32",
        few_shot_source: str | Path | None = None,
        k_shot: NonNegativeInt = 0,
        unlabeled_source: str | Path | None = None,
        reference_rotations: PositiveInt = 4,
        few_shot_maps: Sequence[Literal["references", "text"]] = MAPS,
        white_level: int | None = None,
        tiles: int | tuple[int, int] | None = None,
        region: str | Path | None = None,
    ) -> None:
        configure_screen()
        # Lightning reads hyper-parameters from these names. A checkpoint takes only plain data, but get_model with a
        # dict, and the benchmark, pass containers of OmegaConf.
        pretrained = None if pretrained is None else str(pretrained)
        weights = None if weights is None else str(weights)
        image_size = image_size if isinstance(image_size, int | None) else tuple(image_size)  # type: ignore[assignment]
        tiles = tiles if isinstance(tiles, int | None) else tuple(tiles)  # type: ignore[assignment]
        region = None if region is None else str(region)
        feature_layers = None if feature_layers is None else list(feature_layers)
        views = list(views)
        text_strategies = None if text_strategies is None else dict(text_strategies)
        betas = (betas[0], betas[1])
        few_shot_source = None if few_shot_source is None else str(few_shot_source)
        unlabeled_source = None if unlabeled_source is None else str(unlabeled_source)
        k_shot, reference_rotations = int(k_shot), int(reference_rotations)
        few_shot_maps = list(few_shot_maps)
        check_white_level(white_level)

        own = None if weights is None else read_adapters_file(weights)
        settled = {} if own is None else own.settled
        backbone = settled.get("backbone", backbone) if backbone == PAPER_BACKBONE else backbone
        pretrained = pretrained or settled.get("pretrained")
        image_size = settled.get("image_size") if image_size is None else image_size
        tiles = settled.get("tiles") if tiles is None else tiles
        feature_layers = settled.get("feature_layers") if feature_layers is None else feature_layers
        white_level = settled.get("white_level") if white_level is None else white_level
        image_threshold = settled.get("image_threshold") if image_threshold is None else image_threshold
        pixel_threshold = settled.get("pixel_threshold") if pixel_threshold is None else pixel_threshold
        views, text_strategies = settled.get("views", views), settled.get("text_strategies", text_strategies)
        background_suppression = settled.get("background_suppression", background_suppression)

        backbone_name = resolve_backbone(backbone)
        tiling = resolve_tiling(backbone_name, image_size, tiles)
        adapters = None if weights is None else own or read_given_adapters(weights, backbone_name)
        if adapters is not None:
            adapters.check_backbone(backbone_name)
        super().__init__(
            pre_processor=self.configure_pre_processor(tiling.image_size) if pre_processor is True else pre_processor,
            post_processor=resolve_post_processor(post_processor, image_threshold, pixel_threshold),
            evaluator=evaluator,
            visualizer=visualizer,
        )

        self.white_level = white_level
        self.configure_references(few_shot_source, k_shot, unlabeled_source, seed, reference_rotations, few_shot_maps)
        self.backbone_name = backbone_name
        self.image_size = tiling.view_size
        self.learning_rate, self.betas = learning_rate, betas
        self.pretrained = pretrained or default_pretrained(backbone_name)
        self.model = build_model(
            backbone_name,
            self.pretrained,
            feature_layers,
            views,
            text_strategies,
            background_suppression,
            image_score,
            backbone_precision,
            seed,
            tiling,
        )
        self.configure_region(region)
        self.loss = FBClipLoss(consistency_weight=consistency_weight)
        self.results_folder = ResultsFolder()
        self.checked_data = CheckedData(self.model.backbone.minimum_side, white_level)

        self._adapters = AdapterSource(self.model)
        if adapters is not None:
            self._adapters.load(adapters)
            self.restore_references(adapters)
        elif weights is not None:
            self._adapters.fetch_when_needed(partial(self._fetch_published, weights))

    @property
    def source(self) -> str | None:
        """Dataset that the adapters were trained on; ``None`` if they are untrained or not fetched yet."""
        return self._adapters.trained_on

    @source.setter
    def source(self, name: str | None) -> None:
        self._adapters.give(name)

    @property
    def learning_type(self) -> LearningType:
        """Zero-shot, or few-shot with good photographs; one-class for untrained adapters, so that anomalib trains."""
        if not self._adapters.is_trained or self._run.is_fitting:
            return LearningType.ONE_CLASS
        return LearningType.FEW_SHOT if self.is_few_shot else LearningType.ZERO_SHOT

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """Trainer arguments: no validation before the training."""
        return {"num_sanity_val_steps": 0}

    @staticmethod
    def configure_pre_processor(image_size: tuple[int, int] | None = None) -> PreProcessor:
        """Configure the default pre-processor: the whole image, resized, with CLIP's mean and standard deviation.

        Args:
            image_size (tuple[int, int] | None, optional): Height and width in pixels. Defaults to 518 x 518.
        """
        return AntialiasedPreProcessor(transform=create_transform(image_size or (518, 518)))

    @staticmethod
    def configure_post_processor() -> PostProcessor:
        """Configure the default post-processor, which fits thresholds to validation images."""
        return ThresholdPostProcessor()

    @staticmethod
    def configure_evaluator() -> Evaluator:
        """Configure the default evaluator: the paper's four metrics."""
        return RankingEvaluator()

    @classmethod
    def configure_visualizer(cls) -> ImageVisualizer:
        """Configure the default visualizer, which draws predictions on the photographs at their size."""
        return PhotographVisualizer()

    def configure_callbacks(self) -> Sequence[Callback]:
        """List the callbacks of a run, in their order.

        Raises:
            ValueError: If the trainer's precision would change the verdicts.
        """
        self._run.check_precision()
        images = IncomingImages()
        records = BatchRecords(images)
        visualizer: object = self.visualizer
        pictures = Pictures(visualizer) if isinstance(visualizer, ImageVisualizer) else None
        requested = getattr(self._trainer, "callbacks", ())
        # A RankingEvaluator needs the scores before the post-processor normalizes them, others need them afterwards.
        is_ranking = isinstance(self.evaluator, RankingEvaluator)
        callbacks = [
            self.results_folder,
            self.checked_data,
            images,
            self.pre_processor,
            self.evaluator if is_ranking else None,
            self.post_processor,
            None if is_ranking else self.evaluator,
            records,
            None if pictures else visualizer,
            *(callback for callback in requested if isinstance(callback, FBClipReport)),  # moved to its place
            PredictionTable(self.checked_data, records, pictures),
            Interruption(),
        ]
        return [callback for callback in callbacks if isinstance(callback, Callback)]

    def prepare_data(self) -> None:
        """Choose a folder for the results."""
        self.results_folder.prepare(self.trainer)

    def training_step(self, batch: Batch, *args, **kwargs) -> STEP_OUTPUT:
        """Compute the loss of a batch of labeled images.

        Args:
            batch (Batch): Images with labels and masks.
            *args: Not used.
            **kwargs: Not used.

        Returns:
            STEP_OUTPUT: The loss.

        Raises:
            ValueError: If the batch has no masks.
        """
        if batch.image is None or batch.gt_label is None or batch.gt_mask is None:
            msg = "FBClip is trained on labeled images with masks: wrap the data in an AuxiliaryDataModule."
            raise ValueError(msg)
        views, masks = (self.model.tiling.split(part) for part in (batch.image, batch.gt_mask.unsqueeze(1).float()))
        masks = masks.squeeze(1) > 0.5  # noqa: PLR2004 - a whole image's mask is shrunk
        labels = masks.flatten(1).any(dim=1)
        labels[:: self.model.tiling.view_count] = batch.gt_label.bool()
        outputs = self.model.intermediate_outputs(views, self.model.encode_text())
        parts = self.loss(outputs, labels, masks)

        size = len(batch.image)
        self.log("train_loss", parts.total, prog_bar=True, on_step=True, on_epoch=True, batch_size=size, sync_dist=True)
        for name, value in parts._asdict().items():
            self.log(f"train_loss_{name}", value, on_step=True, on_epoch=True, batch_size=size, sync_dist=True)
        return parts.total

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the learning rate of the step."""
        self.log("learning_rate", optimizer.param_groups[0]["lr"])

    def validation_step(self, batch: Batch, *args, **kwargs) -> STEP_OUTPUT:
        """Predict a batch.

        Args:
            batch (Batch): Images.
            *args: Not used.
            **kwargs: Not used.

        Returns:
            STEP_OUTPUT: The batch with its predictions.

        Raises:
            ImageError: If the mask of an image is missing or can't be read.
        """
        images: Any = batch.image
        return batch.update(**self.predict_images(images, getattr(batch, "image_path", None))._asdict())

    test_step = predict_step = validation_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Optimize the adapters with Adam."""
        adapters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.Adam(adapters, lr=self.learning_rate, betas=self.betas)

    @staticmethod
    def val_dataloader() -> list:
        """Return no validation data, so that images without labels can be predicted, too."""
        return []

    def on_fit_start(self) -> None:
        """Check the training data, and log the model.

        Raises:
            ValueError: If the training data has no anomalous image, or no masks.
        """
        self.model.backbone.load_text_tower()
        self.outdate_references()
        self._run.log(self.describe())
        self._run.check_training_data()

    def on_fit_end(self) -> None:
        """Note the dataset that the adapters were trained on."""
        self.source = self._run.trained_dataset

    def on_validation_start(self) -> None:
        """Load the adapters, and warn if they are not trained again."""
        if self._run.is_fitting:
            return
        self._prepare_evaluation()
        self._run.warn_if_not_trained_again(self.source)

    def on_test_model_eval(self) -> None:
        """Replace a checkpoint's thresholds by ones fitted to this data, as anomalib does without a checkpoint."""
        if isinstance(self.post_processor, ThresholdPostProcessor) and self.post_processor.is_of_checkpoint:
            self.checked_data.validate_within(self.trainer)
        super().on_test_model_eval()

    on_predict_model_eval = on_test_model_eval

    def on_test_start(self) -> None:
        """Load the adapters, log the model, and warn if the result is not zero-shot."""
        self._prepare_evaluation()
        self._run.log(self.describe())
        self._run.warn_if_not_zero_shot(self.source)

    def on_predict_start(self) -> None:
        """Load the adapters, and log the model."""
        self._prepare_evaluation()
        self._run.log(self.describe())

    def on_test_epoch_start(self) -> None:
        """Log the thresholds, once the model has its good photographs."""
        self._run.log_thresholds(self.post_processor)

    on_predict_epoch_start = on_test_epoch_start

    def describe(self) -> str:
        """Describe the model in one line: the backbone, and the adapters and their source."""
        weights = self._run.checkpoint or self.hparams["weights"]
        return describe_model(self.backbone_name, self.pretrained, None if weights == "auto" else weights, self.source)

    def _prepare_evaluation(self) -> None:
        self._adapters.make_ready()
        self.model.forget_outdated_text_features()  # a callback may have changed parameters in place
        self._run.warn_if_untrained(self.source)
        self.prepare_references_of_run()
