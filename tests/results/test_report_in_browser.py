# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The report in a browser."""

import shlex
import socket
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anomalib_fbclip.results.records import Record
from anomalib_fbclip.results.regions import match_verdict
from anomalib_fbclip.results.report import Entry, NearestReference, Thresholds
from support.reports import entry, photograph, write_small_report

SCRIPT = "</script><script>window.hacked = 1<script><img src=x onerror='window.hacked = 1'>\"'.png"
"""Name of a file; without the slash of its own it would be a folder."""

ENTRIES = [
    entry("parts/low.png", 0.1, peak=0.2),
    entry("parts/middle.png", 0.45, peak=0.6),
    entry("parts/high.png", 0.9, peak=1.0),
    entry("parts/weak.png", 0.7, peak=0.3),
    Entry(Record("parts/broken.png", error="parts/broken.png is not an image.")),
]

DRAWN = "[...document.querySelectorAll('canvas')].filter((canvas) => canvas.width > 0).length"

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Generator:
    sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    from support.chromium import PATH, launch

    if PATH is None:
        pytest.skip("no chromium: apt-get install chromium")
    with sync_api.sync_playwright() as playwright, launch(playwright) as browser:
        yield browser


@pytest.fixture
def open_report(browser: Any, tmp_path: Path) -> Generator[Open]:
    """Open a report, in which nothing may go wrong and which may ask for nothing."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    errors, requests = [], []

    def open_it(entries: list[Entry] | Iterator[Entry] = ENTRIES, **settings: object) -> Any:
        address = write_small_report(tmp_path, entries, **settings).as_uri()
        page = context.new_page()
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(address)
        return page

    yield open_it
    assert errors == []
    pages = {path.as_uri() for path in tmp_path.glob("report*.html")}
    loaded = {url.partition("#")[0] for url in requests if not url.startswith("data:")}
    assert loaded
    assert loaded <= pages
    context.close()


def states(page: Any) -> dict[str, str]:
    """Get the state of each photograph that is shown, by its name."""
    script = "(cards) => cards.map((card) => [card.querySelector('h3').textContent, card.dataset.state])"
    return dict(page.locator(".card:visible").evaluate_all(script))


def wait_for(page: Any, expression: str, argument: object = None) -> None:
    """Wait until an expression is true; Playwright's own way needs ``eval``, which the page forbids."""
    for _ in range(200):
        if page.evaluate(expression, argument):
            return
        page.wait_for_timeout(50)
    pytest.fail(f"never true: {expression}")


