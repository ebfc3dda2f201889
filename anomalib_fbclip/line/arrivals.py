# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Arrivals: complete photographs in a folder, and frames of a camera."""

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, NamedTuple, Protocol
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from anomalib_fbclip.errors import ImageError, InspectionError
from anomalib_fbclip.images.image_files import describe_folder, find_images, is_foreign, is_image, printable

from .pauses import Tell, growing_pauses

if TYPE_CHECKING:
    import cv2
    from watchfiles import Change

TEMPORARY_SUFFIXES = {".crdownload", ".download", ".filepart", ".part", ".partial", ".swp", ".temp", ".tmp"}
"""Of files that are still being written. A dot or a tilde before a name, or a tilde behind it, says the same."""

SETTLED = 0.5
"""Seconds for which a file has to stay as it is before it is taken for complete."""

POLL = 0.05
"""Seconds between two looks at what has changed."""

SEARCH_PAUSE, SEARCH_SHARE = 10, 50
"""Seconds between two searches of the whole folder, at least, and how many times as long as a search that is, at least.
Network shares do not tell of all changes."""

SMALL_FRAME = (64, 48)
"""Width and height to which frames are shrunk to be compared."""

CHANGE = 4
"""Mean difference, of 255, of two such gray frames from which there is something new to be seen. A camera's noise
makes less than 1, and a part that covers a twentieth of the frame and stands out by a third makes 4."""

Stopped = Callable[[], bool]


class Arrival(NamedTuple):
    """A photograph or a frame that is to be inspected.

    Attributes:
        name (str): What it is called in the table.
        source (Path | NDArray[np.uint8]): Its file, or RGB values of shape ``[H, W, 3]``.
        id (str): What it is known by. A file that is replaced by another one is another photograph.
    """

    name: str
    source: Path | NDArray[np.uint8]
    id: str


class Arrivals(Protocol):
    """A folder or a camera.

    Attributes:
        name (str): What it is called on the screen.
    """

    name: str

    def batches(self, is_stopped: Stopped) -> Iterator[Iterator[Arrival]]:
        """Wait for what arrives.

        Args:
            is_stopped (Stopped): Tells whether to end.

        Yields:
            Iterator[Arrival]: What can be inspected without waiting for more, at least one each time.

        Raises:
            InspectionError: If no more can arrive.
        """

    def has_changed(self, arrival: Arrival) -> bool:
        """Tell whether an arrival is another one by now, which will be given later."""

    def release(self, arrival: Arrival) -> None:
        """Note that an arrival is no longer being inspected."""


class _Seen(NamedTuple):
    """A file that may be incomplete: what it is known by, and since when."""

    id: str
    since: float


