# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Predict by good photographs in one or two processes; Lightning starts this script again for the second one.

Usage: ``python predict_in_two_processes.py <processes> <backbone> <adapters> <good photographs> <images> <output>``
"""

import logging
import sys

from anomalib.data import PredictDataset
from anomalib.engine import Engine
from torch.utils.data import DataLoader

from anomalib_fbclip import FBClip

if __name__ == "__main__":
    devices, backbone, adapters, good, images, output = sys.argv[1:]
    logging.basicConfig(level=logging.INFO)
    strategy = "ddp" if devices == "2" else "auto"
    engine = Engine(default_root_dir=output, accelerator="cpu", devices=int(devices), strategy=strategy)
    model = FBClip(backbone=backbone, weights=adapters, few_shot_source=good)
    dataset = PredictDataset(images)
    dataloader = DataLoader(dataset, batch_size=2, collate_fn=dataset.collate_fn)
    engine.predict(model, dataloaders=dataloader, return_predictions=False)
