# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The command ``fbclip``: a verdict for each photograph, a report, a table and pictures.

Neither anomalib nor Lightning is imported, and for an exported model no torch either.
"""
