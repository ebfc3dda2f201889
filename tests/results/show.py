# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""A report to look at, as screenshots and as it is printed.

PYTHONPATH=tests python tests/results/show.py report.html OUTPUT
"""

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from support.chromium import launch


def main(report: Path, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright, launch(playwright) as browser:
        for scheme in ("light", "dark"):
            for name, width in (("wide", 1400), ("narrow", 390)):
                page = browser.new_page(viewport={"width": width, "height": 1000}, color_scheme=scheme)
                page.goto(report.resolve().as_uri())
                page.wait_for_timeout(500)  # until the heatmaps are drawn
                page.screenshot(path=output / f"{scheme} {name}.png")
        page.pdf(path=output / "printed.pdf", format="A4")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
