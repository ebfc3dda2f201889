# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Predictions of the model in torch, equal to those of anomalib's engine."""

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from anomalib_fbclip.data.image_source import crop_patch, load_image
from anomalib_fbclip.data.reference_set import ROTATIONS, ReferenceSet, threshold_source
from anomalib_fbclip.data.unlabeled_set import UnlabeledSet
from anomalib_fbclip.errors import CommandError, ImageError, WeightsUnavailableError
from anomalib_fbclip.exported.inferencer import (
    Failed,
    ImageSource,
    Prediction,
    predict_in_order,
    to_rgb,
    without_failures,
)
from anomalib_fbclip.images.image_files import printable
from anomalib_fbclip.images.region_of_interest import Mask, RegionMasks, RegionSource, paint_region
from anomalib_fbclip.modeling.anomaly_map import highest_patch
from anomalib_fbclip.modeling.decision import Decision, IntermediateOutputs
from anomalib_fbclip.modeling.fbclip import FBClipModel
from anomalib_fbclip.modeling.few_shot import unlikeness
from anomalib_fbclip.modeling.few_shot.few_shot import later_half
from anomalib_fbclip.modeling.few_shot.memory_bank import Match, join_layers
from anomalib_fbclip.modeling.region import RegionOfInterest
from anomalib_fbclip.modeling.resize import create_exported_transform, create_transform
from anomalib_fbclip.results.regions import match_verdict
from anomalib_fbclip.results.report import NearestReference
from anomalib_fbclip.results.thresholds import USUAL_THRESHOLD
from anomalib_fbclip.weights import bundled
from anomalib_fbclip.weights.adapters import Adapters, describe_adapters, describe_model, digest_tensors
from anomalib_fbclip.weights.backbones import build_model, resolve_backbone, resolve_image_size, resolve_tiling
from anomalib_fbclip.weights.clip_files import resolve_pretrained
from anomalib_fbclip.weights.source import check_published, read_adapters_file, read_given_adapters, read_published
from anomalib_fbclip.weights.tensor_files import Normalization

from .inspection import ComparedPrediction, MaskedImage, choose_enough

ONE_BY_ONE = "inspect with one after the other, or teach them alike."
"""Advice for products that can't be used together."""

CACHED_PHOTOGRAPHS = 8
"""Number of good photographs to keep in memory, for cutting places out of them."""


