# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Errors of the protocol."""


class ProtocolError(Exception):
    """A command cannot begin; the message says in one line why, and what to do."""
