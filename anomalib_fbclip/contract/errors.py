# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""What goes wrong outside the program."""


class PlainError(Exception):
    """Something a user can mend. The message is one line: what is wrong, and what to do."""


class ImageError(PlainError):
    """An image can't be used; others can."""


def last_line(error: BaseException) -> str:
    """Give what an error says, without the places in a library's source that come before it."""
    lines = [line.strip() for line in str(error).splitlines() if any(map(str.isalnum, line))]
    return lines[-1] if lines else type(error).__name__
