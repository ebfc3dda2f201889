# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Learnable, object-agnostic prompts for the normal and the abnormal state."""

from collections.abc import Callable

import torch
from torch import nn

STATES = ("object without defect.", "object with defect.")
"""Words of the normal and the abnormal prompt."""

CONTEXT_LENGTH = 12
"""Number of learned vectors before a state's words."""


class PromptLearner(nn.Module):
    r"""Puts learned context vectors before the words of each state.

    A state with learned vectors :math:`v_1 .. v_{12}` and embedded words :math:`w` gives the prompt:

    .. math::
        [\text{start}] [v_1] \ldots [v_{12}] [w_1] \ldots [w_n] [\text{end}]

    Args:
        token_ids (torch.Tensor | Callable[[], torch.Tensor]): Tokenized prompts, normal state first, shape ``[2, P]``:
            a start token, placeholders for the context vectors, the state's words, an end token with the largest id,
            and padding. Or a function that returns them, called when they are first needed.
        width (int): Width T of the text tower.
    """

    def __init__(self, token_ids: torch.Tensor | Callable[[], torch.Tensor], width: int) -> None:
        super().__init__()
        self._token_ids = token_ids
        self.normal_context = nn.Parameter(torch.randn(CONTEXT_LENGTH, width) * 0.02)
        self.abnormal_context = nn.Parameter(torch.randn(CONTEXT_LENGTH, width) * 0.02)

    @property
    def token_ids(self) -> torch.Tensor:
        """Tokenized prompts, normal state first, shape ``[2, P]``, on the device of the context vectors."""
        if not isinstance(self._token_ids, torch.Tensor):
            self._token_ids = self._token_ids()
        return self._token_ids.to(self.normal_context.device)

    @property
    def end_positions(self) -> torch.Tensor:
        """Position of the end token in each prompt, shape ``[2]``."""
        return self.token_ids.argmax(dim=-1)

    def forward(self, token_embedding: nn.Module) -> torch.Tensor:
        """Embed the prompts.

        Args:
            token_embedding (nn.Module): The text tower's embedding of token ids.

        Returns:
            torch.Tensor: Embedded prompts, normal state first, shape ``[2, P, T]``.
        """
        context = torch.stack([self.normal_context, self.abnormal_context])
        embedded = token_embedding(self.token_ids).to(context.dtype)
        start, words = embedded[:, :1], embedded[:, 1 + CONTEXT_LENGTH :]
        return torch.cat([start, context, words], dim=1)


def tokenize_states(tokenizer: Callable[[list[str]], torch.Tensor]) -> torch.Tensor:
    """Tokenize the states behind placeholders for the context vectors.

    Args:
        tokenizer (Callable): Maps a list of texts to token ids, one row per text.

    Returns:
        torch.Tensor: Token ids, one row per state, shape ``[2, P]``.
    """
    placeholders = " ".join("X" * CONTEXT_LENGTH)
    return tokenizer([f"{placeholders} {state}" for state in STATES])
