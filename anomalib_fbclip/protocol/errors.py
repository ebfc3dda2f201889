# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Errors of the protocol."""

from anomalib_fbclip.errors import PlainError


class ProtocolError(PlainError):
    """A command can't begin."""
