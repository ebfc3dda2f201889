# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Sources of a model's adapters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from .adapters import Adapters
from .published import PUBLISHED, check_published
from .registry import BUNDLED

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.utils.hooks import RemovableHandle

    from anomalib_fbclip.modeling.fbclip import FBClipModel


def resolve_adapters_file(weights: str, backbone: str) -> Path | None:
    """Find the file of the adapters that are asked for, as far as it is known without a run of the trainer.

    Args:
        weights (str): Path of a file, ``"mvtec"``, ``"visa"`` or ``"auto"``.
        backbone (str): Name of the backbone.

    Returns:
        Path | None: The file; for ``"auto"`` that of a bundled backbone. ``None``: published adapters.

    Raises:
        ValueError: If adapters are named that do not fit the backbone.
    """
    if weights == "auto":
        return BUNDLED[backbone].adapters if backbone in BUNDLED else None
    if weights not in PUBLISHED:
        return Path(weights)
    check_published(backbone)
    return None


def read_adapters_file(weights: str) -> Adapters | None:
    """Read the adapters that are asked for, if they are a file's.

    Args:
        weights (str): Path of a file, ``"mvtec"``, ``"visa"`` or ``"auto"``.

    Returns:
        Adapters | None: The adapters; ``None`` if no file is asked for.

    Raises:
        ValueError: If they can't be read.
    """
    return None if weights in {"auto", *PUBLISHED} else Adapters.read(Path(weights))


def read_given_adapters(weights: str, backbone: str) -> Adapters | None:
    """Read the adapters that are asked for, as far as they are known without a run of the trainer.

    Args:
        weights (str): Path of a file, ``"mvtec"``, ``"visa"`` or ``"auto"``.
        backbone (str): Name of the backbone.

    Returns:
        Adapters | None: The adapters; ``None``: published ones.

    Raises:
        ValueError: If they can't be read, or belong to another backbone.
    """
    path = resolve_adapters_file(weights, backbone)
    if path is None:
        return None
    adapters = Adapters.read(path, weights)
    adapters.check_backbone(backbone)
    return adapters


class _Pending(NamedTuple):
    """Adapters that are still to be fetched."""

    fetch: Callable[[], Adapters]
    hook: RemovableHandle


class AdapterSource:
    """Source of a model's adapters, in one of three states.

    - Untrained: the adapters have their initial values. The first state.
    - Given: they come from a file, a checkpoint or a training, and ``trained_on`` names the dataset.
    - Published: they are fetched before the model is first used. Then they are given.

    Args:
        model (FBClipModel): The model.

    Attributes:
        trained_on (str | None): Dataset that the adapters were trained on; ``None`` if they are untrained or are still
            to be fetched.
    """

    def __init__(self, model: FBClipModel) -> None:
        self.trained_on: str | None = None
        self._model = model
        self._pending: _Pending | None = None

    @property
    def is_trained(self) -> bool:
        """True if the model has trained adapters, or will have when it is used."""
        return bool(self.trained_on or self._pending)

    def give(self, trained_on: str | None) -> None:
        """Note that the model has adapters; none are fetched any more.

        Args:
            trained_on (str | None): Dataset that they were trained on; ``None`` if they are untrained.
        """
        self.trained_on = trained_on
        if self._pending:
            self._pending.hook.remove()
            self._pending = None

    def load(self, adapters: Adapters) -> None:
        """Load adapters into the model.

        Args:
            adapters (Adapters): The adapters.

        Raises:
            ValueError: If they do not fit the model.
        """
        adapters.load_into(self._model)
        self.give(adapters.source)

    def fetch_when_needed(self, fetch: Callable[[], Adapters]) -> None:
        """Have adapters fetched and loaded before the model is first used.

        Args:
            fetch (Callable[[], Adapters]): Fetches them.
        """
        self._pending = _Pending(fetch, self._model.register_forward_pre_hook(self._before_forward))

    def make_ready(self) -> None:
        """Fetch and load the adapters that are still to be fetched, if there are any."""
        if self._pending:
            self.load(self._pending.fetch())

    @torch.compiler.disable
    def _before_forward(self, *args) -> None:
        del args
        self.make_ready()