def settle(page: Any) -> None:
    """Wait until the page has followed its controls, which it does before the next frame."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def move(page: Any, label: str, value: float) -> None:
    """Move a slider."""
    page.get_by_label(label, exact=True).fill(str(value))
    settle(page)


def show(page: Any, label: str) -> None:
    """Choose a filter."""
    page.get_by_label(label).check()
    settle(page)


def outline(page: Any, name: str) -> tuple[int, int, int, int] | None:
    """Find the box around the white line on a photograph: left, top, right, bottom."""
    card = page.locator(".card", has_text=name)
    card.scroll_into_view_if_needed()
    wait_for(page, "(canvas) => canvas.width > 0", card.locator("canvas").element_handle())
    width, height, pixels = card.locator("canvas").evaluate(
        "(canvas) => [canvas.width, canvas.height,"
        " [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]]"
    )
    white = (np.array(pixels).reshape(height, width, 4) == 255).all(axis=-1)
    if not white.any():
        return None
    rows, columns = np.nonzero(white)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_it_begins_with_the_verdicts_of_the_table(open_report: Open) -> None:
    page = open_report()
    assert states(page) == {
        "high.png": "anomalous",
        "weak.png": "anomalous",
        "middle.png": "normal",
        "low.png": "normal",
        "broken.png": "error",
    }
    assert page.get_by_role("status").first.text_content() == "2 anomalous, 2 normal, 1 not read; 5 shown"
    assert page.get_by_text("parts/broken.png is not an image.").is_visible()


def test_a_slider_decides_again(open_report: Open) -> None:
    page = open_report()
    move(page, "Image threshold", 0.3)
    assert states(page)["middle.png"] == "anomalous"
    assert page.locator(".card", has_text="middle.png").locator("strong").text_content() == "anomalous"
    assert page.get_by_role("status").first.text_content() == "3 anomalous, 1 normal, 1 not read; 5 shown"
    move(page, "Image threshold", 0.9)
    assert set(states(page).values()) == {"normal", "error"}, "a score is anomalous above the threshold"
    assert page.locator("#image-value").text_content() == "0.900"
    page.get_by_role("button", name="Reset thresholds").click()
    settle(page)
    assert page.locator("#image-value").text_content() == "0.500"
    assert states(page)["weak.png"] == "anomalous"


def test_a_first_threshold_between_a_sliders_steps(open_report: Open) -> None:
    """The slider shows 0.450, but what decides is the threshold; and at it, what the table says."""
    entries = [entry("a.png", 0.4501401, verdict="normal"), entry("b.png", 0.4503, verdict="anomalous")]
    page = open_report(entries, thresholds=Thresholds(0.45014, 0.5, "labels", "masks"))
    assert states(page) == {"b.png": "anomalous", "a.png": "normal"}
    assert "--threshold 0.45014 --pixel" in page.locator("#command").text_content()
    move(page, "Heatmap strength", 0.5)
    assert states(page) == {"b.png": "anomalous", "a.png": "normal"}
    move(page, "Image threshold", 0.45)
    assert states(page) == {"b.png": "anomalous", "a.png": "anomalous"}


def test_filters(open_report: Open) -> None:
    page = open_report()
    for label, shown in (
        ("Anomalous 2", {"high.png", "weak.png"}),
        ("Normal 2", {"middle.png", "low.png"}),
        ("Errors 1", {"broken.png"}),
        ("All 5", {"high.png", "weak.png", "middle.png", "low.png", "broken.png"}),
    ):
        show(page, label)
        assert page.get_by_role("status").first.text_content().endswith(f"; {len(shown)} shown")
        assert set(states(page)) == shown
    show(page, "Normal 2")
    move(page, "Image threshold", 0.05)
    assert states(page) == {}
    assert page.get_by_text("None.", exact=True).is_visible()
    assert page.get_by_label("Normal 0").is_checked()


def test_regions(open_report: Open) -> None:
    page = open_report()
    left, top, right, bottom = outline(page, "high.png") or (0, 0, 0, 0)
    assert (left, top, right, bottom) == pytest.approx((30, 20, 90, 60), abs=2)
    assert outline(page, "middle.png") is None, "it is normal"
    move(page, "Image threshold", 0.3)
    assert outline(page, "middle.png") is not None
    left, top, right, bottom = outline(page, "weak.png") or (0, 0, 0, 0)
    assert (right - left, bottom - top) == (3, 3), "the strongest place, 80 // 32 // 2 pixels around its middle"
    move(page, "Pixel threshold", 0.2)
    left, top, right, bottom = outline(page, "weak.png") or (0, 0, 0, 0)
    assert (left, top, right, bottom) == pytest.approx((30, 20, 90, 60), abs=2)


def test_the_page_finds_the_regions_that_the_package_finds(open_report: Open) -> None:
    page = open_report()
    stream = np.random.default_rng(0)
    for height, width in ((1, 1), (5, 9), (64, 64), (100, 70), (64, 150)):
        values = stream.integers(0, 256, (height, width), dtype=np.uint8)
        for threshold in (0.0, 0.3, values.max() / 255, 1.0):
            for is_anomalous in (False, True):
                found = page.evaluate(
                    "([values, ...rest]) => [...matchVerdict(Uint8Array.from(values), ...rest)]",
                    [values.ravel().tolist(), width, height, threshold, is_anomalous],
                )
                anomaly_map = values / 255
                expected = match_verdict(anomaly_map > threshold, anomaly_map, is_anomalous)
                assert np.array_equal(np.reshape(found, (height, width)), expected)


def test_the_heatmap_fades(open_report: Open) -> None:
    page = open_report()
    canvas = page.locator("canvas").first
    wait_for(page, "(canvas) => canvas.width > 0", canvas.element_handle())
    middle = "(canvas) => canvas.getContext('2d').getImageData(60, 40, 1, 1).data[3]"
    move(page, "Heatmap strength", 1)
    assert canvas.evaluate(middle) == pytest.approx(0.75 * 255, abs=1)
    move(page, "Heatmap strength", 0.5)
    assert canvas.evaluate(middle) == pytest.approx(0.375 * 255, abs=1)
    move(page, "Heatmap strength", 0)
    assert canvas.evaluate(middle) == 0
    assert page.locator(".picture img").first.evaluate("(image) => getComputedStyle(image).filter") == "grayscale(0)"


def test_another_page_takes_over_what_was_chosen(open_report: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each counts the photographs of all pages."""
    monkeypatch.setattr("anomalib_fbclip.results.report.PHOTOGRAPHS_PER_PAGE", 3)
    page = open_report()
    assert page.get_by_role("status").first.text_content() == "2 anomalous, 2 normal, 1 not read; 3 shown"
    move(page, "Image threshold", 0.05)
    show(page, "Anomalous 4")
    page.get_by_role("navigation").get_by_role("link", name="2").click()
    assert states(page) == {"low.png": "anomalous"}
    assert page.get_by_role("status").first.text_content() == "4 anomalous, 0 normal, 1 not read; 1 shown"
    assert "--threshold 0.05 " in page.locator("#command").text_content()


