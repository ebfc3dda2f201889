# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Small graphs with the inputs and outputs of an exported model."""

from collections.abc import Mapping
from pathlib import Path

import onnx
import openvino
from onnx.helper import set_model_props
from onnx.parser import parse_model

GRAPH = """
<ir_version: 9, opset_import: ["": 18]>
exported (float[batch, 3, height, width] input)
    => (float[n] pred_score, bool[n] pred_label, float[n, h, w] anomaly_map, bool[n, h, w] pred_mask)
{
    channel = Constant <value = int64[1] {1}> ()
    places = Constant <value = int64[2] {-2, -1}> ()
    threshold = Constant <value = float {0.5}> ()
    mean = ReduceMean <keepdims = 0> (input, channel)
    anomaly_map = Identity (mean)
    pred_score = ReduceMax <keepdims = 0> (anomaly_map, places)
    pred_label = Greater (pred_score, threshold)
    pred_mask = Greater (anomaly_map, threshold)
}
"""
"""The map is the mean of the colours, and the score its largest value."""

EXACT = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
"""Has OpenVINO compute as torch does, not in bfloat16, and on one core: other tests run on the others."""

ONE_IMAGE = {"input": {2: "height", 3: "width"}}
"""Axes of an exported model that takes one image at a time. Torch needs twice as long to trace one of any number."""

Change = tuple[str, str]
"""A piece of the graph's text, and what it is replaced by."""


def only_of_width(width: int) -> Change:
    """Let the graph fail on images of all widths but one, and give maps of the wrong shape for some others."""
    shape = f"shape = Constant <value = int64[3] {{-1, {width}, {width}}}> ()"
    return ("anomaly_map = Identity (mean)", f"{shape}\n    anomaly_map = Reshape (mean, shape)")


def write_graph(path: Path, *changes: Change, metadata: Mapping[str, str] | None = None) -> Path:
    """Write a graph as an exported file, ``.onnx`` or ``.xml``, that says what it is where metadata is given."""
    text = GRAPH
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    graph = parse_model(text)
    names = metadata or {}
    if path.suffix == ".onnx":
        set_model_props(graph, {f"fbclip.{key}": value for key, value in names.items()})
        onnx.save(graph, path)
        return path
    model = openvino.Core().read_model(graph.SerializeToString())
    for key, value in names.items():
        model.set_rt_info(value, ["fbclip", key])
    openvino.save_model(model, path)
    return path
