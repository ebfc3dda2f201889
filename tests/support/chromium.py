# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Headless Chromium as the system has it, which asks nobody for anything."""

import shutil
from contextlib import AbstractContextManager

from playwright.sync_api import Browser, Playwright

PATH = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
"""The program; ``None`` where there is none."""

QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def launch(playwright: Playwright) -> AbstractContextManager[Browser]:
    """Start it, with an empty profile that is removed at the end."""
    return playwright.chromium.launch(executable_path=PATH, args=QUIET)
