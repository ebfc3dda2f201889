# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The paper's model. It depends on torch and open_clip, but not on anomalib, Lightning or files."""
