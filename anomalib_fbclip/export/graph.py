# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""An exported graph, in ONNX and in OpenVINO.

It is simplified, and has metadata, names that say where nodes belong, and nodes that keep full precision.
"""

import ast
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import openvino
from onnx_ir.passes import Sequential
from onnx_ir.passes.common import (
    ClearMetadataAndDocStringPass,
    CommonSubexpressionEliminationPass,
    IdentityEliminationPass,
    InlinePass,
    LiftConstantsToInitializersPass,
    RemoveUnusedNodesPass,
)
from onnxscript.optimizer import fold_constants

from anomalib_fbclip.exported.runtimes import NAMESPACE, openvino_core
from anomalib_fbclip.results.files import naming_full_disk

from .description import MODEL_INFO, model_info

PRECISE_MODULES = (
    "pre_processor",
    "model.tiling._shrink",
    "model.mvfbe.foreground_mask",
    "model.mvfbe.attention.gate",
    "model.decision",
    "model.decision.calibration",
)
"""Modules computed in 32 bits in every graph: positions of pixels need more than 8 bits, a mask cut at a threshold
flips with rounding, the gate's last layer scales all tokens, and distances from good parts are small differences of
cosines near 1."""

IMAGE_TOWER = "model.backbone."
"""Prefix of the names of the image tower's modules."""

BLOCK = re.compile(re.escape(f"{IMAGE_TOWER}visual.transformer.resblocks.") + r"(\d+)")
"""Name of a block of the image tower, with its number, counted from 0."""

ATTENTION = "model.mvfbe"
"""Module whose linear layers are the merged ones of the foreground-background attention."""

PRECISE_PREFIX, BLOCK_PREFIX, ATTENTION_PREFIX, HEAD_PREFIX = "precise/", "block", "attention/", "head/"
"""Prefixes of nodes' names: of the modules in 32 bits; of a block of the image tower, before its number and a slash; of
the attention's linear layers; of all others outside the image tower."""

SCOPES_KEY = "pkg.torch.onnx.name_scopes"
"""Property in which torch's exporter lists the modules around a node, outermost first, and then the node."""

PRECISE_KEY = "precise_0"
"""OpenVINO's attribute, with its version, of nodes that keep 32 bits when a graph is run or stored in fewer."""

LARGEST_FILE = 2**31 - 2**26
"""Largest size of weights inside an ONNX file, in bytes. Larger weights go to a second file."""


def finish_onnx(path: Path, description: Mapping[str, str]) -> None:
    """Simplify an ONNX model from torch's exporter, and add its metadata.

    Weights in a second file are moved into the first, if they fit.
    """
    model = ir.load(path)
    _name_nodes(model.graph)
    # torch's own optimization takes longer than the export, and copies a constant for each of its uses.
    Sequential(InlinePass(), CommonSubexpressionEliminationPass())(model)
    with np.errstate(divide="ignore"):  # the spatial view computes log(0) inside the image
        fold_constants(model, onnx_shape_inference=False)
    _make_constant_choices(model.graph)
    Sequential(
        IdentityEliminationPass(),  # OpenVINO's own elimination would give an output two names
        RemoveUnusedNodesPass(),
        LiftConstantsToInitializersPass(),
        CommonSubexpressionEliminationPass(),
        RemoveUnusedNodesPass(),
        ClearMetadataAndDocStringPass(),
    )(model)
    _forget_shapes(model.graph)
    model.metadata_props.clear()
    model.metadata_props.update({f"{NAMESPACE}.{name}": value for name, value in description.items()})
    model.metadata_props.update({f"{MODEL_INFO} {name}": value for name, value in model_info(description).items()})
    _save(model, path)


def _name_nodes(graph: ir.Graph) -> None:
    for node in graph:
        scopes = ast.literal_eval(node.metadata_props.get(SCOPES_KEY, "[]"))
        node.name = f"{_prefix(scopes)}{node.name}"


def _prefix(scopes: Sequence[str]) -> str:
    """Return the prefix of a node's name; in the image tower, only blocks have one."""
    if any(scope in PRECISE_MODULES for scope in scopes):
        return PRECISE_PREFIX
    if scopes[-2:-1] == [ATTENTION] and scopes[-1].startswith("linear"):
        return ATTENTION_PREFIX
    for scope in scopes:
        if block := BLOCK.fullmatch(scope):
            return f"{BLOCK_PREFIX}{block[1]}/"
    return "" if any(scope.startswith(IMAGE_TOWER) for scope in scopes) else HEAD_PREFIX


def _make_constant_choices(graph: ir.Graph) -> None:
    """Replace choices by a constant condition: unfitted thresholds are NaN, which some runtimes can't handle."""
    for node in graph:
        if node.op_type != "Where":
            continue
        condition, if_true, if_false = node.inputs
        value = None if condition is None else ir.convenience.get_const_tensor(condition)
        if value is None or value.size != 1:
            continue
        chosen = if_true if value.numpy().item() else if_false
        if chosen is not None and chosen.shape == node.outputs[0].shape:
            node.op_type = "Identity"
            node.replace_input_with(0, chosen)
            node.resize_inputs(1)


def _forget_shapes(graph: ir.Graph) -> None:
    """Drop shapes and types inside the graph. Runtimes infer them, and they take as much space as the nodes."""
    for node in graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None
                value.type = None


def _save(model: ir.Model, path: Path) -> None:
    ir.external_data.load_to_model(model)
    weights = [value.const_value for value in model.graph.initializers.values()]
    for file in (path, path.with_name(f"{path.name}.data")):
        file.unlink(missing_ok=True)
    is_large = sum(tensor.nbytes for tensor in weights if tensor is not None) > LARGEST_FILE
    ir.save(model, path, external_data=f"{path.name}.data" if is_large else None)


def convert_to_openvino(path: Path, description: Mapping[str, str], **kwargs: Any) -> openvino.Model:  # noqa: ANN401
    """Convert a file of :func:`finish_onnx`, with arguments of ``openvino.convert_model``, and add its metadata."""
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
    with tempfile.TemporaryDirectory() as folder:
        path = save_openvino(model, Path(folder, "model.xml"), is_half=False)
        return openvino_core().read_model(path, config={"ENABLE_MMAP": False})  # the file is removed before the model


def _is_precise(node: openvino.Node) -> bool:
    """Return whether a node has the prefix, or is one that OpenVINO inserted before such nodes."""
    if "/" in (name := node.get_friendly_name()):
        return name.startswith(PRECISE_PREFIX)
    users = [target.get_node() for output in node.outputs() for target in output.get_target_inputs()]
    return bool(users) and all(user.get_friendly_name().startswith(PRECISE_PREFIX) for user in users)


def save_openvino(model: openvino.Model, path: Path, is_half: bool) -> Path:
    """Write a model to an ``.xml`` file and a ``.bin`` file beside it, with weights in 16 bits if ``is_half``.

    Returns the path of the first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming_full_disk(path.parent, RuntimeError):
        openvino.save_model(model, path, compress_to_fp16=is_half)
    return path
