# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Results of any model: thresholds, regions, the table, pictures and the report.

The model in anomalib and an exported file on a small machine share it, so it needs NumPy and Pillow only.
"""
