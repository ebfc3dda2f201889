# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""FBClip for anomalib: the Lightning model, its pre- and post-processing, evaluation and callbacks."""
