# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The report: a page that shows all photographs of a prediction, and lets the user try other thresholds.

It is one file that needs no network, or several linked ones for many photographs. ``report.js`` decides as
:func:`~anomalib_fbclip.results.regions.match_verdict` does.
"""

import base64
import hashlib
import io
import json
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from numpy.typing import NDArray
from PIL import Image

from anomalib_fbclip.concurrency import map_ahead
from anomalib_fbclip.images.image_files import printable

from .files import incomplete_folder
from .pictures import OPACITY, PALETTE, shrink_photograph, to_gray
from .records import Record
from .regions import STRONGEST_PLACE

REPORT_NAME = "report.html"
"""Name of the report."""

TEMPLATES = Path(__file__).with_name("templates")
"""Folder of the page's template, style and script."""

MAX_PHOTOGRAPH_SIDE = 480
MAX_PLACE_SIDE = 160
MAX_MAP_SIDE = 128
"""Largest sides in pixels of a photograph, of a place in it, and of an anomaly map on the page."""

PHOTOGRAPHS_PER_PAGE = 1000
"""Largest number of photographs on a page: about 33 MB, which browsers still show quickly."""

BINS = 50
"""Number of bars of the histogram, from a score of 0 to 1."""


class Thresholds(NamedTuple):
    """Initial thresholds of a page, of scores and of anomaly maps, and their sources in the words of the table."""

    image: float
    pixel: float
    image_source: str
    pixel_source: str


class NearestReference(NamedTuple):
    """The most anomalous place of a photograph, the nearest place in a good one, and the good one's file."""

    place: Image.Image
    reference: Image.Image
    path: str


class Entry(NamedTuple):
    """An RGB photograph on the page, with its anomaly map, 0..1, ``[h, w]``. A record of an error stands alone."""

    record: Record
    photograph: Image.Image | None = None
    anomaly_map: NDArray[np.floating] | None = None
    nearest: NearestReference | None = None


class Card(NamedTuple):
    """An entry as text for the page, with images as ``data:`` URIs."""

    name: str
    folder: str
    state: str  # the verdict, or "error"
    error: str | None = None
    score: float = -1  # errors come last
    same_as: str | None = None
    size: tuple[int, int] = (0, 0)  # width and height
    photograph: str = ""
    anomaly_map: str | None = None
    place: str | None = None  # the most anomalous one
    reference: str = ""  # the nearest place in a good photograph
    reference_name: str = ""
    product: str | None = None
    argument: str = ""  # the file, quoted for a shell command


class _Kept(NamedTuple):
    """What is kept in memory of a card, which is in a file at a position."""

    score: float
    folder: str
    name: str
    state: str
    position: int


def write_report(
    path: Path,
    entries: Iterable[Entry],
    thresholds: Thresholds,
    command: str,
    about: Mapping[str, str],
    good_scores: Sequence[float] = (),
    feedback: str | None = None,
) -> None:
    """Write the report, and replace an earlier one when all pages are complete.

    Entries are taken one at a time, and about 30 KB of each are kept on disk. The 1000 most anomalous photographs are
    in the file, and the others in files beside it: ``report-2.html`` and so on.

    The page fills in ``{threshold}`` and ``{pixel_threshold}`` in the command, which predicts again. ``about`` are
    facts about the run, by name. The good scores are of good photographs, each compared with the rest. ``feedback`` is
    the command that adds false alarms to them: the page collects them, and fills in ``{photographs}``.
    """
    with incomplete_folder(path.parent) as folder:
        with (folder / "cards").open("w+b") as file:
            cards = map_ahead(partial(_to_card, threshold=thresholds.image), entries, ahead=2)
            kept = sorted(_keep(cards, file), key=lambda card: (-card.score, card.folder, card.name))
            starts = range(0, max(len(kept), 1), PHOTOGRAPHS_PER_PAGE)
            pages = [_page_path(path, number) for number, _ in enumerate(starts, 1)]
            template = _read_template()
            shared = _describe_all(kept, thresholds, about, good_scores)
            shared |= {"pages": [page.name for page in pages], "feedback": feedback}
            for page, start in zip(pages, starts, strict=True):
                end = start + PHOTOGRAPHS_PER_PAGE
                stream = template.stream(
                    shared,
                    name=page.name,
                    cards=map(partial(_take, file), kept[start:end]),
                    first=start + 1,
                    last=min(end, len(kept)),
                    settings={
                        "thresholds": {"image": thresholds.image, "pixel": thresholds.pixel},
                        "others": [(card.score, card.state) for card in (*kept[:start], *kept[end:])],
                        "command": command,
                        "feedback": feedback,
                        "palette": PALETTE.round().astype(int).tolist(),
                        "opacity": OPACITY,
                        "strongestPlace": STRONGEST_PLACE,
                    },
                )
                stream.enable_buffering()
                stream.dump(str(folder / page.name), encoding="utf-8", errors="backslashreplace")  # file names
        for page in pages:
            (folder / page.name).replace(page)
    for number in count(len(pages) + 1):  # pages of an earlier, longer report
        if not _page_path(path, number).exists():
            return
        _page_path(path, number).unlink()


