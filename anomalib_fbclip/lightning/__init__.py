# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""FBClip as anomalib sees it: a Lightning model, what comes before and after it, and what takes part in its runs."""
