# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""What is taken from a folder and from a camera, when, and how often."""

import errno
import itertools
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from anomalib_fbclip.errors import CommandError
from anomalib_fbclip.line.arrivals import Arrival, Camera, Folder, has_changed, identify, is_temporary
from support.parts import draw_part

PATIENCE = 30
"""Seconds after which nothing more is waited for."""


class Clock:
    """Lets a second pass in a few hundredths of one. Nothing here depends on how long something takes."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        time.sleep(0.002)
        self.now += seconds


class Watcher:
    """Takes what arrives in a folder, as the command does."""

    def __init__(self, clock: Clock, path: Path, excluded: tuple[Path, ...] = ()) -> None:
        self.clock = clock
        self.known: set[str] = set()
        self.told: list[str] = []
        self.folder = Folder(path, excluded, self.known.__contains__, self.told.append)

    def take(self, number: int, seconds: float = PATIENCE) -> list[str]:
        """Wait for so many photographs, and give their names."""
        end = self.clock.now + seconds
        arrivals: list[Arrival] = []

        def is_stopped() -> bool:
            return len(arrivals) >= number or self.clock.now > end

        for batch in self.folder.batches(is_stopped):
            arrivals += batch
        for arrival in arrivals:
            self.known.add(arrival.id)
            self.folder.release(arrival)
        return [arrival.name for arrival in arrivals]

    def take_all(self) -> list[str]:
        """Give the names of all that arrive soon."""
        return self.take(1000, seconds=3)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Clock:
    clock = Clock()
    monkeypatch.setattr("anomalib_fbclip.line.arrivals.time", clock)
    monkeypatch.setattr("anomalib_fbclip.concurrency.FIRST_PAUSE", 0.05)
    monkeypatch.chdir(tmp_path)
    Path("incoming").mkdir()
    return clock


Watch = Callable[..., Watcher]


@pytest.fixture
def watch(clock: Clock) -> Watch:
    return partial(Watcher, clock, Path("incoming"))


def photograph(name: str, seed: int = 0) -> Path:
    path = Path("incoming", name)
    path.parent.mkdir(exist_ok=True)
    draw_part(seed).save(path)
    return path


def test_what_is_there_comes_first_the_oldest_before_the_others(watch: Watch) -> None:
    for age, name in enumerate(("c.png", "a.png", "b.png")):
        os.utime(photograph(name), (1e9 - age, 1e9 - age))
    watcher = watch()
    assert watcher.take(3) == ["incoming/b.png", "incoming/a.png", "incoming/c.png"]
    photograph("new.png")
    assert watcher.take(1) == ["incoming/new.png"]
    assert not watcher.take_all()


def test_each_comes_once_while_it_is_inspected_and_after_a_start(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anomalib_fbclip.line.arrivals.SEARCH_PAUSE", 0)
    monkeypatch.setattr("anomalib_fbclip.line.arrivals.SEARCH_SHARE", 0)
    photograph("a.png")
    watcher = watch()
    assert watcher.take_all() == ["incoming/a.png"]
    another = Watcher(watcher.clock, Path("incoming").resolve())
    another.known |= watcher.known
    assert not another.take_all()


def test_a_link_to_a_photograph_is_the_same_one(watch: Watch) -> None:
    photograph("a.png")
    Path("incoming/latest.png").symlink_to("a.png")
    assert watch().take_all() == ["incoming/a.png"]


def test_a_growing_file_waits(watch: Watch) -> None:
    watcher = watch()
    content = photograph("whole.png").read_bytes()
    assert watcher.take(1) == ["incoming/whole.png"]
    taken: list[str] = []
    with Path("incoming/growing.png").open("wb") as file:
        for piece in np.array_split(np.frombuffer(content, np.uint8), 6):
            file.write(piece.tobytes())
            file.flush()
            taken += watcher.take(1, seconds=0.3)
    assert not taken
    assert watcher.take(1) == ["incoming/growing.png"]


def test_an_empty_file_waits(watch: Watch) -> None:
    watcher = watch()
    Path("incoming/a.png").touch()
    assert not watcher.take_all()
    photograph("a.png")
    assert watcher.take(1) == ["incoming/a.png"]


def test_temporary_names_wait(watch: Watch) -> None:
    watcher = watch()
    names = ["1.png.tmp", "2.PNG.PART", "3.png.crdownload", ".4.png", "5.png~", "~6.png", ".part/7.png"]
    for name in names:
        assert is_temporary(Path(name))
        draw_part(0).save("whole.png")
        Path("incoming", name).parent.mkdir(exist_ok=True)
        Path("whole.png").rename(Path("incoming", name))
    assert not watcher.take_all()
    for number, name in enumerate(names):
        Path("incoming", name).rename(f"incoming/{number}.png")
    assert sorted(watcher.take(7)) == [f"incoming/{number}.png" for number in range(7)]


def test_a_replaced_file_is_a_new_photograph(watch: Watch) -> None:
    photograph("current.png")
    watcher = watch()
    assert watcher.take(1) == ["incoming/current.png"]
    photograph("current.png", seed=1)
    assert watcher.take(1) == ["incoming/current.png"]
    assert len(watcher.known) == 2


def test_only_photographs_in_all_folders_but_the_excluded(watch: Watch) -> None:
    watcher = watch((Path("incoming/good"), Path("incoming")))
    photograph("good/a.png")
    Path("incoming/notes.txt").write_text("no photograph", encoding="utf-8")
    shutil.copy(photograph("part.png"), "incoming/without a suffix")
    Path("elsewhere").mkdir()
    draw_part(2).save("elsewhere/moved.png")
    shutil.move("elsewhere", "incoming/more")
    assert sorted(watcher.take_all()) == [
        "incoming/more/moved.png",
        "incoming/part.png",
        "incoming/without a suffix",
    ]


def test_a_photograph_that_is_written_while_it_is_read() -> None:
    path = photograph("a.png")
    arrival = Arrival("a.png", path, identify(path) or "")
    assert not has_changed(arrival)
    photograph("a.png", seed=1)
    assert has_changed(arrival)
    path.unlink()
    assert not has_changed(arrival), "it is gone, and will not come again"


def test_a_folder_that_goes_and_comes_back(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told once, and what is there then arrives."""
    monkeypatch.setattr("anomalib_fbclip.line.arrivals.SEARCH_PAUSE", 0.1)
    watcher = watch()
    assert not watcher.take_all()
    Path("incoming").rename("away")
    assert not watcher.take_all()
    assert [line.split(":")[0] for line in watcher.told] == ["incoming can't be read"]
    assert watcher.folder.is_unread
    photograph("a.png")
    assert watcher.take(1) == ["incoming/a.png"]
    assert watcher.told[1:] == ["incoming is back."]
    assert not watcher.folder.is_unread
    photograph("b.png")
    assert watcher.take(1) == ["incoming/b.png"]


