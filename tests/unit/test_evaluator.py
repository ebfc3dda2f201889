# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The four metrics against their definitions."""

from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.metrics import AUPRO, AUROC
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import gaussian_filter
from sklearn.metrics import average_precision_score, roc_auc_score

from anomalib_fbclip.lightning.evaluation import (
    BINS,
    ImageAUPR,
    ImageAUROC,
    PixelAUPRO,
    PixelAUROC,
    RankingEvaluator,
    describe_labels,
    to_bins,
)
from support.metrics import area_under_pro, area_under_roc

SIDE = 64


def read_photographs(category: Path, step: int) -> ImageBatch:
    """Read every ``step``-th photograph and its mask; what is unlike its surroundings counts as anomalous."""
    images, masks = [], []
    for path in sorted((category / "test").glob("*/*.jpg"))[::step]:
        mask_path = category / "ground_truth" / path.parent.name / f"{path.stem}_mask.png"
        images.append(np.asarray(Image.open(path).convert("L").resize((SIDE, SIDE)), dtype=np.float32))
        mask = Image.open(mask_path).convert("L") if mask_path.is_file() else Image.new("L", (SIDE, SIDE))
        masks.append(np.asarray(mask.resize((SIDE, SIDE), Image.Resampling.NEAREST)) > 127)
    contrast = np.stack([gaussian_filter(np.abs(image - gaussian_filter(image, 4)), 1) for image in images])
    anomaly_map = torch.from_numpy(1 - np.exp(-contrast / 20))
    gt_mask = torch.from_numpy(np.stack(masks))
    return ImageBatch(
        image=torch.zeros(len(images), 3, 1, 1),
        anomaly_map=anomaly_map,
        pred_score=anomaly_map.amax(dim=(1, 2)),
        gt_mask=gt_mask,
        gt_label=gt_mask.any(dim=2).any(dim=1),
    )


def part_of(batch: ImageBatch, part: slice) -> ImageBatch:
    fields = ("image", "anomaly_map", "pred_score", "gt_mask", "gt_label")
    return ImageBatch(**{field: getattr(batch, field)[part] for field in fields})


def evaluate(batch: ImageBatch, size: int = 5) -> dict[str, float]:
    """Compute the metrics of a test set that comes in batches."""
    metrics = RankingEvaluator().test_metrics
    for start in range(0, len(batch.image), size):
        for metric in metrics:
            metric.update(part_of(batch, slice(start, start + size)))
    return {metric.name: metric.compute() for metric in metrics}


@pytest.fixture
def drawn() -> ImageBatch:
    """Maps with ties and regions that touch at corners only."""
    stream = torch.Generator().manual_seed(0)
    masks = torch.rand(12, 8, 8, generator=stream) > 0.6
    masks[:4] = False
    masks = masks.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)
    maps = (torch.rand(12, 32, 32, generator=stream) + 0.4 * masks).mul(20).round().div(30)
    return ImageBatch(
        image=torch.zeros(12, 3, 1, 1),
        anomaly_map=maps,
        pred_score=maps.mean(dim=(1, 2)),
        gt_mask=masks,
        gt_label=masks.any(dim=2).any(dim=1),
    )


@pytest.mark.parametrize(("category", "step"), [("hazelnut", 1), ("cookie", 1), ("magnetic_tile", 8)])
def test_photographs(real_data: Path, category: str, step: int) -> None:
    batch = read_photographs(real_data / category, step)
    labels, masks = batch.gt_label.numpy(), batch.gt_mask.numpy()
    assert 0 < labels.mean() < 1
    expected = {
        "image_AUROC": roc_auc_score(labels, batch.pred_score),
        "image_AUPR": average_precision_score(labels, batch.pred_score),
        "pixel_AUROC": roc_auc_score(masks.flatten(), batch.anomaly_map.flatten()),
        "pixel_AUPRO": area_under_pro(batch.anomaly_map.numpy(), masks, limit=0.3),
    }
    assert evaluate(batch) == pytest.approx(expected, abs=1e-3)


def test_definitions(drawn: ImageBatch) -> None:
    measured = evaluate(drawn)
    maps, masks = drawn.anomaly_map.numpy(), drawn.gt_mask.numpy()
    assert measured["pixel_AUROC"] == pytest.approx(area_under_roc(maps, masks), abs=1e-6)
    assert measured["pixel_AUPRO"] == pytest.approx(area_under_pro(maps, masks, limit=0.3), abs=1e-6)


def test_same_as_metrics_of_anomalib(drawn: ImageBatch) -> None:
    for ours, theirs in ((PixelAUROC(), AUROC), (PixelAUPRO(), AUPRO)):
        metric = theirs(fields=["anomaly_map", "gt_mask"], prefix="pixel_")
        ours.update(drawn)
        metric.update(drawn)
        assert ours.name == metric.name
        assert ours.compute() == pytest.approx(float(metric.compute()), abs=1e-6)


