# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Files of a Lightning model: checkpoints, adapters, and exports in each of anomalib's formats."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from anomalib.deploy import CompressionType
from anomalib.utils.path import get_pretrained_weights_dir
from lightning.pytorch import Trainer
from torch import nn

from anomalib_fbclip.export.description import (
    COMPRESSION_KEY,
    PRODUCT_KEYS,
    UNCOMPRESSED,
    add_to_torch_file,
    check_replaced,
    describe,
)
from anomalib_fbclip.images.region_of_interest import RegionMasks, encode_region
from anomalib_fbclip.results.files import incomplete_folder, naming_full_disk
from anomalib_fbclip.results.thresholds import REFERENCES
from anomalib_fbclip.weights.adapters import (
    FROZEN_PREFIX,
    Adapters,
    adapter_tensors,
    describe_adapters,
    digest_tensors,
)
from anomalib_fbclip.weights.metadata import ARGUMENT_KINDS
from anomalib_fbclip.weights.source import check_published, read_published
from anomalib_fbclip.weights.tensor_files import CHECKPOINT_KEY, halve_averages

from .few_shot import FewShotMixin
from .post_processing import ThresholdPostProcessor
from .screen import check_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anomalib import TaskType
    from anomalib.data import AnomalibDataModule
    from anomalib.models.components import AnomalibModule
    from torchmetrics import Metric
    from typing_extensions import Self

    from .callbacks.checked_data import CheckedData


logger = logging.getLogger(__name__)

GRAPH_SUFFIXES = {".onnx", ".xml"}
"""Suffixes of files whose weights are in other files."""

FROZEN = f"model.{FROZEN_PREFIX}"
"""Prefix of frozen parameters."""


