# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0


import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from anomalib_fbclip.results.pictures import (
    MAX_SIDE,
    ROWS,
    draw_heatmap,
    draw_picture,
    resize_map,
    shrink_photograph,
)
from anomalib_fbclip.results.records import Record
from anomalib_fbclip.results.regions import Region

NOTHING = np.zeros((8, 8), dtype=np.float32)

NORMAL = Record("a.png", score=0.2, verdict="normal", threshold=0.5, pixel_threshold=0.5, width=400, height=300)
ANOMALOUS = NORMAL._replace(score=0.8, verdict="anomalous")


def square(value: float) -> np.ndarray:
    """An anomaly map that has a value in its middle half, and 0 elsewhere."""
    anomaly_map = np.zeros((32, 32), dtype=np.float32)
    anomaly_map[8:24, 8:24] = value
    return anomaly_map


def draw(anomaly_map: np.ndarray, record: Record, shade: int = 128, size: tuple[int, int] = (400, 300)) -> np.ndarray:
    return np.asarray(draw_picture(Image.new("RGB", size, (shade, shade, shade)), anomaly_map, record)).astype(int)


def line(picture: np.ndarray) -> np.ndarray:
    """Where the picture is white, but for the caption."""
    return (picture[40:-40] == 255).all(axis=2)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 700), st.integers(1, 700))
@example(1, 1)
@example(1, 700)
@example(700, 1)
def test_it_has_the_size_of_the_photograph(width: int, height: int) -> None:
    assert draw(square(1), ANOMALOUS, size=(width, height)).shape == (height, width, 3)


