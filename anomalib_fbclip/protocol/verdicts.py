# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""How good the verdicts on images are at the threshold 0.5, beside how well scores rank them."""

import torch
from anomalib.metrics import AnomalibMetric
from torchmetrics.classification import BinaryRecall, BinarySpecificity

from anomalib_fbclip.evaluation.evaluator import RankingEvaluator


class Recall(AnomalibMetric, BinaryRecall):  # type: ignore[misc] # anomalib takes batches
    """Share of the anomalous images that are called anomalous."""


class FalsePositiveRate(AnomalibMetric, BinarySpecificity):  # type: ignore[misc] # anomalib takes batches
    """Share of the normal images that are called anomalous."""

    higher_is_better = False

    def compute(self) -> torch.Tensor:
        """Compute the share, 0..1."""
        return 1 - super().compute()


class VerdictEvaluator(RankingEvaluator):
    """Evaluates the verdicts at the threshold 0.5, and the paper's four metrics.

    - ``image_Recall``: share of the anomalous images that are called anomalous
    - ``image_FalsePositiveRate``: share of the normal images that are called anomalous

    With good photographs, 0.5 is the threshold that comes from them.
    """

    def __init__(self) -> None:
        super().__init__()
        fields = ["pred_score", "gt_label"]
        self.test_metrics.extend([Recall(fields, prefix="image_"), FalsePositiveRate(fields, prefix="image_")])