class TorchInferencer:
    """The model in torch, with all that the command uses of an exported one (``EdgeInferencer``).

    Backbone and weights are as in :class:`~anomalib_fbclip.FBClip`. Without a backbone, it is that of the adapters, or
    the bundled one if they don't name it. A file of adapters also sets feature layers and image size; a training
    checkpoint also sets its views and other options, normalization and thresholds. At most ``at_once`` photographs are
    computed at the same time on a CPU, and share its threads. Tiles are rows and columns, or a function that chooses
    them by the image size, which is height and width in pixels.
    """

    def __init__(
        self,
        backbone: str | None,
        weights: str,
        device: str,
        precision: str,
        threshold: float | None,
        pixel_threshold: float | None,
        at_once: int = 1,
        white_level: int | None = None,
        *,
        image_size: tuple[int, int] | None = None,
        tiles: tuple[int, int] | Callable[[tuple[int, int]], tuple[int, int]] | None = None,
        region: RegionSource | None = None,
    ) -> None:
        self._device = resolve_device(device)
        threads = torch.get_num_threads()
        self._at_once = min(at_once, threads) if self._device.type == "cpu" else 1
        self._threads = threads // self._at_once
        own = read_adapters_file(weights)
        name = resolve_backbone(backbone or (own.metadata.get("backbone") if own else None) or bundled.NAME)
        given = own or read_given_adapters(weights, name)
        if given is None:
            check_published(name)  # its CLIP is fetched next
        known = given.metadata if given else {}
        pretrained = resolve_pretrained(name, known.get("pretrained"))
        if own:
            own.check_backbone(name)
        view_size = resolve_image_size(name, image_size or known.get("image_size"))
        tiling = resolve_tiling(name, view_size, tiles(view_size) if callable(tiles) else tiles or known.get("tiles"))
        try:
            self._model = build_model(
                name,
                pretrained,
                known.get("feature_layers"),
                precision=precision,
                tiling=tiling,
                **(given.arguments if given else {}),
            )
            adapters = given or fetch_adapters(weights)
        except WeightsUnavailableError as error:
            msg = f"{error.message} Or leave out --backbone and --weights: {bundled.NAME} needs no network."
            raise CommandError(msg) from error
        adapters.load_into(self._model)
        settled = adapters.settled
        self.white_level = settled.get("white_level") if white_level is None else white_level
        self.backbone = name
        self._pretrained = pretrained
        self.taught: str | None = adapters.metadata.get("taught")  # the time, if the weights are a product
        self.trained_on = adapters.source  # the dataset, if known
        self._name = describe_model(name, pretrained, None if weights == "auto" else weights, adapters.source)
        self._model.eval().to(self._device)
        self._model.text_features()  # cached; otherwise each thread would compute them
        self.input_size = tiling.image_size
        self.tile_count = tiling.view_count - 1
        self._transform = create_transform(self.input_size)
        self._reference_transform = create_exported_transform(self.input_size)
        self._region_source = region
        self.region = self._use_region(region)
        self._asked_thresholds = (threshold, pixel_threshold)
        self._given_thresholds = self._choose_thresholds(adapters)
        self._normalizations = adapters.normalizations
        self._adapters = adapters
        self._comparisons: list[Comparison] = []
        if adapters.is_product:
            self._add_comparison(adapters, self._model.decision, self._model.region, Path(weights).stem)

    def describe(self) -> str:
        """Describe the model and its products in one line."""
        names = [printable(comparison.product) for comparison in self._comparisons if comparison.product]
        return f"{self._name}; product {', '.join(names)}" if names else self._name

    def add_product(self, path: Path) -> None:
        """Add a product, taught with the same model. Each photograph is compared with the most similar one."""
        product = Adapters.read(path)
        for name in ("backbone", "image_size", "tiles", "feature_layers"):
            own, other = self._adapters.metadata.get(name), product.metadata.get(name)
            if own != other:
                msg = f"{product.origin} was taught with {name} {other}, the first product with {own}: {ONE_BY_ONE}"
                raise ValueError(msg)
        product.check_signature(self._model.backbone.signature)
        if digest_tensors(product.adapters) != digest_tensors(self._adapters.adapters):
            msg = f"{product.origin} was taught with other adapters than the first product: {ONE_BY_ONE}"
            raise ValueError(msg)
        region = product.read_region(self._model)
        self._add_comparison(product, product.read_decision(self._model), region, path.stem)
        self.region = None  # each product has its own

    def _add_comparison(
        self, product: Adapters, decision: Decision | None, region: RegionOfInterest | None, name: str
    ) -> None:
        references = ReferenceSet.restore(product, decision, region)
        self._comparisons.append(Comparison(references, self._model, region, self._choose_thresholds(product), name))

    def _choose_thresholds(self, adapters: Adapters) -> tuple[float | None, float | None]:
        """Return the given thresholds, or those of the product."""
        image, pixel = self._asked_thresholds
        settled = adapters.settled
        return (
            settled.get("image_threshold") if image is None else image,
            settled.get("pixel_threshold") if pixel is None else pixel,
        )

    @property
    def knows_parts(self) -> bool:
        """True if the weights contain photographs to compare with, or fitted thresholds."""
        is_fitted = any(normalization.is_fitted for normalization in self._normalizations)
        return is_fitted or self._model.decision is not self._model.zero_shot

    def read_references(self, photographs: Sequence[Path], rotations: int | None = None) -> ReferenceSet:
        """Read photographs of good parts for :meth:`compare_with`, and find near copies among them."""
        return ReferenceSet(
            photographs, rotations or ROTATIONS, white_level=self.white_level, region=self._region_source
        )

    def read_unlabeled(self, photographs: Sequence[Path], *, full_size: bool) -> UnlabeledSet:
        """Choose the photographs without labels for :meth:`compare_with`."""
        return UnlabeledSet(
            photographs,
            minimum_side=self.minimum_side,
            enough=None if full_size else choose_enough(self.input_size),
            white_level=self.white_level,
            region=self._region_source,
        )

    def compare_with(self, references: ReferenceSet, advance: Callable[[], None]) -> None:
        """Compare with photographs from now on, if they are alike enough. ``advance`` is called twice for each."""
        references.fit_model(
            self._model, lambda images: self._reference_transform(images.to(self._device)), advance=advance
        )
        if self._model.decision is self._model.zero_shot:
            return
        self._normalizations = (Normalization(), Normalization())  # those of the checkpoint fit other scores
        region = None if isinstance(self._region_source, RegionMasks) else self._model.region
        self._comparisons = [Comparison(references, self._model, region, self._given_thresholds)]

    def change_references(self, added: Sequence[Path], removed: Collection[str]) -> ReferenceSet:
        """Add good photographs to a product, and remove some by name, for :meth:`compare_with`."""
        (references,) = self.references
        return references.change(added, removed, self._model)

    @property
    def references(self) -> list[ReferenceSet]:
        """The good photographs of each product."""
        return [comparison.references for comparison in self._comparisons]

    def to_product(self, taught: str | None) -> Adapters:
        """Return the content of a product's file. ``taught`` is the time when it was first taught; ``None``: now."""
        metadata = describe_adapters(self._model, self.backbone, self._pretrained, self.trained_on)
        (references,) = self.references
        kept = references.keep(self._model)
        product = Adapters.of(self._model, metadata)
        return product.with_references(kept, self._adapters.arguments, self._given_thresholds, taught)

    def decision_thresholds(self) -> tuple[float, float]:
        """Return the thresholds of scores and of anomaly maps."""
        image, pixel = (
            normalization.decision if given is None else given
            for given, normalization in zip(self._given_thresholds, self._normalizations, strict=True)
        )
        return image, pixel

    def decide_at(self, threshold: float) -> None:
        """Set the threshold of scores, and that of anomaly maps unless it was given."""
        _, pixel_threshold = self._given_thresholds
        self._given_thresholds = (threshold, threshold if pixel_threshold is None else pixel_threshold)
        for comparison in self._comparisons:
            comparison.decide_at(*self._given_thresholds)

    def threshold_sources(self) -> tuple[str, str]:
        """Return the sources of the thresholds, in the words of the table."""
        usual = threshold_source(self._model.decision)
        image, pixel = (
            "given" if given is not None else "checkpoint" if normalization.is_fitted else usual
            for given, normalization in zip(self._given_thresholds, self._normalizations, strict=True)
        )
        return image, pixel

    def watch_views(self, advance: Callable[[float], None]) -> None:
        """Call ``advance`` after each view with its share of a photograph."""

        def tell(_: torch.nn.Module, arguments: tuple[Sequence[torch.Tensor], object], __: object) -> None:
            advance(len(arguments[0][0]) / (1 + self.tile_count))

        self._model.mvfbe.register_forward_hook(tell)

    def stream(
        self,
        images: Iterable[ImageSource | MaskedImage],
        on_failure: Callable[[ImageSource, ImageError], None] | None = None,
    ) -> Iterator[Prediction]:
        """Predict images in order, a few at the same time. See :meth:`EdgeInferencer.stream`."""
        return without_failures(self.results(images), on_failure)

    def results(self, images: Iterable[ImageSource | MaskedImage | Failed]) -> Generator[Prediction | Failed]:
        """Predict images in order, a few at the same time. See :meth:`EdgeInferencer.results`."""
        return predict_in_order(self._predict, images, self._at_once)

    def _predict(self, given: ImageSource | MaskedImage | Failed) -> Prediction | Failed:
        if isinstance(given, Failed):
            return given
        torch.set_num_threads(self._threads)  # of this thread
        source, mask = (given.pixels, given.region) if isinstance(given, MaskedImage) else (given, None)
        try:
            image = to_rgb(source, self.minimum_side, self.white_level)
            region = None if mask is None else self._to_region(mask)
        except ImageError as error:
            return Failed(source, error)
        start = time.perf_counter()
        comparison, is_unknown, score, anomaly_map = self._compute(image, region)
        seconds = time.perf_counter() - start
        threshold, pixel_threshold = comparison.thresholds if comparison else self.decision_thresholds()
        is_anomalous = score > threshold
        prediction = Prediction(
            image=image,
            path=Path(source) if isinstance(source, str | Path) else None,
            score=score,
            is_anomalous=is_anomalous,
            anomaly_map=anomaly_map,
            mask=match_verdict(anomaly_map > pixel_threshold, anomaly_map, is_anomalous and not is_unknown),
            seconds=seconds,
            product=comparison.product if comparison and not is_unknown else None,
        )
        return comparison.complete(prediction, is_unknown=is_unknown) if comparison else prediction

    @torch.inference_mode()
    def _compute(
        self, image: NDArray[np.uint8], region: RegionOfInterest | None
    ) -> tuple["Comparison | None", bool, float, NDArray[np.float32]]:
        """Return a photograph's comparison, whether it is unlike all products, its score and its anomaly map."""
        views = self._transform(load_image(image).unsqueeze(0).to(self._device))
        comparison, outputs, is_unknown = self._find_comparison(self._model.look(views, self._model.text_features()))
        decider = comparison or self._model
        own = decider.region if region is None else region
        computed = self._model.conclude(outputs, views.shape[-2:], decider.decision, own)
        scores, maps = (move(values) for move, values in zip(self._normalizations, computed, strict=True))
        return comparison, is_unknown, scores.item(), maps[0].float().cpu().numpy()

    def _find_comparison(
        self, outputs: Iterator[IntermediateOutputs]
    ) -> tuple["Comparison | None", Iterable[IntermediateOutputs], bool]:
        """Return the comparison most similar to a photograph, the outputs again, and whether it is unlike them all."""
        if len(self._comparisons) <= 1:
            return next(iter(self._comparisons), None), outputs, False
        first = next(outputs)
        found = [(comparison.unlikeness(first), comparison) for comparison in self._comparisons]
        distance, comparison = min(found, key=lambda one: float(one[0][0]))
        return comparison, chain([first], outputs), comparison.references.fit.is_unlike(distance)

    @property
    def minimum_side(self) -> int:
        """Smallest side of a photograph in pixels."""
        return self._model.backbone.minimum_side

    def _use_region(self, region: RegionSource | None) -> RegionMasks | Mask | None:
        """Let the model look only inside a region, or that of the product, and return it in the size of the input."""
        if isinstance(region, RegionMasks):
            return region  # each photograph has its own
        if region is not None:
            mask = paint_region(region, self.input_size)
            self._model.region = self._to_region(mask)
            return mask
        known = self._model.region
        return None if known is None else known.pixels.cpu().numpy()

    def _to_region(self, mask: Mask) -> RegionOfInterest:
        """Make a region of interest from a mask."""
        try:
            return self._model.region_of(torch.from_numpy(mask))
        except ValueError as error:
            raise ImageError(str(error)) from error