def test_the_command_is_copied(open_report: Open) -> None:
    page = open_report()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    move(page, "Image threshold", 0.62)
    move(page, "Pixel threshold", 0.4)
    page.get_by_role("button", name="Copy the command").click()
    page.get_by_text("Copied.").wait_for()
    expected = "fbclip 'my photographs' --threshold 0.62 --pixel-threshold 0.4"
    assert page.evaluate("navigator.clipboard.readText()") == expected
    assert page.locator("#command").text_content() == expected


def test_where_nothing_may_be_copied_the_command_is_selected(open_report: Open) -> None:
    page = open_report()
    page.evaluate("() => (navigator.clipboard.writeText = () => Promise.reject(new Error('not allowed'))) && null")
    page.get_by_role("button", name="Copy the command").click()
    page.get_by_text("Selected: copy it with Ctrl+C.").wait_for()
    assert page.evaluate("getSelection().toString()") == page.locator("#command").text_content()


def test_false_alarms_are_collected(open_report: Open) -> None:
    """Their files are arguments of a command, whatever they are called."""
    entries = [
        entry("parts/it's $HOME.png", 0.9),
        entry("parts/plain.png", 0.8),
        entry("same.png", 0.7, same_as="g.png"),
    ]
    page = open_report(entries, feedback="fbclip teach bolt.fbclip --add {photographs}")
    assert page.get_by_label("This is good").count() == 2, "a good photograph itself is none"
    assert not page.locator("#feedback").is_visible()
    for box in page.get_by_label("This is good").all():
        box.check()
    command = page.locator("#feedback-command").text_content()
    assert shlex.split(command) == [
        "fbclip",
        "teach",
        "bolt.fbclip",
        "--add",
        "parts/it's $HOME.png",
        "parts/plain.png",
    ]
    page.get_by_label("This is good").first.uncheck()
    assert page.locator("#feedback-command").text_content() == "fbclip teach bolt.fbclip --add parts/plain.png"
    page.locator("#feedback").get_by_role("button").click()
    wait_for(page, "() => document.querySelector('#feedback .copied').textContent !== ''")


def test_without_a_way_to_learn_nothing_is_collected(open_report: Open) -> None:
    assert open_report().get_by_label("This is good").count() == 0


def test_names_and_messages_do_nothing(open_report: Open) -> None:
    nearest = NearestReference(photograph(), photograph(), f"good/{SCRIPT}")
    named = entry(SCRIPT, 0.9)._replace(nearest=nearest)
    page = open_report([named, Entry(Record(SCRIPT, error=f"{SCRIPT} is not an image."))], command=f"fbclip {SCRIPT!r}")
    assert page.evaluate("window.hacked") is None
    assert page.get_by_role("heading", level=3).all_text_contents() == [Path(SCRIPT).name] * 2
    assert page.locator("script").count() == 2
    assert page.locator("#command").text_content() == f"fbclip {SCRIPT!r}"