@pytest.mark.parametrize(("size", "expected"), [((4096, 1024), (2048, 512)), ((100, 3000), (68, 2048))])
def test_up_to_a_limit(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert draw_picture(Image.new("RGB", size), NOTHING, NORMAL).size == expected
    assert max(expected) == MAX_SIDE


def test_a_photograph_that_is_shrunk_stays_as_it_is() -> None:
    photograph = Image.effect_noise((60, 40), 50).convert("RGB")
    before = photograph.copy()
    assert shrink_photograph(photograph, 20).size == (20, 13)
    assert photograph == before


@pytest.mark.parametrize("height", [ROWS - 1, ROWS, 3 * ROWS + 1])
@pytest.mark.parametrize("map_height", [7, 100, 500])
def test_no_seams(height: int, map_height: int) -> None:
    """A map is resized in strips of rows."""
    anomaly_map = np.random.default_rng(0).random((map_height, 30), dtype=np.float32)
    whole = np.asarray(Image.fromarray(anomaly_map).resize((50, height), Image.Resampling.BILINEAR))
    assert np.allclose(resize_map(anomaly_map, height, 50), whole, atol=1e-4)


def test_every_row_has_its_color_and_its_outline() -> None:
    height = 2 * ROWS + 1
    rising = np.linspace(0, 1, height)[:, None].repeat(9, axis=1)
    gray = Image.new("RGB", (9, height), "gray")
    heat = np.asarray(draw_heatmap(gray, rising, np.zeros((height, 9), dtype=bool))).astype(int)
    assert np.abs(np.diff(heat[2:], axis=0)).max() < 8, "from row to row it changes little"
    assert heat[-1, 0, 0] > 200 > heat[0, 0, 0]
    outlined = np.asarray(draw_heatmap(gray, 0 * rising, rising > 0.5))
    assert (outlined[ROWS + 1] == 255).all()
    assert (outlined[ROWS] == 0).all()


@pytest.mark.parametrize("shade", [0, 128, 255])
@pytest.mark.parametrize("value", [0.3, 0.6, 1.0])
def test_an_anomaly_is_seen_on_any_ground(shade: int, value: float) -> None:
    """A difference of 30 of 255 in a channel is plain to see."""
    picture = draw(square(value), NORMAL, shade)
    assert np.abs(picture[150, 200] - picture[150, 20]).max() > 30
    assert (picture[150, 20] == shade).all()


def test_regions_are_outlined() -> None:
    rows, columns = np.nonzero(line(draw(square(0.8), ANOMALOUS)))
    box = (columns.min(), rows.min() + 40, columns.max() + 1, rows.max() + 41)
    assert box == pytest.approx((100, 75, 300, 225), abs=6)
    assert not line(draw(square(0.8), NORMAL)).any(), "a normal photograph has no region"


def test_an_anomalous_photograph_shows_at_least_its_strongest_place() -> None:
    anomaly_map = square(0.1)
    anomaly_map[12, 20] = 0.2
    rows, columns = np.nonzero(line(draw(anomaly_map, ANOMALOUS)))
    assert (columns.mean() + 0.5, rows.mean() + 40.5) == pytest.approx((20.5 / 32 * 400, 12.5 / 32 * 300), abs=2)


def test_without_a_threshold_of_the_map_boxes_are_outlined() -> None:
    record = ANOMALOUS._replace(pixel_threshold=None, regions=[Region((100, 75, 300, 225), 30000)])
    for size in ((400, 300), (200, 150)):
        scale = 400 // size[0]
        white = (draw(NOTHING, record, size=size)[:-25] == 255).all(axis=2)
        columns = np.nonzero(white)[1]
        assert (columns.min() * scale, (columns.max() + 1) * scale) == (100, 300)


def captions(record: Record, anomaly_map: np.ndarray = NOTHING) -> tuple[np.ndarray, np.ndarray]:
    """Draw a picture, and give its upper and its lower edge."""
    picture = draw(anomaly_map, record)
    return picture[:20], picture[-20:]


def test_score_verdict_and_threshold_are_written() -> None:
    written = [
        captions(record)[1]
        for record in (
            NORMAL,
            NORMAL._replace(score=0.3),
            NORMAL._replace(threshold=0.6),
            NORMAL._replace(threshold=None),
            NORMAL._replace(verdict=None),
            ANOMALOUS._replace(score=0.2),
        )
    ]
    for index, one in enumerate(written):
        assert one.max() > 200, "letters"
        assert not any(np.array_equal(one, other) for other in written[:index])


def test_the_color_bar_shows_the_threshold_of_the_map() -> None:
    low, high, none = (
        captions(NORMAL._replace(pixel_threshold=threshold))[1][:, -120:] for threshold in (0.1, 0.9, None)
    )
    assert np.ptp(none, axis=2).max() > 150, "colors"
    (low_places, high_places) = (np.nonzero((bar != none).any(axis=(0, 2)))[0] for bar in (low, high))
    assert low_places.min() < high_places.min()


def test_the_caption_leaves_the_more_anomalous_edge_free() -> None:
    for rows, free in ((slice(0, 4), 0), (slice(-4, None), 1)):
        anomaly_map = np.zeros((32, 32), dtype=np.float32)
        anomaly_map[rows, 14:18] = 1
        edges = captions(NORMAL, anomaly_map)
        assert (edges[free][:, 10] == 128).all()
        assert edges[1 - free][:, 2].max() < 128


@pytest.mark.parametrize("width", [120, 256, 900])
def test_the_caption_fits_into_a_narrow_picture(width: int) -> None:
    one, other = (draw(NOTHING, NORMAL._replace(threshold=threshold), size=(width, 900)) for threshold in (0.5, 0.777))
    words = np.nonzero((one != other).any(axis=(0, 2)))[0]
    color_bar = np.nonzero(np.ptp(one, axis=2)[:, width // 2 :].max(axis=0) > 30)[0] + width // 2
    font_size = (color_bar.max() - color_bar.min() + 1) / 6
    assert color_bar.min() - words.max() > 1.5 * font_size, "a gap, and the 0 of the bar"
    assert width - color_bar.max() > font_size, "the 1"
