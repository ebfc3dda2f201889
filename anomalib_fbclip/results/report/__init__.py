# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""What a prediction looks like: a picture of one photograph, and a page of all of them.

Both are drawn from :class:`~anomalib_fbclip.results.records.Record`, whoever predicted. Pictures need NumPy and Pillow
only; the page needs Jinja2, too.
"""
