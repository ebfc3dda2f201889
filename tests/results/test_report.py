# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

import base64
import io
import json
import weakref
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from html.parser import HTMLParser
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from anomalib_fbclip.images.image_files import printable
from anomalib_fbclip.results.records import Record
from anomalib_fbclip.results.report import BINS, Entry, NearestReference, Thresholds, bar_heights, describe_good
from support.reports import COMMAND, entry, photograph, write_small_report


class Page(HTMLParser):
    """What a browser sees in a page: the elements, and the text in each of them."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open.append(tag)
        self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts[self._open[-1]][-1] += data

    def attributes(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        return [found for name, found in self.elements if name == tag and wanted.items() <= found.items()]

    @property
    def cards(self) -> list[dict[str, str | None]]:
        return self.attributes("li")

    @property
    def settings(self) -> dict:
        return json.loads(self.texts["script"][0])


def image_of(uri: str | None) -> Image.Image:
    assert uri is not None
    return Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2])))


def test_photographs_are_sorted_by_score_and_errors_come_last(tmp_path: Path) -> None:
    entries = [entry("a.png", 0.2), Entry(Record("b.png", error="b.png is not an image.")), entry("c.png", 0.9)]
    page = Page(write_small_report(tmp_path, entries))
    assert page.texts["h3"] == ["c.png", "a.png", "b.png"]
    assert [card["data-state"] for card in page.cards] == ["anomalous", "normal", "error"]
    assert "b.png is not an image." in page.texts["p"]
    assert page.texts["p"][0] == "1 anomalous, 1 normal, 1 not read"


def test_the_verdict_of_the_table_comes_first(tmp_path: Path) -> None:
    """The table's threshold has been rounded; the verdict was made before."""
    page = Page(
        write_small_report(tmp_path, [entry("a.png", 0.50000001, verdict="normal"), entry("b.png", 0.5, verdict=None)])
    )
    assert [card["data-state"] for card in page.cards] == ["normal", "normal"]


def test_photographs_keep_their_proportions(tmp_path: Path) -> None:
    wide = entry("a.png", 0.2)._replace(photograph=photograph(1200, 300))
    page = Page(write_small_report(tmp_path, [wide]))
    (image,) = page.attributes("img")
    assert (image["width"], image["height"]) == ("480", "120")
    assert image_of(image["src"]).size == (480, 120)
    assert image_of(image["src"]).format == "JPEG"


def test_small_photographs_are_not_enlarged(tmp_path: Path) -> None:
    (image,) = Page(write_small_report(tmp_path, [entry("a.png", 0.2)])).attributes("img")
    assert (image["width"], image["height"]) == ("120", "80")


def test_the_map_keeps_its_values(tmp_path: Path) -> None:
    anomaly_map = np.random.default_rng(0).random((40, 60)).astype(np.float32)
    page = Page(write_small_report(tmp_path, [entry("a.png", 0.2)._replace(anomaly_map=anomaly_map)]))
    image = image_of(page.attributes("canvas")[0]["data-map"])
    assert (image.format, image.mode) == ("PNG", "L")
    assert np.abs(np.asarray(image) / 255 - anomaly_map).max() <= 0.5 / 255 + 1e-6


def test_a_large_map_is_shrunk(tmp_path: Path) -> None:
    page = Page(write_small_report(tmp_path, [entry("a.png", 0.2)._replace(anomaly_map=np.ones((518, 259)))]))
    image = image_of(page.attributes("canvas")[0]["data-map"])
    assert image.size == (64, 128)
    assert np.asarray(image).min() == 255


def test_a_photograph_without_a_map(tmp_path: Path) -> None:
    page = Page(write_small_report(tmp_path, [entry("a.png", 0.2)._replace(anomaly_map=None)]))
    assert not page.attributes("canvas")
    assert len(page.attributes("img")) == 1


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    name = "bad\udcff.png"
    page = Page(write_small_report(tmp_path, [entry(name, 0.9)], feedback="add {photographs}"))
    assert r"bad\udcff.png" in page.texts["h3"]


@pytest.mark.parametrize("missing", [Entry(Record("a.png")), Entry(Record("a.png", score=0.5))])
def test_an_entry_that_says_nothing(tmp_path: Path, missing: Entry) -> None:
    with pytest.raises(ValueError, match=r"^a\.png has neither"):
        write_small_report(tmp_path, [missing])
    assert not list(tmp_path.iterdir())


