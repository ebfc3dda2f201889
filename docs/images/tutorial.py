# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Make the pictures of ``docs/tutorial.md``: ``python docs/images/tutorial.py``.

It needs Chromium and the extra ``test``.
"""

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from anomalib_fbclip.__main__ import main

HERE = Path(__file__).absolute().parent

GAP, QUALITY = 8, 80


def write_row(paths: Sequence[Path], name: str, side: int) -> None:
    """Write photographs beside each other."""
    row = Image.new("RGB", (len(paths) * (side + GAP) - GAP, side), "white")
    for index, path in enumerate(paths):
        row.paste(Image.open(path).convert("RGB").resize((side, side)), (index * (side + GAP), 0))
    row.save(HERE / name, quality=QUALITY, optimize=True)


def write_report(page: Path, name: str) -> None:
    """Write what a browser shows of the report."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        view = browser.new_page(viewport={"width": 1100, "height": 800})
        view.goto(page.as_uri())
        view.screenshot(path=HERE / name, type="jpeg", quality=QUALITY // 2)
        browser.close()


def run() -> None:
    """Inspect the example's photographs as the page says, and draw what came out."""
    for command in (
        "example",
        "fbclip-example/photographs --alone --output alone",
        "teach fbclip-example/good --output hazelnut.fbclip",
        "fbclip-example/photographs --product hazelnut.fbclip",
    ):
        main(command.split())
    photographs, taught = Path("fbclip-example/photographs"), Path("fbclip-results/v0")
    shown = ("good/04.jpg", "good/25.jpg", "stained/00.jpg", "stained/12.jpg")
    write_row([photographs / name for name in shown], "tutorial_photographs.jpg", side=180)
    maps = [folder / "images/stained/00.jpg.jpg" for folder in (Path("alone/v0"), taught)]
    write_row(maps, "tutorial_heatmaps.jpg", side=300)
    write_report((taught / "report.html").absolute(), "tutorial_report.jpg")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        run()
