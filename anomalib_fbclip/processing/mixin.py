# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""What parts of a model that are classes of their own have in common."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anomalib.models.components import AnomalibModule

    ModelMixin = AnomalibModule
else:

    class ModelMixin:
        """A part of one of anomalib's models. Subclasses of ``AnomalibModule`` are listed as models."""
