# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Presentation of predictions: a picture of one photograph, and a page of all of them.

Pictures need only NumPy and Pillow; the page also needs Jinja2.
"""
