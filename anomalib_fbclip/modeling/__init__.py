# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The paper's model. It knows torch and open_clip, and nothing of anomalib, lightning or files."""
