# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Writes what comes out of an inspection: the table, the pictures and the report."""

import signal
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from anomalib_fbclip.contract.files import replacing
from anomalib_fbclip.contract.records import Record, RecordWriter
from anomalib_fbclip.edge.errors import ImageError
from anomalib_fbclip.edge.images import ImageSource
from anomalib_fbclip.edge.inferencer import Prediction
from anomalib_fbclip.report.page import Entry
from anomalib_fbclip.report.pictures import draw_picture

from .prediction import ComparedPrediction, Inferencer
from .sources import Inputs, Item


class Results:
    """Predicts what is to be inspected, and writes table and pictures as the predictions come.

    Args:
        inferencer (Inferencer): The model.
        folder (Path): The folder of the results.
        show (Callable[[Record], None]): Called with each row of the table.

    Attributes:
        counts (Counter[str]): Number of photographs that are ``normal``, ``anomalous`` and an ``error``.
        is_interrupted (bool): Whether the user stopped it.
    """

    def __init__(self, inferencer: Inferencer, folder: Path, show: Callable[[Record], None]) -> None:
        self.counts: Counter[str] = Counter()
        self.is_interrupted = False
        self._inferencer = inferencer
        self._folder = folder
        self._show = show
        self._started: deque[Item] = deque()
        self._failures: deque[Record] = deque()

    def entries(self, inputs: Inputs) -> Iterator[Entry]:
        """Predict, and give what the report shows of each photograph.

        A user who stops it gets the report of what there is.

        Args:
            inputs (Inputs): What is inspected.

        Yields:
            Entry: Photograph by photograph.

        Raises:
            EdgeError: If the model fails.
            OSError: If a result can't be written.
        """
        with RecordWriter(self._folder) as table, self._stop_between_photographs():
            predictions = self._inferencer.stream(self._sources(inputs), on_failure=self._fail)
            try:
                for prediction in predictions:
                    yield from self._flush_failures(table)
                    yield self._add(prediction, table)
                    if self.is_interrupted:
                        break
                yield from self._flush_failures(table)
            except KeyboardInterrupt:
                self.is_interrupted = True

    @contextmanager
    def _stop_between_photographs(self) -> Generator[None]:
        """Have an interrupt end the inspection after a photograph, with a whole report; a second one at once."""

        def stop(*_: object) -> None:
            self.is_interrupted = True
            signal.signal(signal.SIGINT, signal.default_int_handler)

        previous = signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    def _sources(self, inputs: Inputs) -> Iterator[ImageSource]:
        """Give the images, and keep what they are called until their predictions come, which is in the same order."""
        for item in inputs:
            self._started.append(item)
            yield item.source

    def _fail(self, source: ImageSource, error: ImageError) -> None:
        del source
        self._failures.append(Record(self._started.popleft().name, error=str(error)))

    def _flush_failures(self, table: RecordWriter) -> Iterator[Entry]:
        while self._failures:
            record = self._failures.popleft()
            self._write(record, table)
            yield Entry(record)

    def _add(self, prediction: Prediction, table: RecordWriter) -> Entry:
        item = self._started.popleft()
        picture = self._folder / "images" / item.picture
        record = self._to_record(prediction, item.name, picture)
        photograph = Image.fromarray(prediction.image)
        try:
            with replacing(picture) as temporary:
                draw_picture(photograph, prediction.anomaly_map, record).save(temporary, quality=90)
            self._write(record, table)
        except BaseException:  # an interrupt, too
            picture.unlink(missing_ok=True)
            raise
        nearest = prediction.nearest if isinstance(prediction, ComparedPrediction) else None
        return Entry(record, photograph, prediction.anomaly_map, nearest)

    def _to_record(self, prediction: Prediction, name: str, picture: Path) -> Record:
        threshold, pixel_threshold = self._inferencer.decision_thresholds()
        threshold_source, pixel_threshold_source = self._inferencer.threshold_sources()
        height, width = prediction.image.shape[:2]
        return Record(
            name,
            score=prediction.score,
            verdict="anomalous" if prediction.is_anomalous else "normal",
            threshold=threshold,
            threshold_source=threshold_source,
            anomaly_map_max=float(prediction.anomaly_map.max()),
            pixel_threshold=pixel_threshold,
            pixel_threshold_source=pixel_threshold_source,
            width=width,
            height=height,
            regions=prediction.regions,
            seconds=prediction.seconds,
            picture=picture.as_posix(),
        )

    def _write(self, record: Record, table: RecordWriter) -> None:
        table.write(record)
        self.counts[record.verdict or "error"] += 1
        self._show(record)
