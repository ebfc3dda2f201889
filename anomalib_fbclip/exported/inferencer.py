# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Predictions of an exported model, for one image or a stream of them."""

import json
import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anomalib_fbclip.concurrency import map_ahead
from anomalib_fbclip.errors import EdgeError, ImageError
from anomalib_fbclip.images.image_files import printable
from anomalib_fbclip.images.photographs import PhotographSource, check_size, check_white_level, read_photograph
from anomalib_fbclip.images.region_of_interest import Mask, decode_region
from anomalib_fbclip.results.regions import Region, find_regions, match_verdict
from anomalib_fbclip.results.thresholds import SOURCE_KEYS, THRESHOLD_KEYS, check_threshold

from .runtimes import PerformanceHint, Precision, load

ImageSource = PhotographSource | NDArray[np.uint8]
"""A file, an image of Pillow, or RGB values 0..255 of shape ``[H, W, 3]``."""

GivenT = TypeVar("GivenT")


@dataclass(frozen=True, eq=False)
class Prediction:
    """An exported model's prediction of an image.

    Attributes:
        image (NDArray[np.uint8]): The image: RGB values of shape ``[H, W, 3]``, upright.
        path (Path | None): Its file, if it came from one.
        score (float): The graph's ``pred_score``, 0..1.
        is_anomalous (bool): The verdict.
        anomaly_map (NDArray[np.float32]): How anomalous each place is, 0..1, for the whole image in the model's input
            size ``[h, w]``.
        mask (NDArray[bool]): Where it is anomalous, of shape ``[h, w]``: nowhere if the verdict is normal; otherwise
            where the anomaly map is above its threshold or, if that is nowhere, at its strongest place.
        seconds (float): Time of the graph, while others may run in parallel; without reading the image.
        product (str | None): Name of the product that the image was compared with, if known.
    """

    image: NDArray[np.uint8]
    path: Path | None
    score: float
    is_anomalous: bool
    anomaly_map: NDArray[np.float32]
    mask: NDArray[np.bool_]
    seconds: float
    product: str | None

    @property
    def regions(self) -> list[Region]:
        """Connected regions of the mask in pixels of the image, the largest first."""
        height, width = self.image.shape[:2]
        return find_regions(self.mask, (height, width))


@dataclass(frozen=True, eq=False)
class Failed:
    """An image that can't be read."""

    source: ImageSource
    error: ImageError


