# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""anomalib's command line with FB-CLIP's names registered: ``anomalib-fbclip`` and ``python -m anomalib_fbclip``."""

import sys

from anomalib_fbclip import plugin


def main() -> None:
    """Register the names and run anomalib's command line."""
    plugin.take_over_commands()
    from anomalib.cli.cli import main as anomalib_main

    plugin.register()
    anomalib_main()


if __name__ == "__main__":
    sys.argv[0] = "python -m anomalib_fbclip"  # what the usage line shows
    main()
