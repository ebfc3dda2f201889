# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""What makes the files that come with the package. It is run from the root of the repository, and not installed."""
