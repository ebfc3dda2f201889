# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Fitted thresholds: the best F1 score, in the middle of the widest gap."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from anomalib_fbclip.lightning.adaptive_threshold import RESOLUTION, ImageThreshold, PixelThreshold

scores = st.lists(st.tuples(st.integers(0, 50), st.booleans()), min_size=1, max_size=30)


def f1(values: np.ndarray, labels: np.ndarray, threshold: float) -> float:
    called = values > threshold
    return 2 * (called & labels).sum() / (called.sum() + labels.sum())


def oracle(values: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Try the middle of every gap, and give the best F1 score and the width of its widest gap."""
    edges = [0.0, *sorted(set(values.tolist()))]
    gaps = list(pairwise(edges))
    tried = [(f1(values, labels, (low + high) / 2), high - low) for low, high in gaps]
    return max(tried)


def fit_images(values: np.ndarray, labels: np.ndarray) -> tuple[float, str]:
    """Give the threshold and its source; the ends of the fit are those of the scores."""
    metric = ImageThreshold()
    for value, label in zip(values, labels, strict=True):
        metric.update(torch.tensor([value]), torch.tensor([label]))
    fit = metric.compute()
    assert (fit.minimum.item(), fit.maximum.item()) == pytest.approx((values.min(), values.max()))
    return fit.threshold.item(), fit.source


def gap_around(values: np.ndarray, threshold: float) -> tuple[float, float]:
    return max([0.0, *values[values <= threshold]]), min(values[values > threshold])


@given(scores)
def test_of_images(pairs: list[tuple[int, bool]]) -> None:
    values = np.array([(1 + score) / 64 for score, _ in pairs])
    labels = np.array([label for _, label in pairs])
    threshold, source = fit_images(values, labels)
    if not labels.any():
        assert source == "normal images"
        assert max(values) < threshold <= max(values) + 2 * RESOLUTION
        return
    best, width = oracle(values, labels)
    assert source == "labels"
    assert f1(values, labels, threshold) == pytest.approx(best)
    low, high = gap_around(values, threshold)
    assert high - low == pytest.approx(width)
    assert threshold == pytest.approx((low + high) / 2)


def test_one_defect() -> None:
    """The image that sets the threshold is anomalous."""
    values, labels = np.array([0.2, 0.25, 0.3, 0.3, 0.7]), np.array([False] * 4 + [True])
    assert fit_images(values, labels) == (pytest.approx(0.5), "labels")


def test_of_two_best_gaps_the_widest() -> None:
    values, labels = np.array([0.1, 0.2, 0.6, 0.7]), np.array([False, True, False, True])
    # F1 is 0.8 between 0.1 and 0.2, and 2/3 elsewhere or less.
    assert fit_images(values, labels)[0] == pytest.approx(0.15)
    values, labels = np.array([0.1, 0.4, 0.5, 0.9]), np.array([False, True, False, True])
    assert fit_images(values, labels)[0] == pytest.approx(0.25)
    values, labels = np.array([0.5, 0.6, 0.7, 0.9]), np.array([True, False, False, True])
    # 2/3 below all (a gap of 0.5), and between 0.7 and 0.9 (a gap of 0.2).
    assert fit_images(values, labels)[0] == pytest.approx(0.25)
    values, labels = np.array([0.1, 0.35, 0.4, 0.5, 0.7]), np.array([False, True, False, False, True])
    # 2/3 between 0.1 and 0.35, and between 0.5 and 0.7.
    assert fit_images(values, labels)[0] == pytest.approx(0.225)


def test_scores_that_rounding_can_swap_are_not_told_apart() -> None:
    values = np.array([0.1, 0.5, 0.5 + 2e-7, 0.9])
    threshold, _ = fit_images(values, np.array([False, False, True, True]))
    assert min(abs(values - threshold)) > RESOLUTION


def test_without_images() -> None:
    for metric in (ImageThreshold(), PixelThreshold()):
        with pytest.warns(UserWarning, match="before the ``update``"):
            assert metric.compute() is None


@given(arrays(np.int64, (2, 3, 4), elements=st.integers(0, 40)), arrays(bool, (2, 3, 4)))
def test_of_pixels(steps: np.ndarray, mask: np.ndarray) -> None:
    values = (1 + steps) / 64
    metric = PixelThreshold()
    for image, image_mask in zip(torch.tensor(values), torch.tensor(mask), strict=True):
        metric.update(image[None], image_mask[None], image_mask.any()[None])
    fit = metric.compute()
    assert (fit.minimum.item(), fit.maximum.item()) == (values.min(), values.max())
    if not mask.any():
        assert fit.source == "normal images"
        return
    threshold = fit.threshold.item()
    best, width = oracle(values.ravel(), mask.ravel())
    assert fit.source == "masks"
    assert f1(values.ravel(), mask.ravel(), threshold) == pytest.approx(best)
    low, high = gap_around(values, threshold)
    assert (high - low, threshold) == (pytest.approx(width), pytest.approx((low + high) / 2))


def test_without_masks_the_normal_images_tell() -> None:
    maps = torch.stack([torch.linspace(0, 0.4, 1000), torch.linspace(0, 1, 1000)]).view(2, 10, 100)
    metric = PixelThreshold()
    metric.update(maps, None, torch.tensor([False, True]))
    fit = metric.compute()
    assert fit.source == "normal images"
    assert fit.threshold.item() == pytest.approx(0.4 * 998 / 999)  # the 999th of the 1000 values
    assert fit.maximum == 1


def test_without_masks_and_normal_images_nothing_tells() -> None:
    metric = PixelThreshold()
    metric.update(torch.rand(2, 4, 4), None, torch.tensor([True, True]))
    assert metric.compute().threshold.isnan()
