# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

import numpy as np
from PIL import Image

from anomalib_fbclip.results.pictures import draw_heatmap, to_colors

PHOTOGRAPH = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8))
GRAY = np.array(PHOTOGRAPH.convert("L").convert("RGB"))
NOTHING = np.zeros((6, 6))
NOWHERE = np.zeros((6, 6), bool)


def draw(anomaly_map: np.ndarray, mask: np.ndarray = NOWHERE) -> np.ndarray:
    return np.array(draw_heatmap(PHOTOGRAPH, anomaly_map.astype(np.float32), mask)).astype(int)


def test_where_nothing_is_anomalous_the_photograph_is_gray() -> None:
    assert np.array_equal(draw(NOTHING), GRAY)


def test_the_map_covers_the_whole_photograph() -> None:
    anomaly_map = NOTHING.copy()
    anomaly_map[3:, :3] = 1
    picture = draw(anomaly_map)
    assert picture.shape == (60, 90, 3)
    difference = np.ptp(picture, axis=2)
    assert difference[40:, :30].min() > 50
    assert difference[:20].max() == 0
    assert difference[:, 60:].max() == 0


def test_the_region_has_an_outline() -> None:
    mask = NOWHERE.copy()
    mask[2:4, 2:4] = True
    picture = draw(NOTHING, mask)
    assert (picture[30, 30] == 255).all()
    assert (picture[30, 29] == 0).all()
    assert (picture[20, 45] == 255).all()
    assert (picture[19, 45] == 0).all()
    assert (picture[30, 45] == GRAY[30, 45]).all()


def test_values_out_of_range_are_drawn_as_the_nearest_in_range() -> None:
    assert np.array_equal(draw(NOTHING + 7.5), draw(NOTHING + 1))


def test_lightness_rises_with_the_value() -> None:
    colors = np.asarray(to_colors(np.linspace(0, 1, 256, dtype=np.float32)[None]))[0]
    lightness = colors @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(lightness) > 0).all()
