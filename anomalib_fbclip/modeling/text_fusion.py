# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Multi-strategy text feature fusion: several readings of the same prompts, added (paper: MSTFF).

A strategy maps the hidden states of the text tower ``[2, P, T]``, the same projected to the joint space ``[2, P, D]``,
and the positions of the end tokens ``[2]`` to one feature for each prompt, ``[2, D]``.
"""

from collections.abc import Collection, Mapping

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

STRATEGY_WEIGHTS = {"global": 1.0, "attention": 0.5, "end_of_text": 0.5}
"""The paper's strategies and their weights."""


class GlobalStrategy(nn.Module):
    """Reads a prompt as the mean over all of its positions, padding included."""

    @staticmethod
    def forward(hidden_states: torch.Tensor, projected: torch.Tensor, end_positions: torch.Tensor) -> torch.Tensor:
        """Average the projected hidden states: ``[2, D]``."""
        del hidden_states, end_positions
        return projected.mean(dim=1)


class EndOfTextStrategy(nn.Module):
    """Reads a prompt at its end token, as CLIP does."""

    @staticmethod
    def forward(hidden_states: torch.Tensor, projected: torch.Tensor, end_positions: torch.Tensor) -> torch.Tensor:
        """Return the projected hidden state of the end token: ``[2, D]``."""
        del hidden_states
        return projected[torch.arange(projected.shape[0], device=projected.device), end_positions]


class AttentionStrategy(nn.Module):
    r"""Reads a prompt as a learned weighted mean of its positions, projected by a learned network.

    .. math::
        m = \operatorname{mlp}\Bigl(\sum_p \operatorname{softmax}_p(\operatorname{selector}(X)) \, X_p\Bigr)

    Args:
        width (int): Width T of the text tower.
        embedding_width (int): Width D of the joint space.
    """

    def __init__(self, width: int, embedding_width: int) -> None:
        super().__init__()
        self.selector = nn.Sequential(nn.Linear(width, width // 2), nn.ReLU(), nn.Linear(width // 2, 1))
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, embedding_width))

    def forward(
        self, hidden_states: torch.Tensor, projected: torch.Tensor, end_positions: torch.Tensor
    ) -> torch.Tensor:
        """Average with learned weights, and project: ``[2, D]``."""
        del projected, end_positions
        selection = self.selector(hidden_states).softmax(dim=1)
        return self.mlp((selection * hidden_states).sum(dim=1))


class TextFusion(nn.Module):
    r"""Adds weighted readings of the prompts.

    With the readings :math:`g` (global), :math:`m` (attention) and :math:`e` (end of text), and the paper's weights:

    .. math::
        t = \frac{g + 0.5 m + 0.5 e}{\lVert g + 0.5 m + 0.5 e \rVert}

    Args:
        strategies (Mapping[str, nn.Module]): The readings by name.
        weights (Mapping[str, float]): Weight of each reading. A reading without weight stays in the module, frozen, so
            that its trained parameters can be loaded and saved.

    Raises:
        ValueError: If a strategy is unknown, or all weights are 0.

    Example:
        >>> fusion = TextFusion({"global": GlobalStrategy(), "end_of_text": EndOfTextStrategy()}, {"global": 1.0})
        >>> hidden_states, projected = torch.randn(2, 77, 24), torch.randn(2, 77, 16)
        >>> fusion(hidden_states, projected, end_positions=torch.tensor([17, 17])).shape
        torch.Size([2, 16])
    """

    def __init__(self, strategies: Mapping[str, nn.Module], weights: Mapping[str, float]) -> None:
        super().__init__()
        self.weights = resolve_strategy_weights(weights, strategies)
        self.strategies = nn.ModuleDict(strategies)
        for name, strategy in self.strategies.items():
            strategy.requires_grad_(name in self.weights)

    def forward(
        self, hidden_states: torch.Tensor, projected: torch.Tensor, end_positions: torch.Tensor
    ) -> torch.Tensor:
        """Fuse the readings.

        Args:
            hidden_states (torch.Tensor): Hidden states of the text tower at each position, shape ``[2, P, T]``.
            projected (torch.Tensor): The same in the joint space, shape ``[2, P, D]``.
            end_positions (torch.Tensor): Position of each prompt's end token, shape ``[2]``.

        Returns:
            torch.Tensor: Normalized text features, shape ``[2, D]``.
        """
        readings = [
            weight * self.strategies[name](hidden_states, projected, end_positions)
            for name, weight in self.weights.items()
        ]
        return F.normalize(torch.stack(readings).sum(dim=0), dim=-1)


def resolve_strategy_weights(weights: Mapping[str, float], strategies: Collection[str]) -> dict[str, float]:
    """Check the weights of text strategies, and drop those that are 0.

    Args:
        weights (Mapping[str, float]): Weights by strategy.
        strategies (Collection[str]): Names of all strategies.

    Raises:
        ValueError: If a strategy is unknown, or all weights are 0.
    """
    if unknown := sorted(set(weights) - set(strategies)):
        msg = f"Unknown text strategies {unknown}: choose among {sorted(strategies)}."
        raise ValueError(msg)
    resolved = {name: float(weight) for name, weight in weights.items() if weight}
    if not resolved:
        msg = f"No text strategy has a weight: give at least one of {sorted(strategies)} a weight other than 0."
        raise ValueError(msg)
    return resolved
