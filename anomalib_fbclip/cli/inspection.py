# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Inspection of photographs: predictions, pictures, and rows of the table."""

import signal
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anomalib_fbclip.concurrency import map_ahead
from anomalib_fbclip.errors import ANOMALOUS, FAILED, NORMAL, CommandError, ImageError
from anomalib_fbclip.exported.inferencer import EdgeInferencer, Failed, ImageSource, Prediction
from anomalib_fbclip.images.image_files import printable
from anomalib_fbclip.images.photographs import Enough, Photograph, is_gray
from anomalib_fbclip.images.region_of_interest import Mask, RegionMasks, shade_outside
from anomalib_fbclip.results.files import replacing
from anomalib_fbclip.results.pictures import MAX_SIDE, draw_picture, shrink_photograph
from anomalib_fbclip.results.records import Record, RecordWriter, Verdict
from anomalib_fbclip.results.regions import find_regions
from anomalib_fbclip.results.report import Entry, NearestReference
from anomalib_fbclip.results.thresholds import is_wrong

from .sources import PICTURES, Inputs, Item

if TYPE_CHECKING:
    from .torch_inferencer import TorchInferencer

Inferencer: TypeAlias = "TorchInferencer | EdgeInferencer"
"""A model in torch, or an exported one."""

DRAWN_BEHIND = 2
"""Largest number of predictions that wait for their pictures."""

INPUTS_OF_MODEL = 2
"""Smallest ratio of a side of a reduced photograph to that of the model's input."""


@dataclass(frozen=True, eq=False)
class ComparedPrediction(Prediction):
    """A prediction by comparison with good photographs."""

    nearest: NearestReference
    thresholds: tuple[float, float]  # of images and places
    threshold_sources: tuple[str, str]  # in the words of the table
    region: Mask | None  # of the product; None: everywhere, or a region per photograph
    is_unknown: bool  # unlike all products: compared with the most similar one


class MaskedImage(NamedTuple):
    """RGB values of shape ``[H, W, 3]``, and their region of interest, of the size of the model's input."""

    pixels: NDArray[np.uint8]
    region: Mask


def choose_enough(input_size: tuple[int, int] | None) -> Enough | None:
    """Choose the size of a photograph that suffices for a model's input and for the picture; ``None``: full size."""
    if input_size is None:
        return None
    least = INPUTS_OF_MODEL * max(input_size)
    return Enough(longer=max(MAX_SIDE, least), shorter=least)


class _Outcome(NamedTuple):
    """The outcome for a photograph of a size: a prediction, which may still be awaited, or an error."""

    item: Item
    size: tuple[int, int] = (0, 0)
    prediction: Prediction | None = None
    error: str | None = None


@contextmanager
def noting(*signals: signal.Signals) -> Generator[list[int]]:
    """Yield a list of the signals that came. After the first one, they interrupt what is going on."""
    noted: list[int] = []

    def note(number: int, _: object) -> None:
        noted.append(number)
        for one in signals:
            signal.signal(one, signal.default_int_handler)

    previous = {one: signal.signal(one, note) for one in signals}
    try:
        yield noted
    finally:
        for one, handler in previous.items():
            signal.signal(one, handler)


