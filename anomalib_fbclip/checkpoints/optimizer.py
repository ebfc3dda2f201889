# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The optimizer's state in a checkpoint."""

from typing import Any


def halve_averages(state: dict[str, Any]) -> dict[str, Any]:
    """Copy the state of Adam with its averages in bfloat16, which keeps their range; loading casts them back.

    Args:
        state (dict[str, Any]): State dict of the optimizer.

    Returns:
        dict[str, Any]: The state dict with the averages in half the size.
    """
    halved = {
        index: {name: value.bfloat16() if name.startswith("exp_avg") else value for name, value in averages.items()}
        for index, averages in state["state"].items()
    }
    return {**state, "state": halved}