def test_the_nearest_reference(tmp_path: Path) -> None:
    nearest = NearestReference(photograph(400, 400), photograph(30, 40), "good/7.png")
    page = Page(write_small_report(tmp_path, [entry("a.png", 0.9)._replace(nearest=nearest), entry("b.png", 0.8)]))
    _, place, reference, _ = page.attributes("img")
    assert image_of(place["src"]).size == (160, 160)
    assert image_of(reference["src"]).size == (30, 40)
    assert page.texts["figcaption"][1].endswith("in 7.png")


def test_thresholds_are_not_rounded(tmp_path: Path) -> None:
    page = Page(write_small_report(tmp_path, [], thresholds=Thresholds(0.5234567, 0.1234567, "labels", "masks")))
    assert page.settings["thresholds"] == {"image": 0.5234567, "pixel": 0.1234567}
    assert page.settings["command"] == COMMAND
    assert "initially 0.523, from: labels" in page.texts["p"]
    assert "initially 0.123, from: masks" in page.texts["p"]


def test_usual_thresholds_are_a_guess(tmp_path: Path) -> None:
    page = Page(write_small_report(tmp_path, [], thresholds=Thresholds(0.5, 0.25, "default", "given")))
    assert "initially 0.500, not calibrated to your parts" in page.texts["p"]
    assert "initially 0.250, from: given" in page.texts["p"]


def test_the_scores_of_good_photographs(tmp_path: Path) -> None:
    entries = [entry("a.png", 0.2)]
    assert not Page(write_small_report(tmp_path, entries)).attributes("rect", **{"class": "good bar"})
    page = Page(write_small_report(tmp_path, entries, good_scores=[0.11, 0.11, 0.31]))
    heights = [float(bar["height"] or 0) for bar in page.attributes("rect", **{"class": "good bar"})]
    assert heights.index(max(heights)) == 5
    assert heights[15] == max(heights) / 2
    assert np.count_nonzero(heights) == 2


@given(st.lists(st.floats(0, 1), min_size=1))
def test_a_histogram_counts_every_score(scores: list[float]) -> None:
    inner_edges = np.linspace(0, 1, BINS + 1)[1:-1]
    counts = [0] * BINS
    for score in scores:
        counts[(inner_edges <= score).sum()] += 1
    assert bar_heights(scores) == pytest.approx([count / max(counts) for count in counts])


def test_what_it_was_made_with(tmp_path: Path) -> None:
    before = datetime.now().astimezone().replace(microsecond=0)
    page = Page(write_small_report(tmp_path, [], about={"Model": "<i>a.xml</i>", "Good photographs": "none"}))
    assert page.texts["dt"] == ["Written", "Model", "Good photographs", "Version"]
    assert page.texts["dd"][1:] == ["<i>a.xml</i>", "none", f"anomalib-fbclip {version('anomalib-fbclip')}"]
    (time,) = page.attributes("time")
    assert before <= datetime.fromisoformat(time["datetime"] or "") <= datetime.now().astimezone()


@pytest.mark.parametrize(
    ("photographs", "kept", "expected"),
    [
        ((), 0, "none"),
        ((), 8, "8, kept in the model's file"),
        (("/a/b/1.png", Path("/a/b/2.png")), 0, "2 of /a/b"),
        (("/a/b/1.png", "/a/c/2.png"), 0, "2 of /a"),
        ((object(), object()), 0, "2"),
    ],
)
def test_which_good_photographs(photographs: tuple, kept: int, expected: str) -> None:
    assert describe_good(photographs, kept) == expected


def test_only_the_page_itself_may_run_and_nothing_is_loaded(tmp_path: Path) -> None:
    page = Page(write_small_report(tmp_path, [entry("a.png", 0.2)]))
    (policy,) = page.attributes("meta", **{"http-equiv": "Content-Security-Policy"})
    directives = dict((policy["content"] or "").split("; ")[i].split(" ", 1) for i in range(6))
    assert directives["default-src"] == "'none'"
    assert directives["img-src"] == "data:"
    assert directives["script-src"].startswith("'sha256-")
    assert directives["style-src"].startswith("'sha256-")
    links = [value for _, found in page.elements for name, value in found.items() if name in {"src", "href"}]
    assert links
    assert all(str(link).startswith(("data:", "#")) for link in links)


