# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Inputs of an inspection: photographs, and the frames of videos and cameras."""

import os
import re
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from anomalib_fbclip.concurrency import map_ahead
from anomalib_fbclip.errors import CommandError, ImageError
from anomalib_fbclip.images.image_files import IMAGE_SUFFIXES, LONGEST_SIGNATURE, VIDEO, find_images, kind_of, printable
from anomalib_fbclip.images.photographs import Enough, Photograph, describe_pages, read_reduced

from .arguments import without_password

if TYPE_CHECKING:
    import cv2

PICTURES = "images"
"""Folder of the pictures, inside that of the results."""

READ_AHEAD = 2
"""Number of photographs to read ahead."""

COUNTED_SUFFIXES = {".avi", ".m4v", ".mov", ".mp4"}
"""Suffixes of videos that store the number of frames. Others store the duration."""

LONGEST_NAME, KEPT_OF_LONG_NAME = 240, 200
"""Longest name of a picture in bytes, and the bytes to keep of a longer one. File systems allow 255; a number may come
before the name."""

MOST_LOST = 1000
"""Number of consecutive undecodable frames at which to give up a video."""


class Item(NamedTuple):
    """A photograph or a frame."""

    name: str  # in the table
    source: Path | NDArray[np.uint8] | ImageError  # a file, or RGB values [H, W, 3]
    picture: Path  # in the folder of the pictures


