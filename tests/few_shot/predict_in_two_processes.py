# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Predict by good photographs in one or two processes; Lightning starts this script again for the second one.

Usage: ``python predict_in_two_processes.py <processes> <backbone> <adapters> <good photographs> <images> <output>``
"""

import logging
import sys

from anomalib.engine import Engine

from anomalib_fbclip import FBClip

if __name__ == "__main__":
    devices, backbone, adapters, good, images, output = sys.argv[1:]
    logging.basicConfig(level=logging.INFO)
    strategy = "ddp" if devices == "2" else "auto"
    engine = Engine(default_root_dir=output, accelerator="cpu", devices=int(devices), strategy=strategy)
    model = FBClip(backbone=backbone, weights=adapters, few_shot_source=good)
    engine.predict(model, data_path=images, return_predictions=False)