def test_even_a_script_in_the_page_would_not_run_or_ask_for_anything(browser: Any, tmp_path: Path) -> None:
    page = browser.new_page()
    page.goto(write_small_report(tmp_path, ENTRIES).as_uri())
    page.evaluate("window.violations = []")
    page.evaluate("addEventListener('securitypolicyviolation', (event) => violations.push(event.effectiveDirective))")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/x.png"
        images = f"<img src='{address}'><img src='data:,' onerror='window.hacked = 1'>"
        page.evaluate("(images) => document.body.insertAdjacentHTML('beforeend', images)", images)
        wait_for(page, "violations.length >= 2")
        with pytest.raises(BlockingIOError):
            server.accept()
    assert set(page.evaluate("violations")) == {"script-src-attr", "img-src"}
    assert page.evaluate("window.hacked") is None
    page.close()


def test_the_keyboard_reaches_everything(open_report: Open) -> None:
    page = open_report()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the photographs"
    assert page.get_by_role("link", name="Skip to the photographs").bounding_box()["x"] >= 0
    reached = []
    for _ in range(7):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.name"))
        outline_style = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline_style == "solid", reached
        if reached[-1] == "image-threshold":
            page.keyboard.press("ArrowLeft")
    assert reached == ["filter", "image-threshold", "pixel-threshold", "reset", "heat", "command", "copy"]
    settle(page)
    assert page.locator("#image-value").text_content() == "0.499"


def test_a_screen_reader_finds_names_for_everything(open_report: Open) -> None:
    page = open_report([*ENTRIES, entry("z.png", 0.8)], good_scores=[0.1, 0.2])
    assert page.get_by_role("heading", level=1).count() == 1
    assert page.get_by_role("heading", level=3).count() == 6
    assert page.get_by_role("img", name="Photograph high.png").count() == 1
    assert (
        page.get_by_role("img", name="Scores from 0 to 1; below the line those of the 2 good photographs").count() == 1
    )
    assert [slider.get_attribute("id") for slider in page.get_by_role("slider").all()] == [
        "image-threshold",
        "pixel-threshold",
        "heat",
    ]
    for slider in ("Image threshold", "Pixel threshold", "Heatmap strength"):
        assert page.get_by_role("slider", name=slider, exact=True).count() == 1
    assert page.get_by_role("group", name="Show").get_by_role("radio").count() == 4
    assert page.locator("img:not([alt])").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_read_well_in_light_and_dark(open_report: Open, scheme: str) -> None:
    page = open_report()
    page.emulate_media(color_scheme=scheme)
    colors = page.evaluate(
        "() => ['.state', '.score', '.folder', '.error', '#command', 'h1', '#image-source'].map((selector) => {"
        "  let element = document.querySelector(selector);"
        "  const text = getComputedStyle(element).color;"
        "  while (getComputedStyle(element).backgroundColor === 'rgba(0, 0, 0, 0)') element = element.parentElement;"
        "  return [text, getComputedStyle(element).backgroundColor];"
        "})"
    )
    for text, ground in colors:
        lights = sorted(luminance(color) for color in (text, ground))
        assert (lights[1] + 0.05) / (lights[0] + 0.05) >= 4.5, "WCAG AA"
    dark_ground = luminance(page.evaluate("getComputedStyle(document.body).backgroundColor")) < 0.5
    assert dark_ground == (scheme == "dark")


