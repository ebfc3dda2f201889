# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Imports of large libraries, with nothing between them that is not needed."""

import gc
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def quick_imports() -> Generator[None]:
    """Look for no garbage while modules are imported, of which there is none: it takes a quarter of their time.

    What they made is not looked at afterwards either.

    Yields:
        None: Nothing; modules are imported inside.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if was_enabled:
            gc.enable()
