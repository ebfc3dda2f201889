# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""FB-CLIP: zero-shot anomaly detection with foreground-background disentanglement.

Example:
    >>> from anomalib.data import MVTecAD
    >>> from anomalib.engine import Engine
    >>> from anomalib.models import FBClip

    >>> Engine().test(FBClip(), datamodule=MVTecAD(category="bottle"))  # doctest: +SKIP

Paper:
    FB-CLIP: Fine-Grained Zero-Shot Anomaly Detection with Foreground-Background Disentanglement, CVPR 2026.
    https://arxiv.org/abs/2603.19608

See Also:
    - :class:`FBClipModel`: PyTorch implementation of the model
    - :class:`~anomalib_fbclip.data.AuxiliaryDataModule`: Data to train the adapters on
"""

from collections.abc import Mapping, Sequence
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
from anomalib.utils.path import get_pretrained_weights_dir
from anomalib.visualization import ImageVisualizer, Visualizer
from lightning.pytorch import Callback
from lightning.pytorch.utilities.types import STEP_OUTPUT

from anomalib_fbclip.images.photographs import check_white_level
from anomalib_fbclip.modeling.fbclip import FBClipModel
from anomalib_fbclip.modeling.few_shot import MAPS
from anomalib_fbclip.modeling.loss import FBClipLoss
from anomalib_fbclip.modeling.mvfbe import VIEWS
from anomalib_fbclip.modeling.resize import create_transform
from anomalib_fbclip.weights.adapters import Adapters, describe_model
from anomalib_fbclip.weights.building import build_model
from anomalib_fbclip.weights.published import check_published, choose_zero_shot, fetch_published
from anomalib_fbclip.weights.registry import default_pretrained, resolve_backbone, resolve_tiling
from anomalib_fbclip.weights.source import AdapterSource, read_adapters_file, read_given_adapters

from .callbacks.pictures import PhotographVisualizer
from .evaluation import RankingEvaluator
from .evaluation_run import EvaluationRun
from .post_processing import ThresholdPostProcessor, resolve_post_processor
from .pre_processing import AntialiasedPreProcessor
from .saving import SavingMixin
from .screen import configure_screen
from .trainer_run import TrainerRun

if TYPE_CHECKING:
    NonNegativeInt: TypeAlias = int
    PositiveInt: TypeAlias = int
else:  # anomalib's command line refuses others
    from jsonargparse.typing import NonNegativeInt, PositiveInt

__all__ = ["FBClip"]

PAPER_BACKBONE = "ViT-L-14-336"


class FBClip(SavingMixin, AnomalibModule):  # noqa: PLR0904 - most are hooks of Lightning's
    """FB-CLIP Lightning model.

    FB-CLIP finds defects in images of objects that it has never seen. Light adapters on a frozen CLIP are trained once,
    on the labeled images of an auxiliary dataset, and then used on any other.

    With trained adapters (``weights`` other than ``None``, or a checkpoint) this is a zero-shot model: anomalib's
    ``fit`` only validates. With ``weights=None``, ``fit`` trains the adapters; give it the labeled images of an
    :class:`~anomalib_fbclip.data.AuxiliaryDataModule`.

    Args:
        backbone (str, optional): Frozen CLIP: the name of an open_clip model with a vision transformer and a text
            tower, the path of an open_clip model config (.json), or ``"fbclip-small"``, a small CLIP that comes with
            this package, adapters included, and needs no network. Defaults to ``"ViT-L-14-336"``.
        pretrained (str | Path | None, optional): Weights of the CLIP: a tag of open_clip, or a file that takes the
            place of the usual weights, and is read with their activation. ``None``: the backbone's usual weights,
            ``openai`` where open_clip has them, and for ``fbclip-small`` those that come with it; a backbone for which
            there are none gets random weights, always the same, and a warning. Defaults to ``None``.
        weights (str | Path | None, optional): Trained adapters: a file of :meth:`save_adapters`, a checkpoint of a
            training or of the reference implementation, ``"mvtec"`` or ``"visa"`` (published by the authors, by the
            dataset that they were trained on), or ``"auto"``: for ``fbclip-small`` those that come with it; otherwise
            ``visa`` when MVTec AD is tested, and ``mvtec`` when anything else is. Published adapters fit ViT-L-14-336
            only, and are fetched when they are first needed, and not when a checkpoint is given. ``None``: untrained
            adapters, to be trained by ``fit``. Defaults to ``"auto"``.
        image_size (int | tuple[int, int] | None, optional): Side, or height and width, to which images are resized, in
            pixels; multiples of the backbone's patch. ``None``: the backbone's own; 518 for ViT-L-14-336. Defaults to
            ``None``.
        feature_layers (Sequence[int] | None, optional): Blocks of the image tower that are read, counted from 1, at
            most 6. ``None``: 1, 6, 12, 18, 24, or spread in the same way over another depth, and 4, 6, 8 for
            ``fbclip-small``. Defaults to ``None``.
        views (Sequence[str], optional): Views of each layer, of ``identity``, ``semantic`` and ``spatial``. Defaults
            to all three.
        text_strategies (dict[str, float] | None, optional): Weight of each reading of the text, of ``global``,
            ``attention`` and ``end_of_text``; what is not named is left out. ``None``: 1.0, 0.5 and 0.5. Defaults to
            ``None``.
        background_suppression (bool, optional): Whether the image's background is suppressed in its tokens. Defaults
            to ``True``.
        image_score (str | None, optional): Score of an image: ``class_token``, the paper's; ``map``, the mean of the
            anomaly map's highest hundredth; or ``both``, the mean of the two. With good photographs it is always
            ``map``. ``None``: ``both`` for ``fbclip-small``, else ``class_token``. Defaults to ``None``.
        consistency_weight (float, optional): Weight of the semantic consistency regularization in the training loss.
            Defaults to ``0.15``.
        learning_rate (float, optional): Learning rate of Adam. Defaults to ``5e-5``.
        betas (tuple[float, float], optional): Decay rates of Adam's two averages. Defaults to ``(0.5, 0.999)``.
        seed (int, optional): Seed of the adapters' initial values, and of the choice of good photographs. Defaults to
            ``0``.
        image_threshold (float | None, optional): Score, 0..1, above which an image is anomalous: the score as it is
            shown, after the normalization if labeled validation images allow one. ``None``: 0.5, to which the
            normalization moves the best threshold of the validation images. Defaults to ``None``.
        pixel_threshold (float | None, optional): Value of the shown anomaly map, 0..1, above which a pixel is
            anomalous. ``None``: 0.5, likewise. Defaults to ``None``.
        pre_processor (PreProcessor | bool, optional): Pre-processor, or whether to use the default. Defaults to
            ``True``.
        post_processor (PostProcessor | bool, optional): Post-processor, or whether to use the default. Defaults to
            ``True``.
        evaluator (Evaluator | bool, optional): Evaluator, or whether to use the default, a
            :class:`~anomalib_fbclip.lightning.evaluation.RankingEvaluator`. Defaults to ``True``.
        visualizer (Visualizer | bool, optional): Visualizer, or whether to use the default. Defaults to ``True``.
        backbone_precision (str, optional): Type in which the CLIP's matrices are kept and multiplied, whatever the
            trainer's precision: ``float32``, or ``bfloat16`` or ``float16``, which halve its memory. Defaults to
            ``"float32"``.
        few_shot_source (str | Path | None, optional): Folder of photographs of good parts that others are compared
            with. Thresholds then come from them, unless labeled validation images give others. Defaults to ``None``.
        k_shot (int, optional): How many good photographs are taken: of the folder or, without one, of the normal images
            of the datamodule's training split. 0: all of the folder. Defaults to ``0``.
        unlabeled_source (str | Path | None, optional): Folder of photographs without labels, most of which are good,
            that others are compared with, or ``dataset``: the images of the run itself. Thresholds then come from
            them, as from good photographs. Defaults to ``None``.
        reference_rotations (int, optional): Copies of each good photograph, turned by equal parts of a full turn, for
            parts that lie at any angle. 1: none are turned. Defaults to ``4``.
        few_shot_maps (Sequence[str], optional): What decides with good photographs: ``references``, ``text`` or both.
            Defaults to both.
        white_level (int | None, optional): Value of white in image files of more than 8 bits that do not say it: 4095
            for 12 bits. ``None``: such a file is refused where its range can't be told. Defaults to ``None``.
        tiles (int | tuple[int, int] | None, optional): Tiles to each side, or rows and columns of them, for small
            defects: overlapping tiles of ``image_size`` are looked at beside the whole image, and joined to one map.
            ``None``: the whole image alone. Defaults to ``None``.
        region (str | Path | None, optional): Where to look: a mask, white where to look and black where not; a folder
            of masks, one for each photograph by its file's name; or ``x,y,width,height`` in fractions of the
            photograph. What lies outside takes part in no score, map or comparison. The score then is the map's.
            ``None``: everywhere. Defaults to ``None``.

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
        # Hyper-parameters are read from these names. A checkpoint takes plain data only, and a dict-form get_model or
        # the benchmark hand in containers of OmegaConf.
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
        settle = partial(_settle, settled)
        image_size, tiles = settle("image_size", image_size), settle("tiles", tiles)
        feature_layers, white_level = settle("feature_layers", feature_layers), settle("white_level", white_level)
        image_threshold = settle("image_threshold", image_threshold)
        pixel_threshold = settle("pixel_threshold", pixel_threshold)
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
        self.learning_rate = learning_rate
        self.betas = betas
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
        self.evaluation_run = EvaluationRun(max(self.model.backbone.patch_size), white_level)

        self._adapters = AdapterSource(self.model)
        if adapters is not None:
            self._adapters.load(adapters)
            self.restore_references(adapters)
        elif weights is not None:
            self._adapters.fetch_when_needed(partial(self._fetch_published, weights))

    @property
    def source(self) -> str | None:
        """Name of the dataset that the adapters were trained on; ``None`` if they are untrained or not fetched yet."""
        return self._adapters.trained_on

    @source.setter
    def source(self, name: str | None) -> None:
        self._adapters.give(name)

    @property
    def learning_type(self) -> LearningType:
        """Zero-shot, or few-shot with good photographs; for untrained adapters one-class, so that anomalib trains."""
        if not self._adapters.is_trained or self._run.is_fitting:
            return LearningType.ONE_CLASS
        return LearningType.FEW_SHOT if self.is_few_shot else LearningType.ZERO_SHOT

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """Trainer arguments: none but that no validation is needed before the training."""
        return {"num_sanity_val_steps": 0}

    @staticmethod
    def configure_pre_processor(image_size: tuple[int, int] | None = None) -> PreProcessor:
        """Configure the default pre-processor: the whole image, resized, with CLIP's mean and standard deviation.

        Args:
            image_size (tuple[int, int] | None, optional): Height and width in pixels. Defaults to 518 x 518.

        Returns:
            PreProcessor: The pre-processor.
        """
        return AntialiasedPreProcessor(transform=create_transform(image_size or (518, 518)))

    @staticmethod
    def configure_post_processor() -> PostProcessor:
        """Configure the default post-processor, which fits thresholds where there is data to do so."""
        return ThresholdPostProcessor()

    @staticmethod
    def configure_evaluator() -> Evaluator:
        """Configure the default evaluator: the paper's four metrics."""
        return RankingEvaluator()

    @classmethod
    def configure_visualizer(cls) -> ImageVisualizer:
        """Configure the default visualizer, which draws predictions on photographs in their own size."""
        return PhotographVisualizer()

    def configure_callbacks(self) -> Sequence[Callback]:
        """List what takes part in a run of the trainer, in the order in which it is called.

        Raises:
            ValueError: If the trainer's precision would change the verdicts.
        """
        self._run.check_precision()
        return self.evaluation_run.callbacks(self, getattr(self._trainer, "callbacks", ()))

    def prepare_data(self) -> None:
        """Give the results a folder of their own."""
        self.evaluation_run.results.prepare(self.trainer)

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
        del args, kwargs
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
        """Predict a batch, so that thresholds and normalization can be fitted.

        Args:
            batch (Batch): Images.
            *args: Not used.
            **kwargs: Not used.

        Returns:
            STEP_OUTPUT: The batch with its predictions.

        Raises:
            ImageError: If each image has a mask of its own as region, and one is missing or can't be read.
        """
        del args, kwargs
        images: Any = batch.image
        return batch.update(**self.predict_images(images, getattr(batch, "image_path", None))._asdict())

    test_step = predict_step = validation_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Optimize the adapters with Adam."""
        adapters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.Adam(adapters, lr=self.learning_rate, betas=self.betas)

    @staticmethod
    def val_dataloader() -> list:
        """Give no validation data of the model's own, so that images without labels can be predicted too."""
        return []

    def on_fit_start(self) -> None:
        """Look at the data before the first step, and say what is in use.

        Raises:
            ValueError: If the training data has no anomalous image, or no masks.
        """
        self.model.backbone.load_text_tower()
        self.outdate_references()
        self._log_run()
        self._run.check_training_data()

    def on_fit_end(self) -> None:
        """Remember what the adapters were trained on."""
        self.source = self._run.trained_dataset

    def on_validation_start(self) -> None:
        """Make the adapters ready."""
        if self._run.is_fitting:
            return
        self._prepare_evaluation()
        self._run.warn_if_not_trained_again(self.source)

    def on_test_model_eval(self) -> None:
        """Fit thresholds, and switch to evaluation."""
        self.evaluation_run.fit_thresholds_again(self.trainer, self.post_processor)
        super().on_test_model_eval()

    def on_predict_model_eval(self) -> None:
        """Fit thresholds, and switch to evaluation."""
        self.evaluation_run.fit_thresholds_again(self.trainer, self.post_processor)
        super().on_predict_model_eval()

    def on_test_start(self) -> None:
        """Make the adapters ready, and warn where a result is not zero-shot."""
        self._prepare_evaluation()
        self._log_run()
        self._run.warn_if_not_zero_shot(self.source)

    def on_predict_start(self) -> None:
        """Make the adapters ready."""
        self._prepare_evaluation()
        self._log_run()

    def describe(self) -> str:
        """Say in one line which model it is: backbone, and adapters with where they come from."""
        weights = self._run.checkpoint or self.hparams["weights"]
        return describe_model(self.backbone_name, self.pretrained, None if weights == "auto" else weights, self.source)

    @property
    def _run(self) -> TrainerRun:
        return TrainerRun(self._trainer)

    def _fetch_published(self, weights: str) -> Adapters:
        """Read the published adapters that were asked for, fetched if they are not in the cache."""
        check_published(self.backbone_name)
        name = choose_zero_shot(self._run.tested_datasets) if weights == "auto" else weights
        return Adapters.read(fetch_published(name, get_pretrained_weights_dir() / "fbclip"))

    def _prepare_evaluation(self) -> None:
        self._adapters.make_ready()
        self.model.forget_outdated_text_features()  # a callback may have changed parameters in place
        self._run.warn_if_untrained(self.source)
        self.prepare_references(self._run)

    def _log_run(self) -> None:
        self._run.log(self.describe())


def _settle(settled: Mapping[str, Any], name: str, value: Any) -> Any:  # noqa: ANN401 - an argument of any kind
    """Take what a product has settled, where nothing else is said."""
    return settled.get(name) if value is None else value