class EdgeInferencer:
    """Predicts with an exported model, without torch and anomalib.

    The graph gets images in their own size, as from :class:`~anomalib.deploy.OpenVINOInferencer`, and gives the same
    results. For a graph with a fixed input size, images are resized first.

    Args:
        path (str | Path): The exported model. OpenVINO runs an ``.xml``, with the ``.bin`` beside it, and an ``.onnx``.
            Without OpenVINO, ONNX Runtime runs the latter.
        device (str, optional): A device of OpenVINO, such as ``"CPU"`` or ``"GPU"``. Defaults to ``"AUTO"``.
        threshold (float | None, optional): An image with a higher score is anomalous, 0..1. ``None``: the exported
            threshold. Defaults to ``None``.
        pixel_threshold (float | None, optional): A place with a higher value in the anomaly map is anomalous, 0..1.
            ``None``: the exported threshold. Defaults to ``None``.
        performance_hint (PerformanceHint, optional): OpenVINO's goal: ``"LATENCY"`` gives each image the whole device;
            ``"THROUGHPUT"`` computes several images of a stream at the same time, which is faster in total and takes
            more memory. Defaults to ``"LATENCY"``.
        precision (Precision, optional): Precision of the layers that are not in 8 bits. ``"f32"`` decides as the tested
            model; ``"default"`` is OpenVINO's choice, on many devices 16 bits: faster, with slightly different scores.
            Defaults to ``"f32"``.
        white_level (int | None, optional): Value of white in a photograph of more than 8 bits that does not state it:
            4095 for 12 bits. ``None``: the exported value. Defaults to ``None``.

    Attributes:
        metadata (dict[str, str]): The file's metadata: backbone, image size and so on; may be empty.
        parallel_requests (int): Number of images of a stream that are computed at the same time.
        minimum_side (int): Smallest side of an image in pixels.
        white_level (int | None): Value of white in a photograph of more than 8 bits that does not state it.
        input_size (tuple[int, int] | None): Height and width in pixels to which the model resizes images; ``None`` if
            unknown.
        tile_count (int): Number of tiles besides the whole image.
        region (Mask | None): Region of interest, of that size; ``None``: everywhere.

    Raises:
        EdgeError: If the model or the device can't be used.
        ValueError: If a threshold is not in 0..1, or the white level not in 1..65535.
    """

    def __init__(
        self,
        path: str | Path,
        device: str = "AUTO",
        threshold: float | None = None,
        pixel_threshold: float | None = None,
        performance_hint: PerformanceHint = "LATENCY",
        precision: Precision = "f32",
        white_level: int | None = None,
    ) -> None:
        check_threshold("threshold", threshold)
        check_threshold("pixel_threshold", pixel_threshold)
        check_white_level(white_level)
        self.path = Path(path)
        self.threshold = threshold
        self.pixel_threshold = pixel_threshold
        self._engine = (device, performance_hint, precision)
        self._runtime = load(self.path, device, performance_hint, precision)
        self.metadata = self._runtime.metadata
        self.parallel_requests = self._runtime.parallel_requests
        self._check_graph()
        height, width = self._runtime.input_shape[2:]
        self._input_size = (height, width)
        image_size = json.loads(self.metadata.get("image_size", "null"))
        self.input_size: tuple[int, int] | None = tuple(image_size) if image_size else None
        tiles = math.prod(json.loads(self.metadata.get("tiles", "[1, 1]")))
        self.tile_count = tiles if tiles > 1 else 0
        region = self.metadata.get("region")
        self.region: Mask | None = decode_region(region) if region else None
        self.minimum_side = int(np.max(json.loads(self.metadata.get("patch_size", "1"))))
        known: int | None = json.loads(self.metadata.get("white_level", "null"))
        self.white_level = known if white_level is None else white_level

    def __reduce__(self) -> tuple[Callable[..., "EdgeInferencer"], tuple[Any, ...]]:
        """Pickle as the file's path, which is loaded again in the other process."""
        device, performance_hint, precision = self._engine
        thresholds = (self.threshold, self.pixel_threshold)
        return type(self), (self.path.absolute(), device, *thresholds, performance_hint, precision, self.white_level)

    @property
    def runtime(self) -> str:
        """Name and version of the library, and the device."""
        return self._runtime.name

    def describe(self) -> str:
        """Describe the model in one line: its file, its metadata, and the runtime."""
        words = {
            "product": "product",
            "backbone": "backbone",
            "source": "adapters trained on",
            "version": "exported by anomalib-fbclip",
        }
        known = [f"{name} {self.metadata[key]}" for key, name in words.items() if key in self.metadata]
        return "; ".join([printable(self.path), *map(printable, known), self.runtime])

    def decision_thresholds(self) -> tuple[float | None, float | None]:
        """Return the thresholds of scores and of anomaly maps: the given ones, or those of the file.

        ``None``: the graph decides, and the file does not state its threshold.
        """
        given = (self.threshold, self.pixel_threshold)
        named = (self.metadata.get(name) for name in THRESHOLD_KEYS)
        image, pixel = (
            float(text) if value is None and text is not None else value
            for value, text in zip(given, named, strict=True)
        )
        return image, pixel

    def decide_at(self, threshold: float) -> None:
        """Set the threshold of scores, and that of anomaly maps unless it was given."""
        self.threshold = threshold
        self.pixel_threshold = threshold if self.pixel_threshold is None else self.pixel_threshold

    def threshold_sources(self) -> tuple[str | None, str | None]:
        """Return the sources of :meth:`decision_thresholds` in the words of the table; ``None`` if one is unknown."""
        given = (self.threshold, self.pixel_threshold)
        image, pixel = (
            "given" if value is not None else None if known is None else self.metadata.get(key, "exported file")
            for value, known, key in zip(given, self.decision_thresholds(), SOURCE_KEYS, strict=True)
        )
        return image, pixel

    def predict(self, image: ImageSource) -> Prediction:
        """Predict one image.

        Args:
            image (ImageSource): A file, an image of Pillow, or RGB values 0..255 of shape ``[H, W, 3]``. Files and
                images of Pillow are turned upright by their EXIF data. OpenCV's arrays are BGR: give
                ``array[..., ::-1]``.

        Raises:
            ImageError: If the image can't be read, the range of its values is unknown, or it is smaller than a patch of
                the model.
            EdgeError: If the model fails.
        """
        result = self._predict(image)
        if isinstance(result, Failed):
            raise result.error
        return result

    def stream(
        self,
        images: Iterable[ImageSource],
        on_failure: Callable[[ImageSource, ImageError], None] | None = None,
    ) -> Iterator[Prediction]:
        """Predict images as they come, several at the same time, in order.

        At most :attr:`parallel_requests` images are read ahead of the last prediction: a camera waits until predictions
        are read. If that is more than one, a prediction waits for the next image.

        Args:
            images (Iterable[ImageSource]): Images as for :meth:`predict`, possibly without end.
            on_failure (Callable[[ImageSource, ImageError], None] | None, optional): Called in order with each image
                that can't be read. ``None``: the error is raised. Defaults to ``None``.

        Raises:
            ImageError: If an image can't be read and there is no ``on_failure``.
            EdgeError: If the model fails. OpenVINO may then fail on all other images, too.
        """
        return without_failures(self.results(images), on_failure)

    def results(self, images: Iterable[ImageSource | Failed]) -> Generator[Prediction | Failed]:
        """Predict images as :meth:`stream` does. Failures, also given ones, keep their place."""
        return predict_in_order(self._predict, images, self.parallel_requests)

    def _check_graph(self) -> None:
        """Check that the graph has the input and outputs of anomalib's export."""
        shape, names = self._runtime.input_shape, self._runtime.output_names
        if len(shape) != 4 or shape[0] not in {1, None} or shape[1] not in {3, None}:  # noqa: PLR2004
            sizes = ", ".join("any" if size is None else str(size) for size in shape)
            msg = f"{self.path} takes [{sizes}], not single RGB images, [1, 3, H, W]: export it again."
            raise EdgeError(msg)
        needed = {"pred_score": None, "anomaly_map": None, "pred_label": "threshold", "pred_mask": "pixel_threshold"}
        for name, replacement in needed.items():
            if name in names or (replacement and getattr(self, replacement) is not None):
                continue
            what = (replacement or "model that 'anomalib export' wrote").replace("_", " ")
            msg = f"{self.path} has no output {name}: give a {what}."
            raise EdgeError(msg)

    def _predict(self, source: ImageSource | Failed) -> Prediction | Failed:
        if isinstance(source, Failed):
            return source
        try:
            image = to_rgb(source, self.minimum_side, self.white_level)
            batch = to_batch(image, self._input_size)
            start = time.perf_counter()
            outputs = self._runtime.run(batch)
            return self._decide(source, image, outputs, time.perf_counter() - start)
        except ImageError as error:
            return Failed(source, error)

    def _decide(
        self, source: ImageSource, image: NDArray[np.uint8], outputs: dict[str, NDArray], seconds: float
    ) -> Prediction:
        path = Path(source) if isinstance(source, str | Path) else None
        score = single_value(outputs, "pred_score")
        anomaly_map = single_map(outputs, "anomaly_map")
        if not (math.isfinite(score) and np.isfinite(anomaly_map).all()):
            name = printable(path) if path else "An image"
            msg = f"{name} has no score: the model's output is not a number. Export with a higher precision."
            raise ImageError(msg)
        is_anomalous = bool(single_value(outputs, "pred_label")) if self.threshold is None else score > self.threshold
        _, pixel_threshold = self.decision_thresholds()
        mask = (
            single_map(outputs, "pred_mask").astype(bool) if pixel_threshold is None else anomaly_map > pixel_threshold
        )
        return Prediction(
            image=image,
            path=path,
            score=score,
            is_anomalous=is_anomalous,
            anomaly_map=anomaly_map.astype(np.float32),
            mask=match_verdict(mask, anomaly_map, is_anomalous),
            seconds=seconds,
            product=self.metadata.get("product"),
        )


