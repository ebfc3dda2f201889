# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Results of any model: thresholds, regions, the table, pictures and the report.

They need only NumPy, Pillow and, for the report, Jinja2: exported models use them on small machines.
"""
