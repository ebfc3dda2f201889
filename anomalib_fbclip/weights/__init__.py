# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Weights: which there are, where they come from, what they fit, and how they are stored."""
