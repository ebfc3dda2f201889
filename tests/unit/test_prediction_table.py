# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The summary of a prediction, and given thresholds, without a model."""

from pathlib import Path

import pytest

from anomalib_fbclip.lightning.callbacks.prediction_table import summarize
from anomalib_fbclip.lightning.post_processing import ThresholdPostProcessor
from anomalib_fbclip.results.records import Record
from anomalib_fbclip.results.regions import Region

RECORDS = [
    Record(
        "a, b.png",
        score=0.75,
        verdict="anomalous",
        threshold=0.5,
        pixel_threshold=0.4,
        regions=[Region((0, 1, 20, 31), 444), Region((5, 5, 6, 6), 1)],
    ),
    Record("two\nlines\udcff.png", score=0.25, verdict="normal", threshold=0.5, pixel_threshold=0.4, regions=[]),
    Record(None, score=0.5),
    Record("cut.png", error="cut.png can't be read as an image: image file is truncated"),
]


class TestSummary:
    """A few images are named, and many are counted."""

    def test_one(self) -> None:
        assert summarize(RECORDS[:1], Path("results"), pictures=Path("results/images")).splitlines() == [
            "a, b.png: anomalous (score 0.750, threshold 0.5, 2 anomalous regions)",
            "1 image: 1 anomalous",
            f"Table: {Path('results', 'predictions')}.csv and .jsonl",
            "Heatmaps: results/images",
        ]

    def test_many(self) -> None:
        assert summarize(RECORDS[:2] * 6, Path("results"), pictures=None).splitlines() == [
            "12 images: 6 anomalous, 6 normal",
            f"Table: {Path('results', 'predictions')}.csv and .jsonl",
        ]

    def test_without_verdict(self) -> None:
        lines = summarize(RECORDS[2:3], Path("results"), pictures=None).splitlines()
        assert lines[:2] == ["image: no verdict (score 0.500)", "1 image"]

    def test_odd_names_and_failures(self) -> None:
        lines = summarize(RECORDS[1:2] + RECORDS[3:], Path("results"), pictures=None).splitlines()
        assert lines[:3] == [
            "two\\nlines\\udcff.png: normal (score 0.250, threshold 0.5, 0 anomalous regions)",
            "cut.png: failed",
            "2 images: 1 normal, 1 failed",
        ]


class TestThresholds:
    """Those of the post-processor."""

    @pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
    @pytest.mark.parametrize("level", ["image", "pixel"])
    def test_out_of_range(self, level: str, threshold: float) -> None:
        with pytest.raises(ValueError, match=rf"{level}_threshold.*{threshold}"):
            ThresholdPostProcessor(**{f"{level}_threshold": threshold})

    def test_given_ones_stand_against_a_checkpoint(self) -> None:
        config = ThresholdPostProcessor(image_threshold=0.25, pixel_threshold=0.75).checkpoint_config()
        post_processor = ThresholdPostProcessor(pixel_threshold=0.125)
        post_processor.load_checkpoint_config(config)
        assert post_processor.normalized_image_threshold.item() == pytest.approx(0.25)
        assert post_processor.normalized_pixel_threshold.item() == pytest.approx(0.125)