class Folder:
    """Complete photographs in a folder and the folders in it, each once.

    Args:
        path (Path): The folder.
        excluded (Iterable[Path]): Folders in it that are passed over.
        is_known (Callable[[str], bool]): Tells whether a photograph was inspected, by its id.
        tell (Tell): Is told when the folder goes and comes back.

    Raises:
        ModuleNotFoundError: If watchfiles is missing.
    """

    def __init__(self, path: Path, excluded: Iterable[Path], is_known: Callable[[str], bool], tell: Tell) -> None:
        import watchfiles

        logging.getLogger(watchfiles.__name__).setLevel(logging.WARNING)  # it logs each change
        self.name = printable(path)
        self._watch = watchfiles.watch
        self._path = path
        self._root = path.resolve()
        self._excluded = [folder.resolve() for folder in excluded if self._root in folder.resolve().parents]
        self._is_known = is_known
        self._tell = tell
        self._waiting: dict[Path, _Seen] = {}  # in the order of the times
        self._taken: set[str] = set()
        self._changes: Iterator[set[tuple[Change, str]]] | None = None
        self._watched: tuple[int, int] | None = None
        self._next_look = self._next_search = 0.0
        self._is_away = False
        self._closed: set[Path] = set()

    def batches(self, is_stopped: Stopped) -> Iterator[Iterator[Arrival]]:
        """Wait for complete photographs. See :class:`Arrivals`."""
        while not is_stopped():
            first = self._next()
            if first is None:
                time.sleep(POLL)
            else:
                yield self._batch(first, is_stopped)

    def has_changed(self, arrival: Arrival) -> bool:  # noqa: PLR6301 - a camera's frames do not change
        """Tell whether a file has been written since it was taken. See :class:`Arrivals`."""
        path = arrival.source
        return isinstance(path, Path) and path.is_file() and identify(path) != arrival.id

    def release(self, arrival: Arrival) -> None:
        """Note that a photograph is no longer being inspected. See :class:`Arrivals`."""
        self._taken.discard(arrival.id)

    def _batch(self, first: Arrival, is_stopped: Stopped) -> Iterator[Arrival]:
        arrival: Arrival | None = first
        while arrival is not None:
            yield arrival
            arrival = None if is_stopped() else self._next()

    def _next(self) -> Arrival | None:
        """Take the photograph that has been complete for longest; ``None`` if none is."""
        self._look()
        while self._waiting:
            path, seen = next(iter(self._waiting.items()))
            if time.monotonic() < seen.since + SETTLED:
                return None
            del self._waiting[path]
            identity = self._identify(path)
            if identity != seen.id:
                self._note([path])
            elif is_image(path):
                self._taken.add(seen.id)
                return Arrival(path.as_posix(), path, seen.id)
        return None

    def _look(self) -> None:
        """Note what has changed, and now and then all that is there."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + POLL
        if now >= self._next_search:
            self._note(self._search())
            end = time.monotonic()
            self._next_search = end + max(SEARCH_PAUSE, SEARCH_SHARE * (end - now))
        elif self._changes is not None:
            names = sorted(name for _, name in next(self._changes))
            self._note(path for name in names for path in self._find(self._path / Path(name).relative_to(self._root)))

    def _search(self) -> list[Path]:
        """Find all photographs, after it was made sure that changes are noticed from now on."""
        try:
            status = self._path.stat()
            if self._watched != (status.st_dev, status.st_ino):
                self._begin_to_watch()
                self._watched = (status.st_dev, status.st_ino)
            found = find_images(self._path, *self._excluded)
        except (OSError, ImageError) as error:
            self._watched = self._changes = None
            if not self._is_away:
                what = describe_folder(self._path, error) if isinstance(error, OSError) else str(error)
                self._tell(f"{what} Trying again until it is back.")
            self._is_away = True
            return []
        if self._is_away:
            self._tell(f"{self.name} is back.")
        self._is_away = False
        for path in found:
            if path.is_dir() and path not in self._closed:
                self._closed.add(path)
                self._tell(f"{printable(path)} can't be read: give this user access to the folder.")
        return [path for path in found if path.is_file()]

    def _begin_to_watch(self) -> None:
        """Have changes noticed. Where the system can't, there are still the searches."""
        changes = self._watch(
            self._root,
            watch_filter=None,
            debounce=1,
            step=1,
            rust_timeout=1,
            yield_on_timeout=True,
            ignore_permission_denied=True,
        )
        try:
            next(changes)  # it begins with the first look
        except OSError as error:
            self._tell(f"{self.name}: {error}. New photographs are found every {SEARCH_PAUSE} seconds.")
        else:
            self._changes = changes

    def _find(self, changed: Path) -> list[Path]:
        """Give the files that a change may be about: of a folder that was moved here, all that are in it."""
        if not changed.is_dir():
            return [changed]
        with suppress(ImageError):  # the next search tells of it
            return find_images(changed, *self._excluded)
        return []

    def _note(self, paths: Iterable[Path]) -> None:
        """Note files that may be new, or may have changed, the oldest first."""
        now = time.monotonic()
        found = [(path, identity) for path in paths if (identity := self._identify(path))]
        if len(found) > 1:
            found.sort(key=lambda item: (_modified(item[0]), item[0]))
        for path, identity in found:
            if path not in self._waiting or self._waiting[path].id != identity:
                self._waiting.pop(path, None)
                self._waiting[path] = _Seen(identity, now)

    def _identify(self, path: Path) -> str | None:
        """Give what a file is known by; ``None`` if it is nothing new, or has a temporary name."""
        relative = path.relative_to(self._path)
        if is_temporary(relative) or is_foreign(relative):
            return None
        identity = identify(path)
        if identity is None or identity in self._taken or self._is_known(identity):
            return None
        return None if any(path.resolve().is_relative_to(folder) for folder in self._excluded) else identity


def identify(path: Path) -> str | None:
    """Give what a photograph is known by: where it lies, its size, and when it was changed last.

    Args:
        path (Path): The file.

    Returns:
        str | None: 32 hexadecimal digits; ``None`` if there is no such file, or nothing in it yet.
    """
    try:
        status = path.stat()
    except OSError:
        return None
    if not status.st_size:
        return None
    key = f"\0{status.st_size} {status.st_mtime_ns}"
    return sha256(os.fsencode(os.path.realpath(path)) + key.encode()).hexdigest()[:32]


