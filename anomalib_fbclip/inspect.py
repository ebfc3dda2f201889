# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Command line: from photographs to a decision. ``fbclip`` and ``python -m anomalib_fbclip.inspect`` are the same."""

import sys

from anomalib_fbclip.inspection.command import main

if __name__ == "__main__":
    sys.exit(main())
