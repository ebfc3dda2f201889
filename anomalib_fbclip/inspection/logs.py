# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""What libraries say goes to a file, and nothing of it to the screen."""

import logging
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

LOG_NAME = "fbclip.log"

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


@contextmanager
def logging_to(folder: Path, *, verbose: bool) -> Generator[None]:
    """Send log messages and warnings to a file.

    Args:
        folder (Path): The folder of the file, which is made when there is a first message.
        verbose (bool): Whether they are shown on the screen, too.

    Yields:
        None: Nothing.
    """
    handlers: list[logging.Handler] = [logging.FileHandler(folder / LOG_NAME, delay=True, encoding="utf-8")]
    if verbose:
        handlers.append(logging.StreamHandler(sys.stderr))
    root = logging.getLogger()
    earlier, level = root.handlers[:], root.level
    root.handlers = handlers
    root.setLevel(logging.INFO)
    logging.captureWarnings(capture=True)
    raises, logging.raiseExceptions = logging.raiseExceptions, False  # a full disk is told of elsewhere
    for handler in handlers:
        handler.setFormatter(logging.Formatter(FORMAT))
    try:
        yield
    finally:
        for handler in handlers:
            handler.close()
        root.handlers = earlier
        root.setLevel(level)
        logging.captureWarnings(capture=False)
        logging.raiseExceptions = raises