class Comparison:
    """Comparison with the good photographs of a product, which also finds the place nearest to an anomalous one.

    The model was fitted to them. The region is that of all photographs; ``None``: everywhere, or one per photograph.
    """

    def __init__(
        self,
        references: ReferenceSet,
        model: FBClipModel,
        region: RegionOfInterest | None,
        given_thresholds: tuple[float | None, float | None],
        product: str | None = None,
    ) -> None:
        self.references = references
        self.region = region
        self.product = product
        self.decision = references.fit.decision
        self.decide_at(*given_thresholds)
        self._mask = None if region is None else region.pixels.cpu().numpy()
        self._tiling = model.tiling
        self._grids = [model.backbone.grid(size) for size in (model.tiling.view_size, model.tiling.image_size)]
        self._of_thread = threading.local()
        self._load = lru_cache(CACHED_PHOTOGRAPHS)(references.load)
        self.decision.memory.register_forward_hook(self._keep)  # so that each photograph is compared only once

    def decide_at(self, threshold: float | None, pixel_threshold: float | None) -> None:
        """Set the thresholds; ``None``: the one from the photographs."""
        given, usual = (threshold, pixel_threshold), threshold_source(self.decision)
        image, pixel = (USUAL_THRESHOLD if value is None else value for value in given)
        image_source, pixel_source = (usual if value is None else "given" for value in given)
        self.thresholds, self._threshold_sources = (image, pixel), (image_source, pixel_source)

    def unlikeness(self, outputs: IntermediateOutputs) -> torch.Tensor:
        """Return the distance of a whole photograph from the good ones, given the outputs for its first views."""
        tokens = join_layers(later_half([tokens[:1] for tokens in outputs.layer_tokens]))[0]
        return unlikeness(self.decision.memory, tokens, self.references.fit.inside[0, 0])

    def complete(self, prediction: Prediction, *, is_unknown: bool) -> ComparedPrediction:
        """Add the nearest place to this thread's last prediction."""
        view_grid, grid = self._grids
        place = highest_patch(torch.from_numpy(prediction.anomaly_map), grid)
        rows = self._tiling.pick(torch.stack([*self._of_thread.rows]).unflatten(1, view_grid))
        patch = self.references.nearest(rows, place)
        nearest = NearestReference(
            place=crop_patch(prediction.image, place, grid),
            reference=self.references.crop(patch, self._load(patch.photograph)),
            path=self.references.name(patch.photograph),
        )
        return ComparedPrediction(
            **vars(prediction),
            nearest=nearest,
            thresholds=self.thresholds,
            threshold_sources=self._threshold_sources,
            region=self._mask,
            is_unknown=is_unknown,
        )

    def _keep(self, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], match: Match) -> None:
        """Keep the nearest rows of the last views."""
        del module, inputs
        if not hasattr(self._of_thread, "rows"):
            self._of_thread.rows = deque(maxlen=self._tiling.view_count)
        self._of_thread.rows.extend(match.row)


def fetch_adapters(weights: str) -> Adapters:
    """Read published adapters from anomalib's cache, and download them first if they are missing."""
    from anomalib.utils.path import get_pretrained_weights_dir  # imports nothing else of anomalib

    return read_published(weights, (), get_pretrained_weights_dir() / "fbclip")


def resolve_device(name: str) -> torch.device:
    """Find a device of torch by its name. ``"auto"``: the accelerator if there is one, otherwise the CPU."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    found = [torch.device("cpu"), *([accelerator] if accelerator else [])]
    if name == "auto":
        return found[-1]
    if name.partition(":")[0] not in {device.type for device in found}:
        msg = f"--device {printable(name)} is not available: choose one of auto, {', '.join(map(str, found))}."
        raise CommandError(msg)
    return torch.device(name)