NASTY = st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=40).filter(lambda name: name != ".")
TAGS = st.sampled_from([
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\"'><b>",
    "{{ 7 * 7 }}",
    "-->",
    "\udcff.png",
    "two\nlines",
])


@settings(max_examples=50, deadline=None)
@given(st.one_of(NASTY, TAGS, st.tuples(NASTY, TAGS).map("".join)), st.one_of(NASTY, TAGS))
def test_whatever_files_are_called_the_page_has_the_same_elements(
    tmp_path_factory: pytest.TempPathFactory, name: str, folder: str
) -> None:
    def elements(name: str, folder: str) -> Page:
        # A name of several parts would be a path.
        nearest = NearestReference(photograph(), photograph(), f"good/{name}")
        path = f"{folder}/{name}".replace("</", "<")
        named = entry(path, 0.9)._replace(nearest=nearest)
        failed = Entry(Record(path, error=f"{path} is not an image."))
        return Page(write_small_report(tmp_path_factory.mktemp("report"), [named, failed], command=path))

    plain, nasty = elements("a.png", "b"), elements(name, folder)
    assert Counter(tag for tag, _ in nasty.elements) == Counter(tag for tag, _ in plain.elements)
    assert [set(found) for _, found in nasty.elements] == [set(found) for _, found in plain.elements]
    path = Path(f"{folder}/{name}".replace("</", "<"))
    assert nasty.texts["h3"][0].replace("\n", "") == printable(path.name)
    assert nasty.settings["command"] == f"{folder}/{name}".replace("</", "<")


def test_photographs_are_not_all_in_memory(tmp_path: Path) -> None:
    images: list[weakref.ref[Image.Image]] = []
    most = 0

    def entries() -> Iterator[Entry]:
        nonlocal most
        for index in range(20):
            image = photograph(seed=index)
            images.append(weakref.ref(image))
            most = max(most, sum(image() is not None for image in images))
            yield entry(f"{index}.png", index / 20)._replace(photograph=image)
            del image

    assert len(Page(write_small_report(tmp_path, entries())).cards) == 20
    assert most <= 4  # two that wait, one in work, and the next


def test_many_photographs_are_on_several_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The most anomalous are on the first; each page knows of the others what counting them takes."""
    monkeypatch.setattr("anomalib_fbclip.results.report.PHOTOGRAPHS_PER_PAGE", 2)
    entries = [entry(f"{index}.png", index / 10) for index in (1, 7, 4, 9)]
    write_small_report(tmp_path, [*entries, Entry(Record("broken.png", error="broken.png is not an image."))])
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "report-2.html", "report-3.html"}
    pages = [Page(tmp_path / name) for name in ("report.html", "report-2.html", "report-3.html")]
    assert [page.texts["h3"] for page in pages] == [["9.png", "7.png"], ["4.png", "1.png"], ["broken.png"]]
    assert pages[1].settings["others"] == [[0.9, "anomalous"], [0.7, "anomalous"], [-1, "error"]]
    for page in pages:
        assert page.texts["p"][0] == "2 anomalous, 2 normal, 1 not read"
        links = [link["href"] for link in page.attributes("a") if link["href"] != "#photographs"]
        assert links == ["report.html", "report-2.html", "report-3.html"]
    assert pages[1].attributes("a", **{"aria-current": "page"})[0]["href"] == "report-2.html"


def test_a_shorter_report_leaves_no_pages_of_a_longer_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anomalib_fbclip.results.report.PHOTOGRAPHS_PER_PAGE", 1)
    write_small_report(tmp_path, [entry(f"{index}.png", 0.2) for index in range(3)])
    write_small_report(tmp_path, [entry("a.png", 0.2)])
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_report_is_complete_or_as_it_was(tmp_path: Path) -> None:
    def failing() -> Iterator[Entry]:
        yield entry("a.png", 0.2)
        raise KeyboardInterrupt

    before = write_small_report(tmp_path, [entry("a.png", 0.2)]).read_bytes()
    with pytest.raises(KeyboardInterrupt):
        write_small_report(tmp_path, failing())
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]


def test_no_photographs(tmp_path: Path) -> None:
    page = Page(write_small_report(tmp_path, []))
    assert page.cards == []
    assert {bar["height"] for bar in page.attributes("rect")} == {"0.0"}