def predict_in_order(
    predict: Callable[[GivenT], Prediction | Failed], images: Iterable[GivenT], at_once: int
) -> Generator[Prediction | Failed]:
    """Predict images in order, some at the same time. See :meth:`EdgeInferencer.results`."""
    # Alone, each is computed in the thread that loaded the model, where OpenMP is fastest.
    yield from map(predict, images) if at_once == 1 else map_ahead(predict, images, at_once - 1, at_once)


def without_failures(
    results: Generator[Prediction | Failed], on_failure: Callable[[ImageSource, ImageError], None] | None
) -> Generator[Prediction]:
    """Yield the predictions, and call ``on_failure`` in between or, without it, raise the first failure."""
    with closing(results):
        for result in results:
            if isinstance(result, Prediction):
                yield result
            elif on_failure is None:
                raise result.error
            else:
                on_failure(result.source, result.error)


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Read an image upright, following its EXIF data. More than 8 bits are reduced to 8.

    Args:
        path (str | Path): The image.

    Returns:
        NDArray[np.uint8]: RGB values of shape ``[H, W, 3]``.

    Raises:
        ImageError: If it can't be read, or the range of its values is unknown.
    """
    return to_rgb(path)


def to_rgb(source: ImageSource, minimum_side: int = 1, white_level: int | None = None) -> NDArray[np.uint8]:
    """Return the RGB values of an image, ``[H, W, 3]``. Files and images of Pillow are turned upright.

    For ``white_level`` and errors see :func:`~anomalib_fbclip.images.photographs.read_photograph`. What is not an image
    is a ``ValueError``.
    """
    if isinstance(source, PhotographSource):
        return read_photograph(source, upright=True, minimum_side=minimum_side, white_level=white_level)
    pixels = np.asarray(source)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:  # noqa: PLR2004
        what = f"{type(source).__name__}, {pixels.dtype} {list(pixels.shape)}"
        msg = f"An image must be a path, an image of Pillow, or an array of RGB values, uint8 [H, W, 3], not {what}."
        raise ValueError(msg)
    check_size("The image", pixels.shape[0], pixels.shape[1], minimum_side)
    return pixels


def to_batch(image: NDArray[np.uint8], size: tuple[int | None, int | None]) -> NDArray[np.float32]:
    """Convert RGB values ``[H, W, 3]`` to a graph's input, 0..1, ``[1, 3, H, W]``, of a height and width, if given.

    The image is resized as in torch: bicubic, antialiased, and without rounding to whole values.
    """
    channels = image.transpose(2, 0, 1).astype(np.float32) / 255
    height, width = (wanted or given for wanted, given in zip(size, image.shape, strict=False))
    if (height, width) != image.shape[:2]:
        resized = [Image.fromarray(channel).resize((width, height), Image.Resampling.BICUBIC) for channel in channels]
        channels = np.stack([np.asarray(channel) for channel in resized])
    return np.ascontiguousarray(channels[None])


def single_value(outputs: dict[str, NDArray], name: str) -> float:
    """Return an output of one image, ``[1]`` or ``[1, 1]``, as a number."""
    output = outputs[name]
    if output.size != 1:
        msg = f"The model's output {name} has shape {list(output.shape)}, not one value for one image."
        raise EdgeError(msg)
    return float(output.item())


def single_map(outputs: dict[str, NDArray], name: str) -> NDArray:
    """Return a map of one image, ``[1, h, w]`` or ``[1, 1, h, w]``, as ``[h, w]``."""
    output = outputs[name]
    if output.ndim < 2 or output.size != math.prod(output.shape[-2:]):  # noqa: PLR2004
        msg = f"The model's output {name} has shape {list(output.shape)}, not one map for one image."
        raise EdgeError(msg)
    return output.reshape(output.shape[-2:])