def _read_template() -> Template:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("report.html.j2")


def _describe_all(
    kept: Sequence[_Kept], thresholds: Thresholds, about: Mapping[str, str], good_scores: Sequence[float]
) -> dict[str, object]:
    """Return the template's values that all pages share."""
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    states = [card.state for card in kept]
    return {
        "counts": {state: states.count(state) for state in ("anomalous", "normal", "unknown", "error")},
        "about": {**about, "Version": f"anomalib-fbclip {version('anomalib-fbclip')}"},
        "written": datetime.now().astimezone(),
        "thresholds": thresholds,
        "bars": bar_heights([card.score for card in kept if card.state != "error"]),
        "good_bars": bar_heights(good_scores) if good_scores else None,
        "good_count": len(good_scores),
        "style": style,
        "script": script,
        "policy": _policy(style, script),
    }


def _page_path(path: Path, number: int) -> Path:
    return path if number == 1 else path.with_stem(f"{path.stem}-{number}")


def _keep(cards: Iterable[Card], file: BinaryIO) -> Iterator[_Kept]:
    """Write cards to a file, and yield what is kept of them."""
    for card in cards:
        position = file.tell()
        file.write(json.dumps(card).encode() + b"\n")
        yield _Kept(card.score, card.folder, card.name, card.state, position)


def _take(file: BinaryIO, kept: _Kept) -> Card:
    """Read a card from the file."""
    file.seek(kept.position)
    return Card(*json.loads(file.readline()))


def _to_card(entry: Entry, threshold: float) -> Card:
    """Shrink an entry to its card on the page."""
    record, photograph, anomaly_map, nearest = entry
    if record.error is not None:
        return Card(*_name_and_folder(record), state="error", error=printable(record.error))
    if record.score is None or photograph is None:
        msg = f"{printable(record.path or 'An image')} has neither an error nor both a score and a photograph."
        raise ValueError(msg)
    image = shrink_photograph(photograph, MAX_PHOTOGRAPH_SIDE)
    card = Card(
        *_name_and_folder(record),
        state=record.verdict or ("anomalous" if record.score > threshold else "normal"),
        score=record.score,
        same_as=None if record.same_as is None else printable(record.same_as),
        size=image.size,
        photograph=_to_data_uri(image),
        anomaly_map=None if anomaly_map is None else _to_data_uri(to_gray(shrink_map(anomaly_map).clip(0, 1))),
        argument="" if record.path is None else shlex.quote(record.path),
        product=None if record.product is None else printable(record.product),
    )
    if nearest is None:
        return card
    place, reference = (_to_data_uri(shrink_photograph(image, MAX_PLACE_SIDE)) for image in nearest[:2])
    return card._replace(place=place, reference=reference, reference_name=printable(Path(nearest.path).name))


def shrink_map(anomaly_map: NDArray[np.floating]) -> NDArray[np.float32]:
    """Shrink an anomaly map ``[h, w]``, if it is larger than those on the page."""
    image = Image.fromarray(anomaly_map.astype(np.float32))
    image.thumbnail((MAX_MAP_SIDE, MAX_MAP_SIDE), Image.Resampling.BILINEAR)
    return np.asarray(image)


def _to_data_uri(image: Image.Image) -> str:
    """Write an image as a ``data:`` URI: a color image as JPEG, and a gray one as PNG, which keeps every value."""
    file = io.BytesIO()
    kind = "png" if image.mode == "L" else "jpeg"
    image.save(file, kind, quality=85, optimize=kind == "jpeg")  # a PNG would take eight times as long, and save 3 %
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def _name_and_folder(record: Record) -> tuple[str, str]:
    if record.path is None:
        return "image without a file", ""
    path = Path(record.path)
    return printable(path.name), printable(path.parent)


def describe_good(photographs: Sequence[object], kept: int = 0) -> str:
    """Describe the good photographs for the report: their number, and the folder of those that are files.

    If there are none, ``kept`` is the number of those in a model's file.
    """
    if not photographs:
        return f"{kept}, kept in the model's file" if kept else "none"
    paths = [Path(photograph).absolute() for photograph in photographs if isinstance(photograph, str | Path)]
    if not paths:
        return str(len(photographs))
    return f"{len(photographs)} of {printable(os.path.commonpath([path.parent for path in paths]))}"


def _policy(style: str, script: str) -> str:
    """Allow the page only its own style, its own script, and the images in it."""
    return (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def bar_heights(scores: Sequence[float]) -> list[float]:
    """Count scores, 0..1, in bins of equal width, as the heights of bars. The highest is 1, unless there are no scores.

    Example:
        >>> bar_heights([0.01, 0.01, 0.99])[::49]
        [1.0, 0.5]
    """
    counts, _ = np.histogram(scores, bins=BINS, range=(0, 1))
    return (counts / max(counts.max(), 1)).tolist()