def is_temporary(path: Path) -> bool:
    """Tell by its name whether a file, or a folder that it is in, is still being written.

    Args:
        path (Path): The path, relative to the folder that is watched.
    """
    return any(part.startswith((".", "~")) or part.endswith("~") for part in path.parts) or (
        path.suffix.lower() in TEMPORARY_SUFFIXES
    )


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # it has gone
        return 0


class Camera:
    """Frames of a camera or a stream, read in a thread. The newest one waits; those before it are passed over.

    A camera that gives no more frames is opened again until it is back.

    Args:
        name (str): What it is called in the table.
        open_capture (Callable[[], cv2.VideoCapture]): Opens it, or raises ``InspectionError``.
        tell (Tell): Is told when the camera goes and comes back, and when frames are passed over for the first time.
        every (int): Of so many frames, one is taken.
        on_change (bool): Whether of those only such are taken that differ from the one that was taken before.

    Raises:
        InspectionError: If it can't be opened.
    """

    def __init__(
        self, name: str, open_capture: Callable[[], "cv2.VideoCapture"], tell: Tell, *, every: int, on_change: bool
    ) -> None:
        self.name = name
        self._open = open_capture
        self._tell = tell
        self._every = every
        self._on_change = on_change
        self._frames: deque[Arrival] = deque(maxlen=1)
        self._last: NDArray | None = None
        self._is_slow_told = True  # before it is asked for frames, the model is not ready
        self._error: BaseException | None = None
        self._stopped = Event()
        capture = open_capture()
        Thread(target=self._run, args=(capture,), daemon=True).start()  # nobody waits for a camera that says nothing

    def batches(self, is_stopped: Stopped) -> Iterator[Iterator[Arrival]]:
        """Wait for frames; each has its verdict before the next one. See :class:`Arrivals`."""
        self._is_slow_told = False
        while not is_stopped():
            if self._frames:
                yield iter([self._frames.popleft()])
            elif self._error is not None:
                raise self._error
            else:
                time.sleep(POLL)
        self._stopped.set()

    def has_changed(self, arrival: Arrival) -> bool:  # noqa: PLR6301 - a file may
        """Tell that a frame does not change. See :class:`Arrivals`."""
        del arrival
        return False

    def release(self, arrival: Arrival) -> None:
        """Do nothing: a frame comes once. See :class:`Arrivals`."""

    def _run(self, capture: "cv2.VideoCapture") -> None:
        try:
            for opened in self._captures(capture):
                self._read(opened)
                opened.release()
        except BaseException as error:  # noqa: BLE001 - whoever waits for frames is told
            self._error = error

    def _read(self, capture: "cv2.VideoCapture") -> None:
        """Read frames until there are no more."""
        number = 0
        while not self._stopped.is_set():
            is_read, frame = capture.read()
            if not is_read:
                return
            if number % self._every == 0 and self._is_new(np.asarray(frame)):
                self._offer(frame[..., ::-1].copy())
            number += 1

    def _captures(self, first: "cv2.VideoCapture") -> Iterator["cv2.VideoCapture"]:
        """Give the camera, and each time that it gives no more frames, the camera once it is back."""
        yield first
        while not self._stopped.is_set():
            self._tell(f"{self.name} gives no more frames: trying again until it is back.")
            for pause in growing_pauses():
                if self._stopped.wait(pause):
                    return
                with suppress(InspectionError):
                    capture = self._open()
                    self._tell(f"{self.name} is back.")
                    yield capture
                    break

    def _is_new(self, frame: NDArray) -> bool:
        """Tell whether a frame is to be taken."""
        if not self._on_change:
            return True
        import cv2

        small = cv2.resize(frame, SMALL_FRAME, interpolation=cv2.INTER_AREA).mean(axis=-1)
        if self._last is not None and np.abs(small - self._last).mean() <= CHANGE:
            return False
        self._last = small
        return True

    def _offer(self, rgb: NDArray[np.uint8]) -> None:
        if self._frames and not self._is_slow_told:
            self._is_slow_told = True
            self._tell(f"{self.name} is faster than the model: some frames are skipped.")
        time_of_it = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%fZ")
        self._frames.append(Arrival(f"{self.name}#{time_of_it}", rgb, uuid4().hex))
