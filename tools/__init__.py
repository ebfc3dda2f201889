# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Tools that make the package's files. Run them from the root of the repository; they are not installed."""
