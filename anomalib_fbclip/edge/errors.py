# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""What goes wrong outside the program."""

from anomalib_fbclip.contract import errors


class EdgeError(errors.PlainError):
    """A model, a device or a folder can't be used."""


class ImageError(EdgeError, errors.ImageError):
    """An image can't be used; others can."""
