# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Muon in the parameters' own precision."""

from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.optim import Optimizer

COEFFICIENTS = 3.4445, -4.7750, 2.0315
"""Polynomial of an iteration, in odd powers of the matrix."""

ITERATIONS = 5


class Muon(Optimizer):
    """Momentum with Nesterov's look ahead, whose steps are orthogonal matrices (Jordan et al., Muon, 2024).

    ``torch.optim.Muon`` multiplies in bfloat16, which takes two thirds of a training step on a CPU that has no
    instructions for it. Its steps are scaled as there with ``adjust_lr_fn="match_rms_adamw"``.

    Args:
        params (Iterable[nn.Parameter]): Matrices.
        lr (float): Learning rate.
        weight_decay (float): Decoupled weight decay.
        momentum (float): Share of the earlier gradients.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, weight_decay: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Step.

        Args:
            closure (Callable[[], float] | None, optional): Computes the loss and the gradients.
                Defaults to ``None``: they are there.

        Returns:
            float | None: What the closure returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                average = self.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))
                average.lerp_(parameter.grad, 1 - group["momentum"])
                direction = orthogonalize(parameter.grad.lerp(average, group["momentum"]))
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.sub_(direction, alpha=0.2 * group["lr"] * max(parameter.shape) ** 0.5)
        return loss


def orthogonalize(matrix: torch.Tensor) -> torch.Tensor:
    """Bring a matrix's singular values near 1, by Newton and Schulz's iteration.

    Args:
        matrix (torch.Tensor): Matrix, shape ``[M, N]``.

    Returns:
        torch.Tensor: Matrix of the same singular vectors, whose singular values are about 0.7 to 1.2.
    """
    if len(matrix) > matrix.shape[1]:
        return orthogonalize(matrix.mT).mT
    first, third, fifth = COEFFICIENTS
    result = matrix / matrix.norm().clamp(min=1e-7)
    for _ in range(ITERATIONS):
        square = result @ result.mT
        result = torch.addmm(result, third * square + fifth * square @ square, result, beta=first)
    return result
