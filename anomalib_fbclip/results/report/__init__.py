# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Presentation of predictions: a picture of one photograph, and a page of all of them.

Both are drawn from :class:`~anomalib_fbclip.results.records.Record`, for any model. Pictures need NumPy and Pillow
only; the page also needs Jinja2.
"""
