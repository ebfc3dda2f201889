# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""OpenVINO models, with metadata and with nodes that keep full precision."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import openvino

from anomalib_fbclip.exported.runtimes import NAMESPACE
from anomalib_fbclip.results.files import naming_full_disk

from .description import MODEL_INFO, model_info
from .onnx_file import PRECISE_PREFIX

PRECISE_KEY = "precise_0"
"""OpenVINO's attribute, with its version, of nodes that keep 32 bits when a graph is run or stored in fewer."""


def convert_to_openvino(path: Path, description: Mapping[str, str], **kwargs: Any) -> openvino.Model:  # noqa: ANN401
    """Convert an ONNX model.

    Args:
        path (Path): A file of :func:`~anomalib_fbclip.export.onnx_file.finish_onnx`.
        description (Mapping[str, str]): The model's metadata.
        **kwargs: Arguments of ``openvino.convert_model``.
    """
    model = openvino.convert_model(path, **kwargs)
    for section, values in (NAMESPACE, description), (MODEL_INFO, model_info(description)):
        for name, value in values.items():
            model.set_rt_info(value, [section, name])
    return _mark_precise_nodes(model)


def _mark_precise_nodes(model: openvino.Model) -> openvino.Model:
    """Mark nodes that keep full precision, and reload the model: OpenVINO respects only marks read from a file."""
    for node in model.get_ops():
        if not _is_precise(node):
            continue
        constants = [value.get_node() for value in node.input_values() if not value.get_node().input_values()]
        for marked in (node, *constants):
            marked.get_rt_info()[PRECISE_KEY] = ""
    core = openvino.Core()
    core.set_property({"ENABLE_MMAP": False})  # the file is removed before the model
    with tempfile.TemporaryDirectory() as folder:
        path = save_openvino(model, Path(folder, "model.xml"), is_half=False)
        return core.read_model(path)


def _is_precise(node: openvino.Node) -> bool:
    """Return whether a node has the prefix, or is one that OpenVINO inserted before such nodes."""
    if "/" in (name := node.get_friendly_name()):
        return name.startswith(PRECISE_PREFIX)
    users = [target.get_node() for output in node.outputs() for target in output.get_target_inputs()]
    return bool(users) and all(user.get_friendly_name().startswith(PRECISE_PREFIX) for user in users)


def save_openvino(model: openvino.Model, path: Path, is_half: bool) -> Path:
    """Write a model to an ``.xml`` file and a ``.bin`` file beside it, and return the path of the first.

    Args:
        model (openvino.Model): The model.
        path (Path): The ``.xml`` file.
        is_half (bool): Whether to store the weights in 16 bits.

    Raises:
        OSError: If they can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming_full_disk(path.parent, RuntimeError):
        openvino.save_model(model, path, compress_to_fp16=is_half)
    return path
