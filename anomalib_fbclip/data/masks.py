# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Checks that masks are binary.

anomalib treats every mask value above 0 as anomalous, including compression artifacts, soft edges and a background that
is not quite black.
"""

from pathlib import Path

from PIL import Image

from anomalib_fbclip.images.image_files import printable
from anomalib_fbclip.images.photographs import DECODING_ERRORS, larger_images

SHOWN_VALUES = 5
"""How many of a mask's values its error names."""


class MaskError(ValueError):
    """A mask can't be used. The message is one line: which mask, what is wrong, and what to do."""


def check_mask(path: Path) -> None:
    """Make sure that a mask has no values but 0 and one other.

    Args:
        path (Path): The mask. The values are those that anomalib reads: gray, of 8 bits.

    Raises:
        MaskError: If it has several values above 0, or can't be read.
    """
    try:
        with larger_images(), Image.open(path) as mask:
            histogram = mask.convert("L").histogram()
    except DECODING_ERRORS as error:
        msg = f"Mask {printable(path)} can't be read: {error}"
        raise MaskError(msg) from error
    values = [value for value, pixels in enumerate(histogram) if pixels]
    if sum(value > 0 for value in values) > 1:
        more = f" and {len(values) - SHOWN_VALUES} more" if len(values) > SHOWN_VALUES else ""
        msg = (
            f"Mask {printable(path)} has the values {', '.join(map(str, values[:SHOWN_VALUES]))}{more}, and every one "
            "above 0 would count as anomalous: save it as PNG with 0 and 255."
        )
        raise MaskError(msg)