class SavingMixin(FewShotMixin):
    """Files of :class:`FBClip`. They describe themselves, and are written completely or not at all."""

    backbone_name: str
    pretrained: str | None
    checked_data: CheckedData

    def description(self) -> dict[str, str]:
        """Describe the model for the metadata of an exported file. See :func:`describe`."""
        if isinstance(self.region_source, RegionMasks):
            msg = "An exported model has one region of interest for all photographs: give one mask as region."
            raise ValueError(msg)  # noqa: TRY004 - not a wrong type
        self._adapters.make_ready()
        self.prepare_references()
        self.model.text_features()  # a torch file has them, and may be used without the CLIP
        own = {
            "patch_size": list(self.model.backbone.patch_size),
            "k_shot" if self.is_few_shot else "unlabeled": self.model.decision.k_shot,
            "white_level": self.white_level,
            "image_size": list(self.model.tiling.image_size),
            "region": None if self.model.region is None else encode_region(self.model.region.pixels.cpu().numpy()),
            "adapters": digest_tensors(adapter_tensors(self.model)),
            "good_scores": self._good_scores(),
            "photographs": self.digest_references(),
            **dict(zip(PRODUCT_KEYS, self.product or (), strict=False)),
        }
        return describe(self.metadata() | own, self.post_processor)

    def _good_scores(self) -> list[float] | None:
        """Return the scores of the good photographs, if they set the threshold."""
        source = getattr(self.post_processor, "image_threshold_source", None)
        if self.reference_set is None or source != REFERENCES:
            return None
        return [round(score, 6) for score in self.reference_set.fit.scores.tolist()]

    def save_adapters(self, path: str | Path, with_references: bool = False) -> None:
        """Write the adapters, without the frozen CLIP, to a file for ``weights``.

        The file also has the text features, so that inference does not load the text tower.

        Args:
            path (str | Path): A file with the suffix ``.safetensors``.
            with_references (bool, optional): Whether to include the good photographs' patches. Defaults to ``False``.

        Raises:
            ValueError: If the path has another suffix.
        """
        self._adapters.make_ready()
        adapters = Adapters.of(self.model, self.metadata())
        if with_references:
            arguments = {name: self.hparams[name] for name in ARGUMENT_KINDS}
            thresholds = [self.hparams["image_threshold"], self.hparams["pixel_threshold"]]
            adapters = adapters.with_references(self.keep_references(), arguments, thresholds)
        adapters.save(Path(path))

    def metadata(self) -> dict[str, Any]:
        """Collect the metadata of the adapters for a checkpoint or a file."""
        source = self._run.trained_dataset or self._adapters.trained_on
        return describe_adapters(self.model, self.backbone_name, self.pretrained, source)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override] # what is passed on may be anything
        cls, checkpoint_path: str | Path, *args, **kwargs
    ) -> AnomalibModule:
        """Load a model from a checkpoint. See :meth:`AnomalibModule.load_from_checkpoint`."""
        try:
            return super().load_from_checkpoint(checkpoint_path, *args, **kwargs)
        except Exception:
            check_checkpoint(checkpoint_path)  # says so if that is the reason
            raise

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the adapters, their metadata, and Adam's averages in half the size."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["state_dict"] = {
            name: tensor for name, tensor in checkpoint["state_dict"].items() if not name.startswith(FROZEN)
        }
        checkpoint[CHECKPOINT_KEY] = self.metadata()
        checkpoint["hyper_parameters"]["weights"] = None  # they are in the state dict
        of_a_product = {"few_shot_source": None, "k_shot": 0, "unlabeled_source": None, "region": None}
        checkpoint["hyper_parameters"] |= of_a_product
        if "optimizer_states" in checkpoint:
            checkpoint["optimizer_states"] = [halve_averages(state) for state in checkpoint["optimizer_states"]]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that a checkpoint fits, and add the frozen backbone to it."""
        self.outdate_references()
        super().on_load_checkpoint(checkpoint)
        if CHECKPOINT_KEY not in checkpoint:
            msg = "The checkpoint is not one of FBClip: give adapters from other files as 'weights'."
            raise ValueError(msg)
        adapters = Adapters({}, checkpoint[CHECKPOINT_KEY], "The checkpoint")
        adapters.check_backbone(self.backbone_name)
        adapters.check_signature(self.model.backbone.signature)
        frozen = {name: tensor for name, tensor in self.state_dict().items() if name.startswith(FROZEN)}
        checkpoint["state_dict"] = {**frozen, **checkpoint["state_dict"]}
        self._adapters.give(adapters.source)

    def to_torch(self, export_root: Path | str, model_file_name: str = "model") -> Path:
        """Export to PyTorch for inference, without gradients, metrics and visualizer. See :meth:`to_openvino`."""
        description = self.description()
        check_replaced(Path(export_root, "weights", "torch", f"{model_file_name}.pt"), description)
        export = super(SavingMixin, self._for_inference()).to_torch

        def write(folder: Path) -> Path:
            with naming_full_disk(folder.parent, RuntimeError):
                path = export(folder, model_file_name)
                add_to_torch_file(path, description)
            return path

        return write_staged(Path(export_root), write)

    def to_onnx(  # type: ignore[override] # anomalib's, not Lightning's
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        **kwargs,
    ) -> Path:
        """Export to ONNX, from images with values 0..1, before resizing, to verdicts. See :meth:`to_openvino`.

        Further arguments are those of ``torch.onnx.export``.
        """
        from anomalib_fbclip.export.graph import finish_onnx

        _check_input_size(input_size)
        description = self.description()
        check_replaced(Path(export_root, "weights", "onnx", f"{model_file_name}.onnx"), description)
        logger.info("Writing the model's graph as ONNX: this takes a minute or two ...")
        export = super().to_onnx
        # anomalib's default opset is older than the exporter's, and the conversion to it fails.
        arguments = {"opset_version": 18, "optimize": False, "verbose": False, **kwargs}

        def write(folder: Path) -> Path:
            with torch.no_grad():  # without it, modules lose their names in the graph
                path = export(folder, model_file_name, input_size, **arguments)
            finish_onnx(path, description)
            return path

        return write_staged(Path(export_root), write)

    def to_openvino(
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        compression_type: CompressionType | None = None,
        datamodule: AnomalibDataModule | None = None,
        metric: Metric | None = None,
        task: TaskType | None = None,
        max_drop: float = 0.01,
        ov_kwargs: dict[str, Any] | None = None,
        onnx_kwargs: dict[str, Any] | None = None,
    ) -> Path:
        """Export to OpenVINO, from images with values 0..1, before resizing, to verdicts.

        Args:
            export_root (Path | str): Folder below which the files are written.
            model_file_name (str, optional): Name of the files without their suffix. Defaults to ``"model"``.
            input_size (tuple[int, int] | None, optional): Height and width of all images in pixels; ``None`` for any
                size. Defaults to ``None``.
            compression_type (CompressionType | None, optional): ``FP16`` or ``INT8`` for smaller weights, ``INT8_PTQ``
                or ``INT8_ACQ`` to compute in 8 bits. Defaults to ``None``.
            datamodule (AnomalibDataModule | None, optional): Validation images for ``INT8_PTQ``, and test images, too,
                for ``INT8_ACQ``; they may show other objects. For other compressions, its labeled validation images
                set the thresholds, unless these were fitted before. With ``k_shot`` alone, its training split has the
                good photographs. Defaults to ``None``.
            metric (Metric | None, optional): Metric that ``INT8_ACQ`` preserves; ``None`` for the F1 score of the
                images. Defaults to ``None``.
            task (TaskType | None, optional): Not used. Defaults to ``None``.
            max_drop (float, optional): Largest drop of the metric, 0..1. Defaults to ``0.01``.
            ov_kwargs (dict[str, Any] | None, optional): Arguments of ``openvino.convert_model``. Defaults to ``None``.
            onnx_kwargs (dict[str, Any] | None, optional): Arguments of ``torch.onnx.export``. Defaults to ``None``.

        Returns:
            Path: The ``.xml`` file; the weights are in a ``.bin`` file beside it.

        Raises:
            ValueError: If the input size is not a size, images that the compression needs are missing, ``max_drop`` is
                not in 0..1, or the files would replace another model or another compression.
        """
        from anomalib_fbclip.export.graph import convert_to_openvino, save_openvino
        from anomalib_fbclip.export.quantization import check_max_drop, compress

        is_calibrated = compression_type in {CompressionType.INT8_PTQ, CompressionType.INT8_ACQ}
        if compression_type and is_calibrated and datamodule is None:
            msg = f"{compression_type.name} needs images: give a datamodule (--data on the command line)."
            raise ValueError(msg)
        if compression_type == CompressionType.INT8_ACQ:
            check_max_drop(max_drop)
        path = Path("weights", "openvino", f"{model_file_name}.xml")
        self.prepare_references(datamodule)
        if not is_calibrated:  # images for calibration may be of other objects
            self._fit_thresholds(datamodule)
        compression = compression_type.name if compression_type else UNCOMPRESSED
        description = self.description() | {COMPRESSION_KEY: compression}
        check_replaced(Path(export_root) / path, description)
        with TemporaryDirectory() as folder:
            onnx_path = self.to_onnx(folder, model_file_name, input_size, **(onnx_kwargs or {}))
            logger.info("Converting the graph to OpenVINO ...")
            model = convert_to_openvino(onnx_path, description, **(ov_kwargs or {}))
        model = compress(model, compression_type, datamodule, metric, max_drop, self.checked_data.check)
        is_half = compression_type is not None  # the rest is in 16 bits
        return write_staged(Path(export_root), lambda folder: save_openvino(model, folder / path, is_half))

    def _fetch_published(self, weights: str) -> Adapters:
        """Read the requested published adapters. They are fetched if they are not in anomalib's cache."""
        check_published(self.backbone_name)
        return read_published(weights, self._run.tested_datasets, get_pretrained_weights_dir() / "fbclip")

    def _fit_thresholds(self, datamodule: AnomalibDataModule | None) -> None:
        """Fit thresholds to labeled validation images, as a test does, unless they were fitted before."""
        post_processor = self.post_processor
        if datamodule is None or not isinstance(post_processor, ThresholdPostProcessor) or post_processor.is_fitted:
            return
        Trainer(devices=1, logger=False, enable_checkpointing=False, enable_model_summary=False).validate(
            self, datamodule=datamodule, verbose=False
        )

    def _for_inference(self) -> Self:
        """Copy the model for inference only. The copy shares its tensors."""
        frozen = {id(value): nn.Parameter(value.detach(), requires_grad=False) for value in self.parameters()}
        shared = {id(value): value for value in self.buffers()}
        left_out = {id(part): None for part in (self.evaluator, self.visualizer)}
        inference = copy.deepcopy(self, frozen | shared | left_out)
        inference.reference_choice = inference.reference_set = None  # but the decision stays
        return inference


def _check_input_size(input_size: Sequence[int] | None) -> None:
    if input_size is None or (len(input_size) == 2 and min(input_size) > 0):  # noqa: PLR2004
        return
    msg = f"Input size {list(input_size)} is not a height and width in pixels: give both, or none for any size."
    raise ValueError(msg)


def write_staged(root: Path, write: Callable[[Path], Path]) -> Path:
    """Write files below a temporary folder, and move them when they are complete.

    Existing files are replaced. A graph is moved after its weights. ``write`` gets the temporary folder, and returns
    the path of one of the files. Its final path is returned.
    """
    with incomplete_folder(root) as folder:
        written = write(folder).relative_to(folder)
        files = [path for path in folder.rglob("*") if path.is_file()]
        for path in sorted(files, key=lambda path: path.suffix in GRAPH_SUFFIXES):
            destination = root / path.relative_to(folder)
            destination.parent.mkdir(parents=True, exist_ok=True)
            path.replace(destination)
    return root / written
