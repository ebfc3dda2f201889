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
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from anomalib_fbclip.concurrency import growing_pauses
from anomalib_fbclip.errors import CommandError, ImageError
from anomalib_fbclip.images.image_files import describe_folder, find_images, is_foreign, is_image, printable

if TYPE_CHECKING:
    import cv2
    from watchfiles import Change

TEMPORARY_SUFFIXES = {".crdownload", ".download", ".filepart", ".part", ".partial", ".swp", ".temp", ".tmp"}
"""Suffixes of unfinished files. A name that begins with a dot or a tilde, or ends with a tilde, marks one, too."""

SETTLED = 0.5
"""Seconds for which a file must not change before it counts as complete."""

POLL = 0.05
"""Seconds between two checks for changes."""

SEARCH_PAUSE, SEARCH_SHARE = 10, 50
"""Smallest pause between two searches of the whole folder: in seconds, and as a multiple of the time a search takes.
Network shares do not report all changes."""

SMALL_FRAME = (64, 48)
"""Width and height to which frames are shrunk for the comparison."""

CHANGE = 4
"""Mean difference of two shrunken gray frames (0..255) above which the second is new. Camera noise makes less than 1; a
part that covers a twentieth of the frame and differs from it by a third of the range makes 4."""

Stopped = Callable[[], bool]


class Arrival(NamedTuple):
    """A photograph or a frame to inspect."""

    name: str  # in the table
    source: Path | NDArray[np.uint8]  # a file, or RGB values [H, W, 3]
    id: str  # a file with new content gets a new one


class _Seen(NamedTuple):
    """A file that may be incomplete: its identifier, and the time when it was first seen."""

    id: str
    since: float


class Folder:
    """Complete photographs in a folder and its subfolders, each once.

    ``is_known`` returns whether the photograph with an id was inspected. ``tell`` shows when the folder goes and comes
    back.
    """

    def __init__(
        self, path: Path, excluded: Iterable[Path], is_known: Callable[[str], bool], tell: Callable[[str], None]
    ) -> None:
        import watchfiles

        logging.getLogger(watchfiles.__name__).setLevel(logging.WARNING)  # it logs each change
        self.name = printable(path)
        self._watch = watchfiles.watch
        self._path = path
        self._root = path.resolve()
        self._excluded = [folder.resolve() for folder in excluded if self._root in folder.resolve().parents]
        self._is_known = is_known
        self._tell = tell
        self._waiting: dict[Path, _Seen] = {}  # the oldest first
        self._taken: set[str] = set()
        self._changes: Iterator[set[tuple[Change, str]]] | None = None
        self._watched: tuple[int, int] | None = None
        self._next_look = self._next_search = 0.0
        self._closed: set[Path] = set()

    @property
    def is_unread(self) -> bool:
        """True if the folder, or one in it, could not be read at the last search."""
        return bool(self._closed)

    def batches(self, is_stopped: Stopped) -> Iterator[Iterator[Arrival]]:
        """Wait for complete photographs, and yield one with those that are complete after it."""
        while not is_stopped():
            first = self._next()
            if first is None:
                time.sleep(POLL)
            else:
                yield self._batch(first, is_stopped)

    def release(self, arrival: Arrival) -> None:
        """Note that a photograph is no longer being inspected."""
        self._taken.discard(arrival.id)

    def _batch(self, first: Arrival, is_stopped: Stopped) -> Iterator[Arrival]:
        arrival: Arrival | None = first
        while arrival is not None:
            yield arrival
            arrival = None if is_stopped() else self._next()

    def _next(self) -> Arrival | None:
        """Take the photograph that has been complete longest; ``None`` if none is complete."""
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
        """Note changed files, and from time to time all files."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + POLL
        if now >= self._next_search:
            self._note(self._search())
            end = time.monotonic()
            self._next_search = end + max(SEARCH_PAUSE, SEARCH_SHARE * (end - now))
        elif self._changes is not None:
            names = self._take_changes(self._changes)
            self._note(path for name in names for path in self._find(self._path / Path(name).relative_to(self._root)))

    def _search(self) -> list[Path]:
        """Watch the folder, if it is not watched yet, and find all photographs in it."""
        try:
            status = self._path.stat()
            if self._watched != (status.st_dev, status.st_ino):
                self._begin_to_watch()
                self._watched = (status.st_dev, status.st_ino)
            found = find_images(self._path, *self._excluded)
        except (OSError, ImageError) as error:
            self._watched = self._changes = None
            if self._path not in self._closed:
                what = describe_folder(self._path, error) if isinstance(error, OSError) else str(error)
                self._tell(f"{what} Trying again until it is back.")
            self._closed = {self._path}
            return []
        if self._path in self._closed:
            self._tell(f"{self.name} is back.")
        closed = {path for path in found if path.is_dir()}
        for path in sorted(closed - self._closed):
            self._tell(f"{printable(path)} can't be read: give this user access to the folder.")
        self._closed = closed
        return [path for path in found if path.is_file()]

    def _begin_to_watch(self) -> None:
        """Watch the folder for changes."""
        self._changes = self._watch(
            self._root,
            watch_filter=None,
            debounce=1,
            step=1,
            rust_timeout=1,
            yield_on_timeout=True,
            ignore_permission_denied=True,
        )
        self._take_changes(self._changes)  # starts the watch

    def _take_changes(self, changes: Iterator[set[tuple["Change", str]]]) -> list[str]:
        """Return the paths that have changed. From the first error on, only the searches find them."""
        try:
            return sorted(name for _, name in next(changes))
        except OSError as error:
            why = str(error)
        except RuntimeError as error:  # watchfiles can't decode a name
            why = f"{error}: rename the file, and start again"
        self._changes, self._next_search = None, 0.0
        self._tell(f"{self.name} can't be watched ({why}). It is searched every {SEARCH_PAUSE} seconds instead.")
        return []

    def _find(self, changed: Path) -> list[Path]:
        """Return the changed file or, for a folder that was moved here, all files in it."""
        if not changed.is_dir():
            return [changed]
        with suppress(ImageError):  # the next search reports it
            return find_images(changed, *self._excluded)
        return []

    def _note(self, paths: Iterable[Path]) -> None:
        """Note new and changed files, the oldest first."""
        now = time.monotonic()
        found = [(path, identity) for path in paths if (identity := self._identify(path))]
        for path, identity in sorted(found, key=lambda item: (_modified(item[0]), item[0])):
            if path not in self._waiting or self._waiting[path].id != identity:
                self._waiting.pop(path, None)
                self._waiting[path] = _Seen(identity, now)

    def _identify(self, path: Path) -> str | None:
        """Return the identifier of a new file; ``None`` if it is known, excluded, empty or has a temporary name."""
        relative = path.relative_to(self._path)
        if is_temporary(relative) or is_foreign(relative):
            return None
        identity = identify(path)
        if identity is None or identity in self._taken or self._is_known(identity):
            return None
        return None if any(path.resolve().is_relative_to(folder) for folder in self._excluded) else identity


def identify(path: Path) -> str | None:
    """Digest a photograph's path, size and time of its last change; ``None`` if the file is missing or empty."""
    try:
        status = path.stat()
    except OSError:
        return None
    if not status.st_size:
        return None
    key = f"\0{status.st_size} {status.st_mtime_ns}"
    return sha256(os.fsencode(os.path.realpath(path)) + key.encode()).hexdigest()[:32]