class Inspection:
    """An inspection, which reads photographs ahead of the model, and draws pictures behind it.

    ``copies`` are photographs that are copies of good ones, and the good ones. Without ``pictures``, an entry has only
    its record. ``label`` returns the true verdict of a photograph by its name.
    """

    def __init__(
        self,
        inferencer: Inferencer,
        folder: Path,
        copies: Mapping[Path, Path],
        *,
        full_size: bool,
        pictures: bool = True,
        label: Callable[[str], Verdict] | None = None,
    ) -> None:
        self.counts: Counter[str] = Counter()  # by verdict, or "error"
        self.colors: Counter[bool] = Counter()  # gray photographs (True), and others
        self.scores: list[float] = []  # of the photographs that are not copies of good ones
        self.labeled: list[Record] = []
        self._inferencer = inferencer
        self._folder = folder
        self._copies = copies
        self._pictures = pictures
        self._label = label
        self._enough = None if full_size else choose_enough(inferencer.input_size)
        self._interrupts: list[int] = []
        self._awaited: deque[_Outcome] = deque()
        self._drawing: deque[Path] = deque()

    def entries(self, inputs: Inputs, show: Callable[[Record], None]) -> Iterator[Entry]:
        """Inspect, write the table, and yield each photograph's entry of the report.

        An interrupt ends it after the current photograph, so that the report has those that are done; a second one, at
        once. ``show`` is called with each row.
        """
        with (
            RecordWriter(self._folder) as table,
            noting(signal.SIGINT) as self._interrupts,
            suppress(KeyboardInterrupt),  # the second one
            closing(self.inspect(inputs)) as entries,
        ):
            for entry in entries:
                table.write(entry.record)
                self.note(entry.record)
                if entry.record.score is not None and entry.record.same_as is None:
                    self.scores.append(entry.record.score)
                if self._label is not None:
                    self.labeled.append(entry.record)
                show(entry.record)
                yield entry

    def inspect(self, inputs: Inputs) -> Generator[Entry]:
        """Predict and draw. Call :meth:`note` or :meth:`drop` for each entry before taking the next.

        If an error or a second interrupt ends it, pictures without a noted row are removed.
        """
        behind = DRAWN_BEHIND if inputs.at_once else 0
        entries = map_ahead(self._draw, self._begin(self._predict(inputs)), behind)
        try:
            with closing(entries):
                yield from entries
        finally:
            for picture in self._drawing:
                picture.unlink(missing_ok=True)
            self._drawing.clear()

    def note(self, record: Record) -> None:
        """Count a written row, and keep its picture."""
        self.counts[record.verdict or "error"] += 1
        self._drawing.popleft()

    def drop(self) -> None:
        """Remove the picture of a photograph that gets no row."""
        self._drawing.popleft().unlink(missing_ok=True)

    @property
    def is_interrupted(self) -> bool:
        """True if the user stopped it."""
        return bool(self._interrupts)

    @property
    def exit_code(self) -> int:
        """Exit code: that of the worst photograph."""
        if self.counts["error"]:
            return FAILED
        if self._label is not None:
            return ANOMALOUS if any(map(is_wrong, self.labeled)) else NORMAL
        return ANOMALOUS if self.counts["anomalous"] or self.counts["unknown"] else NORMAL

    def _predict(self, inputs: Inputs) -> Iterator[_Outcome]:
        """Yield the outcomes in order, until the user stops it."""
        with closing(self._images(inputs)) as images, closing(self._inferencer.results(images)) as results:
            for result in results:
                outcome = self._awaited.popleft()
                if isinstance(result, Failed):
                    yield outcome._replace(error=str(result.error))
                else:
                    self.colors[is_gray(result.image)] += 1
                    yield outcome._replace(prediction=result)
                if self.is_interrupted:
                    return
        if self._awaited:
            msg = f"The model gave no verdict on {printable(self._awaited[0].item.name)}: inspect it again."
            raise CommandError(msg)

    def _images(self, inputs: Inputs) -> Generator[ImageSource | Failed]:
        """Yield the images, and keep their outcomes for their results, which come in the same order."""
        load = inputs.load(self._inferencer.minimum_side, self._enough, self._inferencer.white_level)
        with closing(load) as loaded:
            for item, photograph in loaded:
                try:
                    image, size = self._to_image(item, photograph)
                except ImageError as error:
                    image, size = Failed(item.name, error), (0, 0)
                self._awaited.append(_Outcome(item, size))
                yield image
                if self.is_interrupted:
                    return

    def _to_image(
        self, item: Item, photograph: Photograph | ImageError
    ) -> tuple[ImageSource | Failed, tuple[int, int]]:
        """Return what the model takes, and its size. An ``ImageError`` says why there is nothing."""
        if isinstance(photograph, ImageError):
            raise photograph
        region = self._region(item)
        if region is not None and isinstance(self._inferencer.region, RegionMasks):
            # Only the model in torch has regions by photograph, and it takes this.
            return cast("ImageSource", MaskedImage(photograph.pixels, region)), photograph.size
        return photograph.pixels, photograph.size

    def _region(self, item: Item) -> Mask | None:
        """Return the region of a photograph; ``None``: everywhere."""
        region = self._inferencer.region
        if not isinstance(region, RegionMasks):
            return region
        return region.mask(Path(item.name), cast("tuple[int, int]", self._inferencer.input_size))

    def _begin(self, outcomes: Iterator[_Outcome]) -> Iterator[_Outcome]:
        """Note the path of each picture before it is drawn."""
        for outcome in outcomes:
            self._drawing.append(self._picture(outcome.item))
            yield outcome

    def _picture(self, item: Item) -> Path:
        return self._folder / PICTURES / item.picture

    def _draw(self, outcome: _Outcome) -> Entry:
        """Draw the picture, if wanted, and return the report's entry. Runs in its own thread."""
        item, size, prediction, error = outcome
        if prediction is None:
            return Entry(Record(item.name, error=error))
        record = self._to_record(item, size, prediction)
        if not self._pictures:
            return Entry(record)
        compared = prediction if isinstance(prediction, ComparedPrediction) else None
        photograph = shrink_photograph(Image.fromarray(prediction.image), MAX_SIDE)
        region = compared.region if compared else None
        if region is None:
            region = self._region(item)
        if region is not None:
            photograph = shade_outside(photograph, region)
        with replacing(self._picture(item)) as temporary:
            draw_picture(photograph, prediction.anomaly_map, record).save(temporary, quality=90)
        return Entry(record, photograph, prediction.anomaly_map, compared.nearest if compared else None)

    def _to_record(self, item: Item, size: tuple[int, int], prediction: Prediction) -> Record:
        compared = prediction if isinstance(prediction, ComparedPrediction) else None
        threshold, pixel_threshold = compared.thresholds if compared else self._inferencer.decision_thresholds()
        sources = compared.threshold_sources if compared else self._inferencer.threshold_sources()
        decided: Verdict = "anomalous" if prediction.is_anomalous else "normal"
        height, width = size
        copied = self._copies.get(Path(item.name))
        return Record(
            item.name,
            score=prediction.score,
            verdict="unknown" if compared and compared.is_unknown else decided,
            threshold=threshold,
            threshold_source=sources[0],
            anomaly_map_max=float(prediction.anomaly_map.max()),
            pixel_threshold=pixel_threshold,
            pixel_threshold_source=sources[1],
            width=width,
            height=height,
            regions=find_regions(prediction.mask, size),
            seconds=prediction.seconds,
            picture=self._picture(item).as_posix() if self._pictures else None,
            same_as=None if copied is None else copied.as_posix(),
            product=prediction.product,
            label=None if self._label is None else self._label(item.name),
        )
