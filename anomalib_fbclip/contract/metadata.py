# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Names under which an exported file says what it is."""

NAMESPACE = "fbclip"
"""Section of OpenVINO's rt_info, and prefix of ONNX's properties."""

THRESHOLD_KEYS = ("score_threshold", "map_threshold")
"""The thresholds at which the graph decides on images and on places."""

SOURCE_KEYS = ("image_threshold_source", "pixel_threshold_source")
"""Where these thresholds come from; a post-processor that knows has properties of the same names."""