def test_where_no_changes_can_be_noticed_the_folder_is_searched(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anomalib_fbclip.line.arrivals.SEARCH_PAUSE", 0.1)

    def fail(*_: object, **__: object) -> Iterator[set]:
        raise OSError(errno.ENOSPC, "file watch limit reached")
        yield set()

    monkeypatch.setattr("watchfiles.watch", fail)
    watcher = watch()
    assert not watcher.take_all()
    assert "limit reached" in watcher.told[0]
    photograph("a.png")
    assert watcher.take(1) == ["incoming/a.png"]


def test_a_name_that_is_not_utf_8(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends the notice of changes, said once, and not the searches."""
    monkeypatch.setattr("anomalib_fbclip.line.arrivals.SEARCH_PAUSE", 0.1)
    watcher = watch()
    assert not watcher.take_all()
    name = photograph("a.png").rename(os.fsdecode(b"incoming/bad\xff.png")).as_posix()
    assert watcher.take(1) == [name]
    (line,) = watcher.told
    assert r"bad\xFF.png" in line
    assert "rename" in line
    photograph("b.png")
    assert watcher.take(1) == ["incoming/b.png"]


class Capture:
    """In place of OpenCV's reader: frames of one shade each, then none."""

    def __init__(self, shades: list[int], shown: Callable[[], object] = lambda: None) -> None:
        self._shades = iter(shades)
        self._shown = shown

    def read(self) -> tuple[bool, np.ndarray]:
        self._shown()
        shade = next(self._shades, None)
        return shade is not None, np.full((48, 64, 3), (shade or 0, 0, 0), dtype=np.uint8)

    def release(self) -> None:
        pass


def open_camera(captures: list[Capture | None], told: list[str], **options: object) -> Camera:
    """Open a camera that is there where there is a capture, and at the end no more."""
    waiting = iter(captures)

    def open_it() -> Capture:
        capture = next(waiting, None)
        if capture is None:
            raise CommandError
        return capture

    return Camera("camera 0", open_it, told.append, **({"every": 1, "on_change": False} | options))  # type: ignore[arg-type]


def shades_of(camera: Camera, told: list[str], lines: int) -> list[int]:
    """Give the shades of the frames that come until so many lines were told."""
    batches = camera.batches(lambda: len(told) >= lines)
    return [int(arrival.source[0, 0, 2]) for batch in batches for arrival in batch]  # type: ignore[index] # blue comes last


def slowly() -> None:
    time.sleep(0.1)


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, [0, 1, 2, 50, 51, 90]), ({"every": 3}, [0, 50]), ({"on_change": True}, [0, 50, 90])],
)
def test_which_frames_are_taken(options: dict, expected: list[int]) -> None:
    told: list[str] = []
    camera = open_camera([Capture([0, 1, 2, 50, 51, 90], slowly)], told, **options)
    assert shades_of(camera, told, 1) == expected


def test_a_camera_that_is_unplugged_is_tried_again_and_said_once() -> None:
    told: list[str] = []
    camera = open_camera([Capture([1], slowly), None, None, Capture([2], slowly)], told)
    assert shades_of(camera, told, 3) == [1, 2]
    gone = "camera 0 gives no more frames: trying again until it is back."
    assert told == [gone, "camera 0 is back.", gone]


def test_the_newest_frame_waits() -> None:
    told: list[str] = []
    calls, is_busy = itertools.count(), threading.Event()
    camera = open_camera([Capture(list(range(100)), lambda: next(calls) and is_busy.wait())], told)
    batches = camera.batches(lambda: False)
    next(batches)
    is_busy.set()
    while len(told) < 2:  # some were passed over, and it has ended
        time.sleep(0.01)
    batch = next(batches)
    assert [int(arrival.source[0, 0, 2]) for arrival in batch] == [99]  # type: ignore[index]
    assert told[0] == "camera 0 is faster than the model: some frames are skipped."


def test_a_camera_that_is_not_there() -> None:
    with pytest.raises(CommandError):
        open_camera([], [])


def test_frames_have_names_and_ids_of_their_own() -> None:
    told: list[str] = []
    camera = open_camera([Capture([1, 2], slowly)], told)
    arrivals = [arrival for batch in camera.batches(lambda: bool(told)) for arrival in batch]
    assert len({arrival.id for arrival in arrivals}) == len({arrival.name for arrival in arrivals}) == 2
    assert all(arrival.name.startswith("camera 0#") for arrival in arrivals)
