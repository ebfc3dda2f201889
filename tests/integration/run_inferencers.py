# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Writes what anomalib's inferencers say of images: run_inferencers.py RESULT MODEL=IMAGE ..."""

import sys
from pathlib import Path

import numpy as np
from anomalib.deploy import OpenVINOInferencer, TorchInferencer

FIELDS = ("pred_score", "anomaly_map", "pred_label", "pred_mask")

answers = {}
for pair in sys.argv[2:]:
    model, image = pair.split("=")
    if Path(model).suffix == ".pt":
        prediction = TorchInferencer(model, device="cpu").predict(image)
    else:
        exact = {"INFERENCE_PRECISION_HINT": "f32"}
        prediction = OpenVINOInferencer(model, device="CPU", config=exact).predict(image)
    # Of torch's tensors, numpy() refuses those with a graph.
    values = {field: getattr(prediction, field) for field in FIELDS}
    answers |= {f"{model}/{field}": v if isinstance(v, np.ndarray) else v.numpy() for field, v in values.items()}
np.savez(sys.argv[1], **answers)