def test_two_processes_add_up(drawn: ImageBatch) -> None:
    whole, *parts = PixelAUPRO(), PixelAUPRO(), PixelAUPRO()
    whole.update(drawn)
    for part, metric in zip((slice(0, 7), slice(7, None)), parts, strict=True):
        metric.update(part_of(drawn, part))
    assert torch.equal(whole.anomalous, parts[0].anomalous + parts[1].anomalous)
    assert torch.equal(whole.normal, parts[0].normal + parts[1].normal)


def test_a_region_that_fills_its_image(drawn: ImageBatch) -> None:
    """anomalib finds no region in a mask without background."""
    drawn.gt_mask[-1] = True
    expected = area_under_pro(drawn.anomaly_map.numpy(), drawn.gt_mask.numpy(), limit=0.3)
    assert evaluate(drawn)["pixel_AUPRO"] == pytest.approx(expected, abs=1e-6)


SCORES = st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), max_size=12)


class TestImages:
    @staticmethod
    def measure(metric: type, scores: list[tuple[float, bool]], size: int = 3) -> torch.Tensor:
        curve = metric()
        for start in range(0, len(scores), size):
            pred_score, gt_label = zip(*scores[start : start + size], strict=True)
            image = torch.zeros(len(gt_label), 3, 1, 1)
            batch = ImageBatch(image=image, pred_score=torch.tensor(pred_score), gt_label=torch.tensor(gt_label))
            curve.update(batch)
        return curve.compute()

    @given(scores=SCORES)
    def test_same_as_scikit_learn(self, scores: list[tuple[float, bool]]) -> None:
        scores = [*scores, (0.25, False), (0.75, True)]  # both labels
        pred_score, gt_label = zip(*scores, strict=True)
        for metric, expected in ((ImageAUROC, roc_auc_score), (ImageAUPR, average_precision_score)):
            assert self.measure(metric, scores) == pytest.approx(expected(gt_label, pred_score), abs=1e-6)

    @pytest.mark.parametrize("metric", [ImageAUROC, ImageAUPR])
    def test_rounding_beyond_one(self, metric: type) -> None:
        """Scores that are beyond 1 by rounding do not change how those near 0 lie."""
        assert self.measure(metric, [(1e-9, False), (2e-9, True), (1.0000001, True)]) == 1


@pytest.mark.parametrize(
    ("images", "pixels", "sentence"),
    [
        ([4, 0], [64, 0], "The test images are all normal"),
        ([4, 0], [0, 0], "The test images are all normal and have no masks"),
        ([0, 4], [60, 4], "The test images are all anomalous"),
        ([2, 2], [0, 0], "The test images have no masks"),
        ([2, 2], [64, 0], "The test images have no anomalous pixel"),
        ([0, 4], [0, 64], "The test images are all anomalous and have no normal pixel"),
        ([0, 0], [0, 0], "The test images have no labels and have no masks"),
    ],
)
def test_what_images_lack(images: list[int], pixels: list[int], sentence: str) -> None:
    assert describe_labels(images, pixels) == sentence


@pytest.mark.parametrize("metric", [PixelAUROC, PixelAUPRO])
class TestExtremes:
    def measure(self, metric: type, maps: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        curve = metric()
        curve.update(ImageBatch(image=torch.zeros(len(maps), 3, 1, 1), anomaly_map=maps, gt_mask=masks))
        return curve.compute()

    def test_right_and_wrong(self, metric: type, drawn: ImageBatch) -> None:
        masks = drawn.gt_mask
        assert self.measure(metric, masks.float(), masks) == 1
        assert self.measure(metric, 1 - masks.float(), masks) == 0

    def test_says_nothing(self, metric: type, drawn: ImageBatch) -> None:
        constant = self.measure(metric, torch.full((12, 32, 32), 0.25), drawn.gt_mask)
        assert constant == pytest.approx(0.5 if metric is PixelAUROC else 0.15)

    @pytest.mark.parametrize("anomalous", [False, True])
    def test_undefined(self, metric: type, anomalous: bool) -> None:
        assert self.measure(metric, torch.rand(2, 4, 4), torch.full((2, 4, 4), anomalous)).isnan()


class TestBins:
    def test_order(self) -> None:
        scores = torch.cat([torch.logspace(-30, 0, 5000, dtype=torch.float64), torch.linspace(0, 1, 5000)])
        scores = torch.cat([scores, 1 - scores]).float().sort().values
        bins = to_bins(scores)
        assert (bins.diff() >= 0).all()
        assert (bins[0], bins[-1]) == (0, BINS - 1)

    def test_fine_at_both_ends(self) -> None:
        small = torch.tensor([1e-6, 1.001e-6, 0.3, 0.3003])
        for scores in (small, (1 - small[2:]).flip(0)):
            assert (to_bins(scores).diff() > 0).all()

    def test_rounding_beyond_the_ends(self) -> None:
        assert to_bins(torch.tensor([-1e-8, -0.0, 0.0, 1.0, 1.0000001])).tolist() == [0, 0, 0, BINS - 1, BINS - 1]
