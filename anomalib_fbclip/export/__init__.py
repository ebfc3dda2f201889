# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Export to ONNX and OpenVINO: self-describing files with the verdicts of the tested model.

The other modules of this package import onnx_ir, openvino and nncf, so they are imported only where they are used.
"""

from .description import describe

__all__ = ["describe"]
