# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Pre-processing that is the same in the exported and in the tested model.

anomalib turns antialiasing off on export, so the exported model sees different pixels. Here
:class:`~anomalib_fbclip.modeling.resize.AntialiasedResize` keeps it.
"""

from typing import Any

from anomalib.pre_processing import PreProcessor
from anomalib.pre_processing.utils.transform import get_exportable_transform
from torchvision.transforms.v2 import Compose, Resize, Transform

from anomalib_fbclip.modeling.resize import KERNELS, AntialiasedResize


class AntialiasedPreProcessor(PreProcessor):
    """Pre-processor of anomalib that keeps the antialiasing of its transform on export.

    Args:
        transform (Transform | None): Transform of the model's input.
    """

    def __init__(self, transform: Transform | None = None) -> None:
        super().__init__(transform)
        self.export_transform = get_antialiased_transform(transform)

    def load_checkpoint_config(self, config: dict[str, Any]) -> None:
        """Restore the configuration of a checkpoint."""
        super().load_checkpoint_config(config)
        self.export_transform = get_antialiased_transform(self.transform)


def get_antialiased_transform(transform: Transform | None) -> Transform | AntialiasedResize | None:
    """Convert a transform to an exportable one that gives the same pixels.

    Resizes that antialias become an :class:`AntialiasedResize`; anomalib converts the rest.
    """
    if isinstance(transform, Compose):
        return Compose([get_antialiased_transform(part) for part in transform.transforms])
    if isinstance(transform, Resize) and transform.antialias and transform.interpolation in KERNELS:
        match transform.size:
            case [height, width]:  # others have only the shorter side, or none
                return AntialiasedResize((height, width), transform.interpolation)
    return get_exportable_transform(transform)
