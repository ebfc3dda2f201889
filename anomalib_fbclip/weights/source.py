# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Where a model's adapters come from."""

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
    """Find the file of the requested adapters.

    Args:
        weights (str): Path of a file, ``"mvtec"``, ``"visa"`` or ``"auto"``.
        backbone (str): Name of the backbone.

    Returns:
        Path | None: The file; a bundled backbone's for ``"auto"``; ``None`` for published adapters.

    Raises:
        ValueError: If published adapters do not fit the backbone.
    """
    if weights == "auto":
        return BUNDLED[backbone].adapters if backbone in BUNDLED else None
    if weights not in PUBLISHED:
        return Path(weights)
    check_published(backbone)
    return None


def read_adapters_file(weights: str) -> Adapters | None:
    """Read adapters if ``weights`` is a file, not ``mvtec``, ``visa`` or ``auto``.

    Raises:
        ValueError: If the file can't be read.
    """
    return None if weights in {"auto", *PUBLISHED} else Adapters.read(Path(weights))


def read_given_adapters(weights: str, backbone: str) -> Adapters | None:
    """Read the requested adapters, see :func:`resolve_adapters_file`; ``None`` for published ones.

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
    """Adapters that have not been fetched yet."""

    fetch: Callable[[], Adapters]
    hook: RemovableHandle


class AdapterSource:
    """Source of a model's adapters, in one of three states.

    - Untrained: the adapters have their initial values. This is the first state.
    - Given: they come from a file, a checkpoint or a training.
    - Published: they are fetched before the model is first used, and are then given.

    Args:
        model (FBClipModel): The model.

    Attributes:
        trained_on (str | None): Dataset that the adapters were trained on; ``None`` if they are untrained or not yet
            fetched.
    """

    def __init__(self, model: FBClipModel) -> None:
        self.trained_on: str | None = None
        self._model = model
        self._pending: _Pending | None = None

    @property
    def is_trained(self) -> bool:
        """True if the model has trained adapters, or fetches them before it is used."""
        return bool(self.trained_on or self._pending)

    def give(self, trained_on: str | None) -> None:
        """Note the dataset that the model's adapters were trained on; ``None`` if untrained. None are fetched later."""
        self.trained_on = trained_on
        if self._pending:
            self._pending.hook.remove()
            self._pending = None

    def load(self, adapters: Adapters) -> None:
        """Load adapters into the model.

        Raises:
            ValueError: If they do not fit the model.
        """
        adapters.load_into(self._model)
        self.give(adapters.source)

    def fetch_when_needed(self, fetch: Callable[[], Adapters]) -> None:
        """Fetch and load adapters before the model is first used."""
        self._pending = _Pending(fetch, self._model.register_forward_pre_hook(self._before_forward))

    def make_ready(self) -> None:
        """Fetch and load the adapters now, if that is still to be done."""
        if self._pending:
            self.load(self._pending.fetch())

    @torch.compiler.disable
    def _before_forward(self, *args) -> None:
        del args
        self.make_ready()