def luminance(color: str) -> float:
    channels = np.array([int(value) for value in color.removeprefix("rgb(").removesuffix(")").split(",")]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def test_a_narrow_screen_needs_no_scrolling_sideways(open_report: Open) -> None:
    page = open_report([*ENTRIES, entry("parts/" + "a" * 200 + ".png", 0.8)])
    page.set_viewport_size({"width": 320, "height": 600})
    assert page.evaluate("document.documentElement.scrollWidth") <= 320


LONG = "good/" + "long_name_of_a_photograph_" * 8 + ".png"


def test_a_long_name_stays_within_its_card(open_report: Open) -> None:
    nearest = NearestReference(photograph(), photograph(), LONG)
    page = open_report([entry(LONG, 0.9)._replace(nearest=nearest)], about={"Good photographs": f"8 of {LONG}"})
    for width in (1200, 390):
        page.set_viewport_size({"width": width, "height": 800})
        for place in (".card h3", ".card figcaption", "dd:last-of-type"):
            inside, outside = page.locator(place).evaluate(
                "(element) => [element.scrollWidth, element.parentElement.parentElement.clientWidth]"
            )
            assert inside <= outside, place


def test_a_photograph_is_enlarged(open_report: Open) -> None:
    page = open_report()
    card = page.locator(".card", has_text="high.png")
    before = card.locator("img").bounding_box()["width"]
    card.get_by_role("button", name="Enlarge high.png").press("Enter")
    picture, canvas = (card.locator(f".picture {tag}").bounding_box() for tag in ("img", "canvas"))
    assert picture["width"] > 2 * before
    assert canvas == picture
    assert card.get_by_role("button", name="Enlarge high.png", pressed=True).count() == 1
    card.locator(".picture").click()
    assert card.locator("img").bounding_box()["width"] == before


def test_the_browsers_own_menu_finds_the_photograph(open_report: Open) -> None:
    page = open_report()
    box = page.locator(".picture").first.bounding_box()
    place = [box["x"] + box["width"] / 2, box["y"] + box["height"] / 2]
    assert page.evaluate("([x, y]) => document.elementFromPoint(x, y).tagName", place) == "IMG"


def test_on_paper_every_photograph_has_its_heatmap(open_report: Open, tmp_path: Path) -> None:
    """Also those that were never in sight; afterwards they take no memory."""
    page = open_report(entry(f"{index:02}.png", index / 40, peak=0.8) for index in range(40))
    page.evaluate(f"addEventListener('beforeprint', () => (window.drawn = {DRAWN}))")
    wait_for(page, f"{DRAWN} > 0")
    page.pdf(path=tmp_path / "report.pdf")
    assert page.evaluate("drawn") == 40
    assert page.evaluate(DRAWN) < 40


def test_on_paper_two_cards_are_side_by_side_and_none_breaks(open_report: Open, tmp_path: Path) -> None:
    nearest = NearestReference(photograph(), photograph(), "good/1.png")
    page = open_report(entry(f"photograph{index:02}.png", 0.9)._replace(nearest=nearest) for index in range(24))
    page.get_by_role("button", name="Enlarge photograph00.png").click()
    page.pdf(path=tmp_path / "report.pdf", format="A4")
    pages = (tmp_path / "report.pdf").read_bytes().count(b"/Type /Page\n")
    assert 4 < pages <= 5, "six cards on each page, and fewer on the first"
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 700, "height": 1000})
    cards = page.locator(".card")
    boxes = [card.bounding_box() for card in cards.all()]
    for left, right in zip(boxes[::2], boxes[1::2], strict=True):
        assert left["y"] == right["y"]
        assert left["x"] + left["width"] < right["x"]
    assert set(cards.evaluate_all("(cards) => cards.map((card) => getComputedStyle(card).breakInside)")) == {"avoid"}
    assert not page.locator("button:visible, input:visible").count()


def test_proportions_are_kept(open_report: Open) -> None:
    tall = entry("tall.png", 0.9)._replace(photograph=Image.new("RGB", (100, 1000)))
    page = open_report([tall])
    image, canvas = (page.locator(f".picture {tag}").bounding_box() for tag in ("img", "canvas"))
    assert image == canvas
    assert image["height"] <= 400
    assert page.locator(".picture img, .picture canvas").evaluate_all(
        "(elements) => elements.map((element) => getComputedStyle(element).objectFit)"
    ) == ["contain", "contain"]


@pytest.mark.slow
def test_a_thousand_photographs(open_report: Open) -> None:
    page = open_report(entry(f"{index:04}.png", index / 1000, peak=index / 1000) for index in range(1000))
    assert page.locator(".card").count() == 1000
    wait_for(page, f"{DRAWN} > 0")
    assert page.evaluate(DRAWN) < 40
    move(page, "Image threshold", 0.25)
    assert page.get_by_role("status").first.text_content() == "749 anomalous, 251 normal, 0 not read; 1000 shown"
    for name in ("0500.png", "0001.png"):
        assert (outline(page, name) is None) == (name == "0001.png")
        assert page.evaluate(DRAWN) < 40
    show(page, "Normal 251")
    assert len(states(page)) == 251