def has_changed(arrival: Arrival) -> bool:
    """Return whether a file was written since it arrived. If so, it arrives again."""
    path = arrival.source
    return isinstance(path, Path) and path.is_file() and identify(path) != arrival.id


def is_temporary(path: Path) -> bool:
    """Return whether a name in a path, relative to the watched folder, marks a file as unfinished."""
    return any(part.startswith((".", "~")) or part.endswith("~") for part in path.parts) or (
        path.suffix.lower() in TEMPORARY_SUFFIXES
    )


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # it has gone
        return 0


class Camera:
    """Frames of a camera or a stream, read in a thread. Only the newest frame is kept; the model may miss some.

    A camera that gives no more frames is opened again until it is back. ``open_capture`` raises an ``CommandError``
    if that fails. ``tell`` shows when the camera goes and comes back, and when a frame is skipped for the first time.
    Every Nth frame is taken and, with ``on_change``, only if it differs from the last one taken.
    """

    def __init__(
        self,
        name: str,
        open_capture: Callable[[], "cv2.VideoCapture"],
        tell: Callable[[str], None],
        *,
        every: int,
        on_change: bool,
    ) -> None:
        self.name = name
        self.is_unread = False  # no frame waits
        self._open = open_capture
        self._tell = tell
        self._every = every
        self._on_change = on_change
        self._frames: deque[Arrival] = deque(maxlen=1)
        self._last: NDArray | None = None
        self._is_slow_told = True  # while the model loads, frames are always skipped
        self._error: BaseException | None = None
        self._stopped = Event()
        capture = open_capture()
        Thread(target=self._run, args=(capture,), daemon=True).start()  # read() may hang for ever

    def batches(self, is_stopped: Stopped) -> Iterator[Iterator[Arrival]]:
        """Wait for frames, one at a time. See :meth:`Folder.batches`."""
        self._is_slow_told = False
        while not is_stopped():
            if self._frames:
                yield iter([self._frames.popleft()])
            elif self._error is not None:
                raise self._error
            else:
                time.sleep(POLL)
        self._stopped.set()

    def release(self, arrival: Arrival) -> None:
        """Do nothing: a frame comes once."""

    def _run(self, capture: "cv2.VideoCapture") -> None:
        try:
            for opened in self._captures(capture):
                self._read(opened)
                opened.release()
        except BaseException as error:  # noqa: BLE001 - raised where frames are awaited
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
        """Yield the camera, and again each time that it comes back."""
        yield first
        while not self._stopped.is_set():
            self._tell(f"{self.name} gives no more frames: trying again until it is back.")
            for pause in growing_pauses():
                if self._stopped.wait(pause):
                    return
                with suppress(CommandError):
                    capture = self._open()
                    self._tell(f"{self.name} is back.")
                    yield capture
                    break

    def _is_new(self, frame: NDArray) -> bool:
        """Return whether to take a frame."""
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
        now = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%fZ")
        self._frames.append(Arrival(f"{self.name}#{now}", rgb, uuid4().hex))
