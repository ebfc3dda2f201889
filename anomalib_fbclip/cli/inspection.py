# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Inspection of photographs: predictions, pictures, and rows of the table."""

import signal
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple, cast

from PIL import Image

from anomalib_fbclip.concurrency import map_ahead
from anomalib_fbclip.errors import ANOMALOUS, FAILED, NORMAL, ImageError, InspectionError
from anomalib_fbclip.exported.inferencer import ImageSource, Prediction
from anomalib_fbclip.images.image_files import printable
from anomalib_fbclip.images.photographs import is_gray
from anomalib_fbclip.images.region_of_interest import Mask, RegionMasks, shade_outside
from anomalib_fbclip.results.false_alarms import is_wrong
from anomalib_fbclip.results.files import replacing
from anomalib_fbclip.results.records import Record, RecordWriter, Verdict
from anomalib_fbclip.results.regions import find_regions
from anomalib_fbclip.results.report.page import Entry
from anomalib_fbclip.results.report.pictures import MAX_SIDE, draw_picture, shrink_photograph

from .prediction import ComparedPrediction, Inferencer, MaskedImage, choose_enough
from .sources import PICTURES, Inputs, Item, Loaded

DRAWN_BEHIND = 2
"""Largest number of predictions that wait for their pictures."""


class _Predicted(NamedTuple):
    """The outcome for a photograph: a prediction or an error."""

    item: Item
    size: tuple[int, int] = (0, 0)
    prediction: Prediction | None = None
    error: str | None = None


