# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

import numpy as np
from PIL import Image

from anomalib_fbclip.edge import Prediction, draw_overlay
from anomalib_fbclip.report.heatmap import to_colors


def prediction(anomaly_map: np.ndarray, mask: np.ndarray) -> Prediction:
    return Prediction(
        image=np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8),
        path=None,
        score=0.5,
        is_anomalous=False,
        anomaly_map=anomaly_map.astype(np.float32),
        mask=mask,
        seconds=0.1,
    )


def test_where_nothing_is_anomalous_the_image_is_grey() -> None:
    nothing = prediction(np.zeros((6, 6)), np.zeros((6, 6), bool))
    gray = Image.fromarray(nothing.image).convert("L").convert("RGB")
    assert np.array_equal(np.array(draw_overlay(nothing)), np.array(gray))


def test_the_map_covers_the_whole_image() -> None:
    anomaly_map = np.zeros((6, 6))
    anomaly_map[3:, :3] = 1
    picture = np.array(draw_overlay(prediction(anomaly_map, np.zeros((6, 6), bool)))).astype(int)
    assert picture.shape == (60, 90, 3)
    difference = np.ptp(picture, axis=2)
    assert difference[40:, :30].min() > 50
    assert difference[:20].max() == 0
    assert difference[:, 60:].max() == 0


def test_the_region_has_an_outline() -> None:
    mask = np.zeros((6, 6), bool)
    mask[2:4, 2:4] = True
    picture = np.array(draw_overlay(prediction(np.zeros((6, 6)), mask)))
    assert (picture[30, 30] == 255).all()
    assert (picture[30, 29] == 0).all()
    assert (picture[20, 45] == 255).all()
    assert (picture[19, 45] == 0).all()
    inside = Image.fromarray(prediction(np.zeros((6, 6)), mask).image).convert("L")
    assert (picture[30, 45] == np.array(inside)[30, 45]).all()


def test_values_out_of_range_are_drawn_as_the_nearest_in_range() -> None:
    nothing = np.zeros((6, 6), bool)
    outside, inside = (prediction(np.full((6, 6), value), nothing) for value in (7.5, 1.0))
    assert np.array_equal(np.array(draw_overlay(outside)), np.array(draw_overlay(inside)))


def test_lightness_rises_with_the_value() -> None:
    colors = np.asarray(to_colors(np.linspace(0, 1, 256, dtype=np.float32)[None]))[0]
    lightness = colors @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(lightness) > 0).all()
