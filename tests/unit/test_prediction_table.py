# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The table of answers, without a model."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from anomalib_fbclip.post_processing import ThresholdPostProcessor
from anomalib_fbclip.prediction_table import Answer, Region, find_regions, summarize, write_table

ANSWERS = [
    Answer("a, b.png", 0.75, "anomalous", 0.5, 0.4, [Region((0, 1, 20, 31), 444), Region((5, 5, 6, 6), 1)]),
    Answer("ü\udcff.png", 0.25, "normal", 0.5, 0.4, []),
    Answer(None, 0.5, None, None, None, None),
]


class TestRegions:
    """They are in pixels of the image, not of the mask."""

    def test_of_the_same_size(self) -> None:
        mask = np.zeros((10, 12), dtype=bool)
        mask[1:4, 2:8] = True
        mask[7, 11] = True
        assert find_regions(mask, (10, 12)) == [Region((2, 1, 8, 4), 18), Region((11, 7, 12, 8), 1)]

    def test_of_another_size_and_shape(self) -> None:
        mask = np.zeros((4, 8), dtype=bool)
        mask[1:3, 2:3] = True
        assert find_regions(mask, (40, 16)) == [Region((4, 10, 6, 30), 40)]

    def test_the_largest_is_first(self) -> None:
        mask = np.zeros((6, 6), dtype=bool)
        mask[0, 0] = mask[4:, 2:] = True
        assert [region.area for region in find_regions(mask, (6, 6))] == [8, 1]

    def test_corners_connect(self) -> None:
        assert find_regions(np.eye(3, dtype=bool), (3, 3)) == [Region((0, 0, 3, 3), 3)]

    def test_none(self) -> None:
        assert find_regions(np.zeros((3, 3), dtype=bool), (30, 30)) == []

    @pytest.mark.parametrize("image_size", [(1, 1), (7, 4001), (517, 519)])
    def test_a_region_never_leaves_the_image(self, image_size: tuple[int, int]) -> None:
        (region,) = find_regions(np.ones((518, 518), dtype=bool), image_size)
        assert region == Region((0, 0, image_size[1], image_size[0]), image_size[0] * image_size[1])


class TestFiles:
    """CSV and JSON lines hold the same."""

    def test_json_lines(self, tmp_path: Path) -> None:
        write_table(ANSWERS, tmp_path / "new" / "folder")
        rows = [json.loads(line) for line in (tmp_path / "new" / "folder" / "predictions.jsonl").open()]
        assert rows[0] == {
            "path": "a, b.png",
            "score": 0.75,
            "verdict": "anomalous",
            "threshold": 0.5,
            "pixel_threshold": 0.4,
            "regions": [{"box": [0, 1, 20, 31], "area": 444}, {"box": [5, 5, 6, 6], "area": 1}],
        }
        assert [row["path"] for row in rows] == [answer.path for answer in ANSWERS]
        assert rows[2] == dict.fromkeys(Answer._fields) | {"score": 0.5}

    def test_csv(self, tmp_path: Path) -> None:
        write_table(ANSWERS, tmp_path)
        with (tmp_path / "predictions.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["path"] for row in rows] == ["a, b.png", "ü\udcff.png", ""]
        assert [row["verdict"] for row in rows] == ["anomalous", "normal", ""]
        assert json.loads(rows[0]["regions"])[1] == {"box": [5, 5, 6, 6], "area": 1}
        assert [row["regions"] for row in rows[1:]] == ["[]", ""]

    def test_an_earlier_table_stays_when_writing_fails(self, tmp_path: Path) -> None:
        write_table(ANSWERS[:1], tmp_path)
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        with pytest.raises(TypeError, match="not JSON serializable"):
            write_table([ANSWERS[0], ANSWERS[1]._replace(path=Path("no string"))], tmp_path)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
        assert set(before) == {"predictions.csv", "predictions.jsonl"}


class TestSummary:
    """A few images are named, and many are counted."""

    def test_one(self) -> None:
        assert summarize(ANSWERS[:1], Path("results"), heatmaps="results/images").splitlines() == [
            "a, b.png: anomalous (score 0.750, threshold 0.5, 2 anomalous regions)",
            "1 image: 1 anomalous",
            f"Table: {Path('results', 'predictions')}.csv and .jsonl",
            "Heatmaps: results/images",
        ]

    def test_many(self) -> None:
        assert summarize(ANSWERS[:2] * 6, Path("results"), heatmaps=None).splitlines() == [
            "12 images: 6 anomalous, 6 normal",
            f"Table: {Path('results', 'predictions')}.csv and .jsonl",
        ]

    def test_without_verdict(self) -> None:
        lines = summarize(ANSWERS[2:], Path("results"), heatmaps=None).splitlines()
        assert lines[:2] == ["image: no verdict (score 0.500)", "1 image"]


class TestThresholds:
    """Those of the post-processor."""

    @pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
    @pytest.mark.parametrize("level", ["image", "pixel"])
    def test_out_of_range(self, level: str, threshold: float) -> None:
        with pytest.raises(ValueError, match=f"{level}_threshold lies in 0..1"):
            ThresholdPostProcessor(**{f"{level}_threshold": threshold})

    def test_given_ones_stand_against_a_checkpoint(self) -> None:
        config = ThresholdPostProcessor(image_threshold=0.25, pixel_threshold=0.75).checkpoint_config()
        post_processor = ThresholdPostProcessor(pixel_threshold=0.125)
        post_processor.load_checkpoint_config(config)
        assert post_processor.normalized_image_threshold.item() == pytest.approx(0.25)
        assert post_processor.normalized_pixel_threshold.item() == pytest.approx(0.125)
