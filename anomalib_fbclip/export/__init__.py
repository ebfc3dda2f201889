# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Export to ONNX and OpenVINO: self-describing files with the verdicts of the tested model.

The other modules of this package import onnx_ir, openvino and nncf, and are therefore imported where they are used.
"""

from .description import describe
from .mixin import ExactExportMixin

__all__ = ["ExactExportMixin", "describe"]
