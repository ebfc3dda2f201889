# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Evaluate scores that lie on two processes; Lightning starts this script again for the second one.

Usage: ``python evaluate_in_two_processes.py <cases> <folder>``. The file of cases is JSON: for each case and process a
list of batches, for each batch a list of images, and for each of these score and label. Every process writes the
metrics of each case to a file in the folder.
"""

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from anomalib.data import ImageBatch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader, IterableDataset

from anomalib_fbclip.lightning.evaluation import RankingEvaluator

SIDE = 4


class Batches(IterableDataset):
    """The batches of this process; it may have none."""

    def __init__(self, batches: list[list[tuple[float, int]]]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[ImageBatch]:
        for batch in self.batches:
            scores, labels = (torch.tensor(column) for column in zip(*batch, strict=True))
            mask = torch.zeros(len(batch), SIDE, SIDE, dtype=torch.bool)
            mask[:, :, 0] = labels.bool()[:, None]
            yield ImageBatch(
                image=torch.zeros(len(batch), 3, SIDE, SIDE),
                pred_score=scores,
                gt_label=labels.bool(),
                anomaly_map=scores[:, None, None].expand_as(mask).clone(),
                gt_mask=mask,
            )


class Scores(LightningModule):
    """A model whose scores are in the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.evaluator = RankingEvaluator()

    def configure_callbacks(self) -> list[RankingEvaluator]:
        return [self.evaluator]

    def test_step(self, batch: ImageBatch) -> ImageBatch:
        return batch

    def transfer_batch_to_device(self, batch: ImageBatch, *args: object) -> ImageBatch:
        del args
        return batch


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, stream=sys.stdout, format="%(message)s")
    cases, folder = Path(sys.argv[1]), Path(sys.argv[2])
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        default_root_dir=folder,
    )
    model = Scores()
    results = []
    for case in json.loads(cases.read_text(encoding="utf-8")):
        trainer.test(model, DataLoader(Batches(case[trainer.global_rank]), batch_size=None), verbose=False)
        results.append({name: float(value) for name, value in trainer.callback_metrics.items()})
    (folder / f"{trainer.global_rank}.json").write_text(json.dumps(results))