@dataclass(frozen=True)
class Frames:
    """Frames of a video, a stream or a camera, possibly without end.

    A frame that can't be decoded is an error if others follow. So is a missing end.
    """

    name: str
    capture: "cv2.VideoCapture"
    folder: Path  # of their pictures, in the folder of the pictures
    is_live: bool  # a stream or a camera, which have no end

    def __iter__(self) -> Iterator[Item]:
        """Yield the frames, counted from 1."""
        import cv2

        # The number of frames that the header states; 0 if it states none.
        promised = max(0, int(self.capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        number = last = 0
        while number == last or (number < promised and number - last < MOST_LOST):
            number += 1
            is_read, frame = self.capture.read()
            if is_read:
                for lost in range(last + 1, number):
                    yield self._fail(f"{self.name}#{lost}", "can't be decoded: the video is damaged here.")
                last = number
                rgb = frame[..., ::-1].copy()
                yield Item(f"{self.name}#{number}", rgb, self.folder / f"{number:06}.jpg")
        # Where OpenCV computes that number from the duration, it may be wrong by a second's frames.
        is_counted = Path(self.name).suffix.lower() in COUNTED_SUFFIXES
        slack = 0 if is_counted else self.capture.get(cv2.CAP_PROP_FPS)
        if promised > last + slack or not last:
            what = (
                f"ends after {last} of {promised or 'its'} frames: it is damaged or cut off. Copy or record it again."
            )
            yield self._fail(self.name, what)
        elif self.is_live and not promised:
            yield self._fail(self.name, f"gave no more frames after {last}: check the connection.")

    def _fail(self, name: str, what: str) -> Item:
        return Item(name, ImageError(f"{printable(name)} {what}"), self.folder / name_file(name, ".jpg"))


Part = list[Item] | Frames | Iterator[Item]
"""Photographs, the frames of a video or a camera, or arrivals."""


class Inputs(NamedTuple):
    """All inputs of an inspection, and a note on each photograph with several pages, of which the first is read."""

    parts: list[Part]
    notes: list[str]

    @property
    def total(self) -> int | None:
        """Number of photographs; ``None`` if unknown, as for frames."""
        lengths = [len(part) for part in self.parts if isinstance(part, list)]
        return sum(lengths) if len(lengths) == len(self.parts) else None

    @property
    def at_once(self) -> bool:
        """True if several may be computed at the same time. Frames are computed one by one."""
        return self.total != 1 and not any(isinstance(part, Frames) for part in self.parts)

    @property
    def files(self) -> list[Path]:
        """Files of the photographs."""
        return [Path(item.name) for part in self.parts if isinstance(part, list) for item in part]

    def load(
        self, minimum_side: int, enough: Enough | None, white_level: int | None
    ) -> Generator[tuple[Item, Photograph | ImageError]]:
        """Read the photographs, a few of them ahead, and frames as they come. See :func:`read_reduced`."""

        def read(item: Item) -> tuple[Item, Photograph | ImageError]:
            source = item.source
            if isinstance(source, ImageError):
                return item, source
            if isinstance(source, np.ndarray):
                height, width = source.shape[:2]
                return item, Photograph(source, (height, width))
            try:
                return item, read_reduced(source, enough=enough, minimum_side=minimum_side, white_level=white_level)
            except ImageError as error:
                return item, error

        for part in self.parts:
            # Frames are not read ahead: a camera must give its newest one.
            yield from map(read, part) if isinstance(part, Frames) else map_ahead(read, part, READ_AHEAD)


def find_inputs(arguments: Sequence[str], excluded: Sequence[Path]) -> Inputs:
    """Find photographs, each once, in folders but the excluded ones, and open videos, streams and cameras."""
    parts: list[Part] = []
    notes: list[str] = []
    seen: set[str] = set()
    places: set[str] = set()
    for argument in arguments:
        path = Path(argument)
        is_folder = path.is_dir()
        frames = None if is_folder else _open_frames(argument, places if len(arguments) > 1 else None)
        if frames:
            parts.append(frames)
            continue
        paths = []
        for file in _find_photographs(path, excluded):
            real = os.path.realpath(file)
            if real not in seen:
                seen.add(real)
                paths.append(file)
        notes += describe_pages(paths)
        folder = _take_place(path.resolve().name, places) if is_folder and len(arguments) > 1 else Path()
        # The whole name is kept: a folder may hold part.jpg and part.png.
        names = [fit_name(file.name, ".jpg") for file in paths]
        pictures = [
            folder / file.relative_to(path).with_name(name) if is_folder else _take_place(name, places)
            for file, name in zip(paths, names, strict=True)
        ]
        items = [Item(file.as_posix(), file, picture) for file, picture in zip(paths, pictures, strict=True)]
        if parts and isinstance(parts[-1], list):
            parts[-1] += items  # so that they are read ahead
        else:
            parts.append(items)
    return Inputs(parts, notes)


def _take_place(name: str, taken: set[str]) -> Path:
    """Return the name, with a number before it if it is taken; upper and lower case are the same name."""
    free = next(
        place
        for place in (name if number == 1 else f"{number}-{name}" for number in count(1))
        if place.casefold() not in taken
    )
    taken.add(free.casefold())
    return Path(free)


def fit_name(name: str, suffix: str = "") -> str:
    """Append a suffix to a name, and shorten one that is too long for a file system. Different names stay different."""
    whole = os.fsencode(name)
    if len(whole) + len(suffix) <= LONGEST_NAME:
        return name + suffix
    return f"{whole[:KEPT_OF_LONG_NAME].decode(errors='ignore')}-{sha256(whole).hexdigest()[:16]}{suffix}"


def name_file(address: str, suffix: str = "") -> str:
    """Make a file's name of the last part of the name of a video, a stream or a camera."""
    return fit_name(re.sub(r"[^\w.-]+", "-", Path(address).name), suffix)


def _find_photographs(path: Path, excluded: Sequence[Path]) -> list[Path]:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        msg = f"{printable(path)} does not exist: give a photograph, a folder of them, a video, or a camera number."
        raise CommandError(msg) from error
    except OSError as error:
        msg = f"{printable(path)} can't be reached: {error.strerror}. Give this user access to its folder."
        raise CommandError(msg) from error
    if not (path.is_file() or path.is_dir()):
        msg = f"{printable(path)} is neither a file nor a folder: give a file, a folder, or a camera number."
        raise CommandError(msg)
    photographs = find_images(path, *excluded)
    if not photographs:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        msg = f"{printable(path)} has no photographs to inspect: give a folder with {suffixes} files."
        raise CommandError(msg)
    return photographs


def _open_frames(argument: str, places: set[str] | None) -> Frames | None:
    """Open a stream, a camera or a video; return ``None`` for anything else.

    ``places`` are taken names in the folder of the pictures. ``None``: it is the only input.
    """
    path = Path(argument)
    live = find_live(argument)
    if live is not None:
        name, capture = live.name, live.open()
    elif _is_video(path):
        name, capture = path.as_posix(), _open_capture(argument, printable(path))
    else:
        return None
    folder = Path() if places is None else _take_place(name_file(name), places)
    return Frames(name, capture, folder, is_live=live is not None)


class Live(NamedTuple):
    """A camera by its number, or a stream by its address."""

    name: str  # in the table, without a password
    source: int | str

    def open(self) -> "cv2.VideoCapture":
        """Open it. An ``CommandError`` says why it can't be opened."""
        return _open_capture(self.source, self.name.capitalize() if isinstance(self.source, int) else self.name)


def find_live(argument: str) -> Live | None:
    """Return the camera or stream that an argument names; ``None`` for anything else."""
    if re.match(r"[a-z][a-z0-9+.-]+://", argument, re.IGNORECASE):
        return Live(without_password(argument), argument)
    if argument.isdecimal() and not Path(argument).exists():
        return Live(f"camera {argument}", int(argument))
    return None


def _is_video(path: Path) -> bool:
    if not os.path.isfile(path):  # noqa: PTH113 - pathlib raises where the folder can't be entered
        return False  # to open a pipe is to wait
    try:
        with path.open("rb") as file:
            return kind_of(path, file.read(LONGEST_SIGNATURE)) == VIDEO
    except OSError:  # the reader reports it
        return False


def _open_capture(source: int | str, name: str) -> "cv2.VideoCapture":
    if not find_spec("cv2"):
        msg = f"reading {name} needs OpenCV: pip install opencv-python-headless"
        raise CommandError(msg)
    os.environ["OPENCV_FFMPEG_LOGLEVEL"] = "-8"  # OpenCV and FFmpeg write to the screen themselves
    import cv2

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    capture = cv2.VideoCapture(source)
    if not capture.isOpened():
        msg = f"{name} can't be opened: check the connection, or give a video that OpenCV can read."
        raise CommandError(msg)
    return capture
