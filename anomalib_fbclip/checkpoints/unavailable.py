# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Weights that are not on this machine and could not be fetched."""

from anomalib_fbclip import bundled

NEEDS_NO_NETWORK = f"--model.backbone {bundled.NAME} needs no network."


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
