# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Predict in two processes; Lightning starts this script again for the second one.

Usage: ``python predict_in_two_processes.py <backbone> <adapters> <folder of images> <output folder>``
"""

import sys

from anomalib.data import PredictDataset
from anomalib.engine import Engine
from torch.utils.data import DataLoader

from anomalib_fbclip import FBClip

if __name__ == "__main__":
    backbone, adapters, images, output = sys.argv[1:]
    dataset = PredictDataset(images)
    engine = Engine(default_root_dir=output, accelerator="cpu", devices=2, strategy="ddp")
    dataloader = DataLoader(dataset, batch_size=2, collate_fn=dataset.collate_fn)
    engine.predict(FBClip(backbone=backbone, weights=adapters), dataloaders=dataloader, return_predictions=False)
