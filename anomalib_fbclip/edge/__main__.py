# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Command line: predicts images with an exported model.

Exit codes: 0, all images were predicted; 1, some can't be read; 2, it could not begin, or had to stop.
"""

import argparse
import io
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO, cast, get_args

from anomalib_fbclip.contract.files import replacing
from anomalib_fbclip.contract.image_files import describe_skipped
from anomalib_fbclip.contract.photographs import describe_pages
from anomalib_fbclip.contract.records import Record, RecordWriter, Verdict, printable
from anomalib_fbclip.contract.thresholds import ADVICE_FOR_EXPORTED, describe_guess, parse_threshold

from .errors import EdgeError, ImageError
from .images import ImageSource, find_images
from .inferencer import EdgeInferencer, Prediction
from .overlay import draw_overlay
from .runtimes import Precision

PROGRESS_SECONDS = 2.0
"""Time that passes before progress is shown, and until it is shown again."""


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line, or exit with code 2 and a usage message."""
    parser = argparse.ArgumentParser(
        prog="python -m anomalib_fbclip.edge",
        description="Predict images with a model that 'anomalib export' wrote. torch and anomalib are not needed.",
        epilog="Exit codes: 0, all images were predicted; 1, some can't be read; 2, it could not begin or had to stop.",
    )
    parser.add_argument("model", type=Path, help="exported model: a .xml with the .bin beside it, or an .onnx")
    parser.add_argument("images", type=Path, help="an image, or a folder; the folders in it are looked through too")
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help="new folder for predictions.jsonl and predictions.csv, with a row for each image, and for the pictures: "
        "NAME.png for each NAME",
    )
    parser.add_argument("--device", default="AUTO", help="a device of OpenVINO: CPU, GPU, ... (default: AUTO)")
    parser.add_argument(
        "--precision",
        choices=get_args(Precision),
        default="f32",
        help="what OpenVINO computes in: f32, as the model was tested, or its default, which can be 16 bits and faster "
        "(default: f32)",
    )
    parser.add_argument(
        "--threshold",
        type=parse_threshold,
        help="an image with a higher score is anomalous (default: as the model was exported)",
    )
    parser.add_argument(
        "--pixel_threshold",
        type=parse_threshold,
        help="where the anomaly map is higher is the anomalous region (default: as the model was exported)",
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments (list[str] | None, optional): The arguments. ``None``: those of the process. Defaults to ``None``.

    Returns:
        int: The exit code.
    """
    options = parse_arguments(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may hold what the screen can't show
    try:
        return predict(options)
    except EdgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: stopped, because the results can't be written: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def predict(options: argparse.Namespace) -> int:
    """Predict the images.

    Args:
        options (argparse.Namespace): The command line.

    Returns:
        int: The exit code.

    Raises:
        EdgeError: If it can't begin, or the model fails.
        OSError: If a result can't be written.
    """
    if options.images.is_dir() and options.output.resolve() == options.images.resolve():
        msg = f"{options.output} holds the images: give another folder as --output."
        raise EdgeError(msg)
    tell(describe_skipped(options.images, exclude=options.output))
    images = find_images(options.images, exclude=options.output)
    tell(describe_pages(images))
    inferencer = EdgeInferencer(
        options.model,
        device=options.device,
        threshold=options.threshold,
        pixel_threshold=options.pixel_threshold,
        performance_hint="LATENCY" if len(images) == 1 else "THROUGHPUT",
        precision=options.precision,
    )
    pictures = Pictures(options)
    pictures.check_that_none_exists(images)
    with open_table(options.output) as table:
        print(inferencer.describe(), flush=True)
        results = Results(inferencer, table, pictures, len(images))
        for prediction in inferencer.stream(images, on_failure=results.add_failure):
            results.add(prediction)
        print(f"{results.summarize()}: {table.paths[0]}")
        if results.normal + results.anomalous:
            tell(describe_guess(inferencer.threshold_sources()[0], ADVICE_FOR_EXPORTED))
    return 1 if results.failed else 0


def tell(lines: Iterable[str]) -> None:
    """Print what the user should know, beside the results."""
    for line in lines:
        print(line, file=sys.stderr)


def open_table(output: Path) -> RecordWriter:
    """Make the output folder, if need be, and begin the table in it.

    Raises:
        EdgeError: If there is a table already, or the folder can't be written to.
    """
    try:
        return RecordWriter(output)
    except OSError as error:
        if isinstance(error, FileExistsError) and output.is_dir():
            msg = f"{output} holds predictions already: give another folder as --output."
        else:
            msg = f"{output} can't be written to: {error.strerror}. Give another folder as --output."
        raise EdgeError(msg) from error


class Pictures:
    """Knows where the picture of an image goes.

    Args:
        options (argparse.Namespace): The command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._output: Path = options.output
        self._root: Path = options.images if options.images.is_dir() else options.images.parent

    def path_of(self, image: Path) -> Path:
        """Give the path of an image's picture."""
        # The whole name is kept: a folder may hold part.jpg and part.png.
        return self._output / image.relative_to(self._root).with_name(f"{image.name}.png")

    def check_that_none_exists(self, images: Iterable[Path]) -> None:
        """Check that no picture takes the place of another file.

        Raises:
            EdgeError: If one would.
        """
        for picture in map(self.path_of, images):
            if picture.exists():
                msg = f"{printable(picture)} exists already: give another folder as --output."
                raise EdgeError(msg)


class Results:
    """Writes and shows what comes out, one image after the other.

    Args:
        inferencer (EdgeInferencer): The model.
        table (RecordWriter): The table.
        pictures (Pictures): Where the pictures go.
        total (int): Number of images.
    """

    def __init__(self, inferencer: EdgeInferencer, table: RecordWriter, pictures: Pictures, total: int) -> None:
        self.normal = 0
        self.anomalous = 0
        self.failed = 0
        self._table = table
        self._pictures = pictures
        self._threshold, self._pixel_threshold = inferencer.decision_thresholds()
        self._threshold_source, self._pixel_threshold_source = inferencer.threshold_sources()
        self._progress = Progress(total)

    def add(self, prediction: Prediction) -> None:
        """Take a prediction.

        Raises:
            OSError: If it can't be written.
        """
        path = cast("Path", prediction.path)
        picture = self._pictures.path_of(path)
        verdict: Verdict = "anomalous" if prediction.is_anomalous else "normal"
        height, width = prediction.image.shape[:2]
        record = Record(
            path.as_posix(),
            score=prediction.score,
            verdict=verdict,
            threshold=self._threshold,
            threshold_source=self._threshold_source,
            anomaly_map_max=float(prediction.anomaly_map.max()),
            pixel_threshold=self._pixel_threshold,
            pixel_threshold_source=self._pixel_threshold_source,
            width=width,
            height=height,
            regions=prediction.regions,
            seconds=prediction.seconds,
            picture=picture.as_posix(),
        )
        try:
            with replacing(picture) as temporary:
                draw_overlay(prediction).save(temporary, compress_level=1)  # four times as fast, and little larger
            self._table.write(record)
        except BaseException:  # an interrupt, too
            picture.unlink(missing_ok=True)
            raise
        self.anomalous += prediction.is_anomalous
        self.normal += not prediction.is_anomalous
        self._progress.show(f"{printable(path)}  {prediction.score:.3f}  {verdict}", sys.stdout)

    def add_failure(self, source: ImageSource, error: ImageError) -> None:
        """Take an image that can't be used.

        Raises:
            OSError: If that can't be written.
        """
        self._table.write(Record(cast("Path", source).as_posix(), error=str(error)))
        self.failed += 1
        self._progress.show(f"error: {error}", sys.stderr)

    def summarize(self) -> str:
        """Count the images."""
        total = self.normal + self.anomalous + self.failed
        images = "1 image" if total == 1 else f"{total} images"
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{images}, {self.anomalous} anomalous, {self.normal} normal{failed}"


class Progress:
    """Prints lines and, below them, how far it is; on a screen in place, elsewhere now and then.

    Args:
        total (int): Number of images.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._start = self._shown = time.monotonic()
        self._width = 0

    def show(self, line: str, file: TextIO) -> None:
        """Print the line of one more image, and how far it is, if it was not shown for a while."""
        self._done += 1
        if self._width:
            print(f"\r{' ' * self._width}\r", end="", file=sys.stderr, flush=True)
            self._width = 0
        print(line, file=file, flush=True)
        now = time.monotonic()
        if self._done == self._total or now - self._shown < PROGRESS_SECONDS:
            return
        status = f"{self._done} of {self._total} images, {self._done / (now - self._start):.1f} a second"
        if sys.stderr.isatty():
            print(status, end="", file=sys.stderr, flush=True)
            self._width = len(status)
        else:
            print(status, file=sys.stderr, flush=True)
            self._shown = now


if __name__ == "__main__":
    sys.exit(main())