class Inspection:
    """An inspection, which reads photographs ahead of the model, and draws pictures behind it.

    Args:
        inferencer (Inferencer): The model.
        folder (Path): The folder of the results.
        copies (Mapping[Path, Path]): Photographs that are copies of good ones, and the good ones.
        full_size (bool): Whether large photographs are read at full size.
        pictures (bool, optional): Whether to draw pictures. If not, an entry has only its record. Defaults to ``True``.
        label (Callable[[str], Verdict] | None, optional): Returns the true verdict of a photograph by its name.
            Defaults to ``None``.

    Attributes:
        counts (Counter[str]): Number of photographs by verdict: ``normal``, ``anomalous``, ``unknown`` or ``error``.
        colors (Counter[bool]): Number of gray photographs (``True``) and of others.
        scores (list[float]): Scores of the photographs that are not copies of good ones.
        is_interrupted (bool): Whether the user stopped it.
        labeled (list[Record]): Rows of labeled photographs.
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
        self.counts: Counter[str] = Counter()
        self.colors: Counter[bool] = Counter()
        self.scores: list[float] = []
        self.is_interrupted = False
        self._inferencer = inferencer
        self._folder = folder
        self._copies = copies
        self._pictures = pictures
        self._label = label
        self.labeled: list[Record] = []
        self._enough = None if full_size else choose_enough(inferencer.input_size)
        self._started: deque[Loaded] = deque()
        self._failures: deque[_Predicted] = deque()
        self._drawing: deque[Path] = deque()

    def entries(self, inputs: Inputs, show: Callable[[Record], None]) -> Iterator[Entry]:
        """Inspect, write the table, and yield each photograph's entry of the report.

        An interrupt ends it, so that the report has the photographs that are done.

        Args:
            inputs (Inputs): The photographs.
            show (Callable[[Record], None]): Called with each row of the table.

        Yields:
            Entry: The entries.

        Raises:
            EdgeError: If the model fails.
            OSError: If a result can't be written.
        """
        with (
            RecordWriter(self._folder) as table,
            self._stop_between_photographs(),
            self._until_interrupted(),
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
        """Predict and draw.

        If an error or a second interrupt ends it, pictures without a noted row are removed.

        Args:
            inputs (Inputs): The photographs.

        Yields:
            Entry: The entries. Call :meth:`note` or :meth:`drop` for each before taking the next.

        Raises:
            EdgeError: If the model fails.
            OSError: If a picture can't be written.
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
    def exit_code(self) -> int:
        """Exit code: that of the worst photograph."""
        if self.counts["error"]:
            return FAILED
        if self._label is not None:
            return ANOMALOUS if any(map(is_wrong, self.labeled)) else NORMAL
        return ANOMALOUS if self.counts["anomalous"] or self.counts["unknown"] else NORMAL

    @contextmanager
    def _until_interrupted(self) -> Generator[None]:
        """Suppress the error of a second interrupt."""
        try:
            yield
        except KeyboardInterrupt:
            self.is_interrupted = True

    @contextmanager
    def _stop_between_photographs(self) -> Generator[None]:
        """End the inspection after the current photograph at the first interrupt, and at once at the second."""

        def stop(*_: object) -> None:
            self.is_interrupted = True
            signal.signal(signal.SIGINT, signal.default_int_handler)

        previous = signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    def _predict(self, inputs: Inputs) -> Iterator[_Predicted]:
        """Yield the outcomes in order, until the user stops it."""
        for prediction in self._inferencer.stream(self._images(inputs), on_failure=self._fail):
            loaded = self._next_started()
            yield from self._flush_failures()
            if loaded.photograph is not None:
                self.colors[is_gray(prediction.image)] += 1
                yield _Predicted(loaded.item, loaded.photograph.size, prediction)
            if self.is_interrupted:
                return
        self._next_failures()
        yield from self._flush_failures()
        if self._started:
            msg = f"The model gave no verdict on {printable(self._started[0].item.name)}: inspect it again."
            raise InspectionError(msg)

    def _images(self, inputs: Inputs) -> Iterator[ImageSource]:
        """Yield the images, and keep their items for their predictions, which come in the same order."""
        for loaded in inputs.load(self._inferencer.minimum_side, self._enough, self._inferencer.white_level):
            try:
                image = self._image(loaded)
            except ImageError as error:
                self._started.append(loaded._replace(photograph=None, error=str(error)))
                continue
            self._started.append(loaded)
            if image is not None:
                yield image

    def _image(self, loaded: Loaded) -> ImageSource | None:
        """Return the model's input for a photograph; ``None`` if it could not be read."""
        if loaded.photograph is None:
            return None
        pixels, region = loaded.photograph.pixels, self._region(loaded.item)
        if region is None or not isinstance(self._inferencer.region, RegionMasks):
            return pixels
        # Only the model in torch has regions by photograph, and it takes this.
        return cast("ImageSource", MaskedImage(pixels, region))

    def _region(self, item: Item) -> Mask | None:
        """Return the region of a photograph; ``None``: everywhere."""
        region = self._inferencer.region
        if not isinstance(region, RegionMasks):
            return region
        return region.mask(Path(item.name), cast("tuple[int, int]", self._inferencer.input_size))

    def _fail(self, source: ImageSource, error: ImageError) -> None:
        del source
        self._failures.append(_Predicted(self._next_started().item, error=str(error)))

    def _next_started(self) -> Loaded:
        """Return the item of the next prediction, after noting the failures before it."""
        self._next_failures()
        return self._started.popleft()

    def _next_failures(self) -> None:
        while self._started and self._started[0].photograph is None:
            loaded = self._started.popleft()
            self._failures.append(_Predicted(loaded.item, error=loaded.error))

    def _flush_failures(self) -> Iterator[_Predicted]:
        while self._failures:
            yield self._failures.popleft()

    def _begin(self, predicted: Iterator[_Predicted]) -> Iterator[_Predicted]:
        """Note the path of each picture before it is drawn."""
        for one in predicted:
            self._drawing.append(self._picture(one.item))
            yield one

    def _picture(self, item: Item) -> Path:
        return self._folder / PICTURES / item.picture

    def _draw(self, predicted: _Predicted) -> Entry:
        """Draw the picture, if wanted, and return the report's entry. Runs in its own thread."""
        prediction, item = predicted.prediction, predicted.item
        if prediction is None:
            return Entry(Record(item.name, error=predicted.error))
        record = self._to_record(prediction, predicted)
        if not self._pictures:
            return Entry(record)
        photograph = shrink_photograph(Image.fromarray(prediction.image), MAX_SIDE)
        region = prediction.region if isinstance(prediction, ComparedPrediction) else None
        if (region := self._region(item) if region is None else region) is not None:
            photograph = shade_outside(photograph, region)
        with replacing(self._picture(item)) as temporary:
            draw_picture(photograph, prediction.anomaly_map, record).save(temporary, quality=90)
        nearest = prediction.nearest if isinstance(prediction, ComparedPrediction) else None
        return Entry(record, photograph, prediction.anomaly_map, nearest)

    def _to_record(self, prediction: Prediction, predicted: _Predicted) -> Record:
        compared = prediction if isinstance(prediction, ComparedPrediction) else None
        threshold, pixel_threshold = compared.thresholds if compared else self._inferencer.decision_thresholds()
        sources = compared.threshold_sources if compared else self._inferencer.threshold_sources()
        decided: Verdict = "anomalous" if prediction.is_anomalous else "normal"
        height, width = predicted.size
        copied = self._copies.get(Path(predicted.item.name))
        return Record(
            predicted.item.name,
            score=prediction.score,
            verdict="unknown" if compared and compared.is_unknown else decided,
            threshold=threshold,
            threshold_source=sources[0],
            anomaly_map_max=float(prediction.anomaly_map.max()),
            pixel_threshold=pixel_threshold,
            pixel_threshold_source=sources[1],
            width=width,
            height=height,
            regions=find_regions(prediction.mask, predicted.size),
            seconds=prediction.seconds,
            picture=self._picture(predicted.item).as_posix() if self._pictures else None,
            same_as=None if copied is None else copied.as_posix(),
            product=prediction.product,
            label=None if self._label is None else self._label(predicted.item.name),
        )
