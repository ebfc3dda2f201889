# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""What is inspected: photographs, and the frames of videos and cameras."""

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from anomalib_fbclip.contract.ahead import map_ahead
from anomalib_fbclip.contract.errors import ImageError
from anomalib_fbclip.contract.image_files import IMAGE_SUFFIXES, describe_skipped, find_images
from anomalib_fbclip.contract.photographs import Enough, Photograph, describe_pages, read_reduced
from anomalib_fbclip.contract.records import printable
from anomalib_fbclip.edge.images import ImageSource

from .errors import InspectionError

if TYPE_CHECKING:
    import cv2

READ_AHEAD = 2
"""Photographs that are read before they are needed."""

VIDEO_SUFFIXES = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"}


class Item(NamedTuple):
    """A photograph or a frame.

    Attributes:
        name (str): What it is called in the table.
        source (ImageSource): The file, or RGB values of shape ``[H, W, 3]``.
        picture (Path): Where its picture goes, below the folder of the pictures.
    """

    name: str
    source: ImageSource
    picture: Path


class Loaded(NamedTuple):
    """An item that was read.

    Attributes:
        item (Item): The item.
        photograph (Photograph | None): What it holds; ``None`` if it can't be read.
        error (str | None): Why it can't be read.
    """

    item: Item
    photograph: Photograph | None
    error: str | None = None


class Files:
    """Photographs in files.

    Args:
        paths (Sequence[Path]): The files, each once.
        root (Path): The folder that was given, or the folder of the file that was given.
        folder (Path): Folder of their pictures, below the folder of the pictures.
    """

    def __init__(self, paths: Sequence[Path], root: Path, folder: Path) -> None:
        self._paths = paths
        self._root = root
        self._folder = folder

    def __len__(self) -> int:
        """Give the number of photographs."""
        return len(self._paths)

    def __iter__(self) -> Iterator[Item]:
        """Give the photographs."""
        for path in self._paths:
            # The whole name is kept: a folder may hold part.jpg and part.png.
            picture = self._folder / path.relative_to(self._root).with_name(f"{path.name}.jpg")
            yield Item(path.as_posix(), path, picture)


class Frames:
    """Frames of a video or a camera. There may be no end of them.

    Args:
        name (str): What the video or the camera is called.
        capture (cv2.VideoCapture): OpenCV's reader of it.
        folder (Path): Folder of their pictures, below the folder of the pictures.
    """

    def __init__(self, name: str, capture: "cv2.VideoCapture", folder: Path) -> None:
        self._name = name
        self._capture = capture
        self._folder = folder

    def __iter__(self) -> Iterator[Item]:
        """Give the frames, counted from 1."""
        number = 0
        while True:
            is_read, frame = self._capture.read()
            if not is_read:
                return
            number += 1
            rgb = frame[..., ::-1].copy()
            yield Item(f"{self._name}#{number}", rgb, self._folder / f"{number:06}.jpg")


class Inputs(NamedTuple):
    """All that is inspected.

    Attributes:
        parts (list[Files | Frames]): One for each argument.
        notes (list[str]): A line for each image whose kind is not read, or of which only the first page is.
    """

    parts: list[Files | Frames]
    notes: list[str]

    @property
    def total(self) -> int | None:
        """Number of photographs; ``None`` where there are frames, whose number is not known."""
        lengths = [len(part) for part in self.parts if isinstance(part, Files)]
        return sum(lengths) if len(lengths) == len(self.parts) else None

    @property
    def files(self) -> list[Path]:
        """Files of the photographs."""
        return [Path(item.name) for part in self.parts if isinstance(part, Files) for item in part]

    def __iter__(self) -> Iterator[Item]:  # type: ignore[override] # of the items
        """Give the photographs and frames."""
        for part in self.parts:
            yield from part

    def load(self, minimum_side: int, enough: Enough | None) -> Iterator[Loaded]:
        """Read the photographs, a few of them ahead, and frames as they come.

        Args:
            minimum_side (int): Pixels that each side of a photograph must have.
            enough (Enough | None): Size of a photograph that is enough. ``None``: the whole size is needed.

        Yields:
            Loaded: Photographs and frames.
        """
        load = partial(_load, minimum_side=minimum_side, enough=enough)
        for part in self.parts:
            # A camera's frame is to be the newest one when it is asked for.
            yield from map_ahead(load, part, READ_AHEAD) if isinstance(part, Files) else map(load, part)


def _load(item: Item, minimum_side: int, enough: Enough | None) -> Loaded:
    if not isinstance(item.source, str | Path | Image.Image):
        height, width = item.source.shape[:2]
        return Loaded(item, Photograph(item.source, (height, width)))
    try:
        return Loaded(item, read_reduced(item.source, enough=enough, minimum_side=minimum_side))
    except ImageError as error:
        return Loaded(item, None, str(error))


def find_inputs(arguments: Iterable[str], excluded: Sequence[Path]) -> Inputs:
    """Find what is inspected.

    Args:
        arguments (Iterable[str]): Photographs, folders, videos, and numbers of cameras.
        excluded (Sequence[Path]): Folders inside those folders that are passed over.

    Returns:
        Inputs: What was found, each photograph once.

    Raises:
        InspectionError: If there is no such file, a folder has no photographs, or a video can't be opened.
    """
    parts: list[Files | Frames] = []
    notes: list[str] = []
    seen: set[Path] = set()
    arguments = list(arguments)
    for index, argument in enumerate(arguments):
        path = Path(argument)
        folder = Path(f"{index + 1}-{path.resolve().name}") if len(arguments) > 1 else Path()
        if not path.exists() and argument.isdecimal():
            parts.append(Frames(f"camera {argument}", _open_capture(int(argument), f"Camera {argument}"), folder))
        elif path.suffix.lower() in VIDEO_SUFFIXES and path.is_file():
            parts.append(Frames(path.as_posix(), _open_capture(str(path), printable(path)), folder))
        else:
            paths = [file for file in _find_photographs(path, excluded) if file.resolve() not in seen]
            seen.update(file.resolve() for file in paths)
            parts.append(Files(paths, path if path.is_dir() else path.parent, folder))
            notes += [*describe_skipped(path), *describe_pages(paths)]
    return Inputs(parts, notes)


def _find_photographs(path: Path, excluded: Sequence[Path]) -> list[Path]:
    if not path.exists():
        msg = f"{printable(path)} does not exist: give a photograph, a folder of them, a video, or a camera's number."
        raise InspectionError(msg)
    inside = {folder.resolve() for folder in excluded if path.resolve() in folder.resolve().parents}
    photographs = [file for file in find_images(path) if inside.isdisjoint(file.resolve().parents)]
    if not photographs:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        msg = f"{printable(path)} has no photographs to inspect: give a folder with {suffixes} files."
        raise InspectionError(msg)
    return photographs


def _open_capture(source: int | str, name: str) -> "cv2.VideoCapture":
    if not find_spec("cv2"):
        msg = f"{name} needs OpenCV to be read: pip install opencv-python-headless"
        raise InspectionError(msg)
    os.environ["OPENCV_FFMPEG_LOGLEVEL"] = "-8"  # OpenCV and FFmpeg write to the screen themselves
    import cv2

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    capture = cv2.VideoCapture(source)
    if not capture.isOpened():
        msg = f"{name} can't be opened: give a video that OpenCV reads, or the number of a camera that is connected."
        raise InspectionError(msg)
    return capture
