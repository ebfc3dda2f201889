# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Callbacks of the trainer: data checks, results, and the end of a run."""
