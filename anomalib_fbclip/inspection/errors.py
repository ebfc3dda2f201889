# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""What goes wrong before an inspection begins."""


class InspectionError(Exception):
    """An inspection can't begin. The message is one line: what is wrong, and what to do."""
