# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Take part in a run of the trainer: a folder for the results, pictures, the table, and how a run ends."""
