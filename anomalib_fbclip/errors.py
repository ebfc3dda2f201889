# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""What goes wrong outside the program."""


class PlainError(Exception):
    """Something a user can mend. The message is one line: what is wrong, and what to do."""


class ImageError(PlainError):
    """An image can't be used; others can."""


class EdgeError(PlainError):
    """An exported model or a device can't be used."""


class InspectionError(PlainError):
    """An inspection can't begin, or has to stop."""


class WeightsUnavailableError(RuntimeError):
    """Weights are not in their cache and could not be fetched.

    Args:
        message (str): Which, why, and where they can be put by hand.
        advice (str, optional): What else a user of :class:`FBClip` can do, by its arguments. Defaults to ``""``.

    Attributes:
        message (str): The message without the advice.
    """

    def __init__(self, message: str, advice: str = "") -> None:
        super().__init__(f"{message} {advice}".strip())
        self.message = message


def last_line(error: BaseException) -> str:
    """Give what an error says, without the places in a library's source that come before it."""
    lines = [line.strip() for line in str(error).splitlines() if any(map(str.isalnum, line))]
    return lines[-1] if lines else type(error).__name__
