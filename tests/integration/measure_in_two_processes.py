# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Test FBClip in two processes; Lightning starts this script again for the second one.

Usage: ``python measure_in_two_processes.py <backbone> <adapters> <folder of datasets> <output folder>``. Each process
writes metrics and thresholds of each dataset to a file in the output folder.
"""

import json
import os
import sys
from pathlib import Path

from anomalib.engine import Engine

from anomalib_fbclip import FBClip
from support.brightness import make_folder


def measure(root: Path, output: Path, backbone: str, adapters: str, devices: int) -> dict[str, float]:
    """Test on a dataset, and give metrics and thresholds."""
    strategy = "ddp" if devices > 1 else "auto"
    engine = Engine(
        default_root_dir=output, accelerator="cpu", devices=devices, strategy=strategy, enable_progress_bar=False
    )
    model = FBClip(backbone=backbone, weights=adapters)
    engine.test(model, datamodule=make_folder(root), verbose=False)
    names = ("image_threshold", "pixel_threshold", "image_min", "image_max", "pixel_min", "pixel_max")
    metrics = {name: float(value) for name, value in engine.trainer.callback_metrics.items()}
    return metrics | {name: getattr(model.post_processor, name).item() for name in names}


if __name__ == "__main__":
    backbone, adapters, datasets, output = sys.argv[1:]
    results = {}
    for root in sorted(Path(datasets).iterdir()):
        results[root.name] = measure(root, Path(output), backbone, adapters, devices=2)
    rank = os.environ.get("LOCAL_RANK", "0")
    (Path(output) / f"{rank}.json").write_text(json.dumps(results), encoding="utf-8")
