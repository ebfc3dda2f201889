# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Post-processing with thresholds that can be given, for data without labels to fit them on."""

from typing import Any

from anomalib.post_processing import PostProcessor


class ThresholdPostProcessor(PostProcessor):
    """Post-processor of anomalib that takes thresholds of the scores as they are shown.

    Without labelled validation images scores stay as the model gives them, and anomalib's threshold is 0.5. With them,
    the normalisation moves the threshold that fits them best to 0.5. In both cases a given threshold is one of the
    scores that come out. It also stands against that of a checkpoint.

    Args:
        image_threshold (float | None, optional): Score, 0..1, above which an image is anomalous. ``None``: 0.5.
            Defaults to ``None``.
        pixel_threshold (float | None, optional): Value of the anomaly map, 0..1, above which a pixel is anomalous.
            ``None``: 0.5. Defaults to ``None``.

    Raises:
        ValueError: If a threshold is not in 0..1.

    Example:
        >>> post_processor = ThresholdPostProcessor(image_threshold=0.7)
        >>> round(post_processor.normalized_image_threshold.item(), 6)
        0.7
    """

    def __init__(self, image_threshold: float | None = None, pixel_threshold: float | None = None) -> None:
        super().__init__()
        self._given_sensitivities: dict[str, Any] = {}
        for level, threshold in (("image", image_threshold), ("pixel", pixel_threshold)):
            if threshold is None:
                continue
            if not 0 <= threshold <= 1:
                msg = f"{level}_threshold lies in 0..1, as the scores do, and is not {threshold}."
                raise ValueError(msg)
            self._given_sensitivities[f"{level}_sensitivity"] = 1 - threshold
        super().load_checkpoint_config(self._given_sensitivities)

    def load_checkpoint_config(self, config: dict[str, Any]) -> None:
        """Restore the configuration of a checkpoint, but for the thresholds that were given."""
        super().load_checkpoint_config(config | self._given_sensitivities)
