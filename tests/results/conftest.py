# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""A browser."""

from collections.abc import Generator

import pytest


@pytest.fixture(scope="session")
def browser() -> Generator:
    sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    from support.chromium import PATH, launch

    if PATH is None:
        pytest.skip("no chromium: apt-get install chromium")
    with sync_api.sync_playwright() as playwright, launch(playwright) as browser:
        yield browser
