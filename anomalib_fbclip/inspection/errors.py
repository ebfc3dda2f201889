# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""What goes wrong before an inspection begins."""

from anomalib_fbclip.contract.errors import PlainError


class InspectionError(PlainError):
    """An inspection can't begin, or has to stop."""
