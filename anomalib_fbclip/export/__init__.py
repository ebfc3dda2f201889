# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Export to ONNX and OpenVINO: self-describing files with the verdicts of the tested model.

``graph`` and ``quantization`` import onnx_ir, openvino and nncf, so they are imported only where they are used.
"""
