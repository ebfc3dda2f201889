# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Predictions from an exported model, without torch and anomalib.

It needs only NumPy, Pillow, and OpenVINO or, for an ``.onnx`` file, ONNX Runtime.

Example:
    >>> from anomalib_fbclip.exported import EdgeInferencer

    >>> inferencer = EdgeInferencer("model.xml", threshold=0.6)  # doctest: +SKIP
    >>> prediction = inferencer.predict("part.jpg")  # doctest: +SKIP
    >>> prediction.score, prediction.is_anomalous  # doctest: +SKIP
    (0.83, True)

    Frames of a camera, computed in parallel and returned in order:

    >>> inferencer = EdgeInferencer("model.xml", performance_hint="THROUGHPUT")  # doctest: +SKIP
    >>> for prediction in inferencer.stream(frames):  # doctest: +SKIP
    ...     print(prediction.score)

On the command line::

    fbclip photographs --model model.xml
"""

from anomalib_fbclip.errors import EdgeError, ImageError

from .inferencer import EdgeInferencer, Prediction, read_image

__all__ = ["EdgeError", "EdgeInferencer", "ImageError", "Prediction", "read_image"]
