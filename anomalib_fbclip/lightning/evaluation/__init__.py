# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Metrics, and thresholds that are fitted to labeled images."""
