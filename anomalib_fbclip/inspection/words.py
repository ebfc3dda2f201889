# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Words for numbers."""


def count(number: int, noun: str) -> str:
    """Give a number of things in words."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
