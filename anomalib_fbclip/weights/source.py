# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Where a model's adapters come from: a file, the package, or the authors' Google Drive."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from anomalib_fbclip.errors import WeightsUnavailableError
from anomalib_fbclip.results.files import replacing

from . import bundled
from .adapters import PUBLISHED, Adapters
from .backbones import PAPER_IMAGE_SIZE
from .clip_files import NEEDS_NO_NETWORK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch.utils.hooks import RemovableHandle

    from anomalib_fbclip.modeling.fbclip import FBClipModel

logger = logging.getLogger(__name__)

DRIVE_FOLDER = "1YnNLLfdoQFNlvFB8ez_3XZ9Ox5ZrGDCa"
"""Identifier of the authors' Google Drive folder."""

PUBLISHED_BACKBONES = tuple(PAPER_IMAGE_SIZE)
"""Backbones that the authors' adapters fit."""

DATASET_ALIASES = {"mvtecad": "mvtec", "mvtecanomalydetection": "mvtec", "visa20220922": "visa"}
"""Names of these datasets in datamodules and folders."""


def canonical_name(dataset: str) -> str:
    """Normalize a dataset's name: lower case, letters and digits only; ``mvtec`` for MVTec AD, ``visa`` for VisA."""
    name = "".join(character for character in dataset.lower() if character.isalnum())
    return DATASET_ALIASES.get(name, name)


def choose_zero_shot(tested: Iterable[str]) -> str:
    """Choose adapters that were not trained on the tested datasets: ``visa`` for MVTec AD, otherwise ``mvtec``."""
    return "visa" if "mvtec" in map(canonical_name, tested) else "mvtec"


def check_published(backbone: str) -> None:
    """Raise ``ValueError`` if the authors' adapters don't fit a backbone, before they are fetched."""
    if backbone in PUBLISHED_BACKBONES:
        return
    own = "'auto' for those that come with it, " if backbone == bundled.NAME else ""
    msg = (
        f"The published adapters fit backbone {PUBLISHED_BACKBONES[0]} only, not {backbone!r}: set 'weights' to {own}"
        "a file of adapters, or a training checkpoint."
    )
    raise ValueError(msg)


def fetch_published(name: str, folder: Path) -> Path:
    """Find the authors' adapters in a folder, or download them from the authors' Google Drive to it.

    ``name`` is the dataset that they were trained on, ``"mvtec"`` or ``"visa"``. If they are neither there nor can be
    fetched, that is a ``WeightsUnavailableError``.
    """
    path = folder / PUBLISHED[name]
    if path.is_file():
        return path
    from gdown.exceptions import DownloadError  # gdown is slow to import, and needed at most once

    url = f"https://drive.google.com/drive/folders/{DRIVE_FOLDER}"
    logger.info("Fetching FB-CLIP's adapters trained on %s from %s", name, url)
    try:
        _download(path)
    except (OSError, DownloadError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        msg = (
            f"FB-CLIP's adapters trained on {name!r} are not at '{path}', and could not be fetched from {url} "
            f"({reason}). Download {path.name} by hand and put it there, or give a file of adapters as 'weights'."
        )
        advice = "Or train your own with 'anomalib fit'. " + NEEDS_NO_NETWORK
        raise WeightsUnavailableError(msg, advice) from error
    return path


def _download(path: Path) -> None:
    import gdown

    files: list[Any] = gdown.download_folder(id=DRIVE_FOLDER, skip_download=True, quiet=True, use_cookies=False)
    identifiers = {Path(file.path).name: file.id for file in files}
    if path.name not in identifiers:
        msg = f"the folder holds {sorted(identifiers) or 'nothing'}, not {path.name}"
        raise FileNotFoundError(msg)
    with replacing(path) as temporary:
        gdown.download(id=identifiers[path.name], output=os.fspath(temporary), use_cookies=False)
        Adapters.read(temporary)  # rejects a web page about a used-up quota


def read_published(weights: str, tested: Iterable[str], folder: Path) -> Adapters:
    """Read the authors' adapters, after :func:`fetch_published`. ``auto`` means those for the tested datasets."""
    name = choose_zero_shot(tested) if weights == "auto" else weights
    return Adapters.read(fetch_published(name, folder))


def resolve_adapters_file(weights: str, backbone: str) -> Path | None:
    """Find the file of the requested adapters; published ones must fit the backbone, and have none until fetched."""
    if weights == "auto":
        return bundled.ADAPTERS_FILE if backbone == bundled.NAME else None
    if weights not in PUBLISHED:
        return Path(weights)
    check_published(backbone)
    return None


def read_adapters_file(weights: str) -> Adapters | None:
    """Read adapters if ``weights`` is a file, not ``mvtec``, ``visa`` or ``auto``."""
    return None if weights in {"auto", *PUBLISHED} else Adapters.read(Path(weights))


def read_given_adapters(weights: str, backbone: str) -> Adapters | None:
    """Read the requested adapters, unless they are published ones. See :func:`resolve_adapters_file`."""
    path = resolve_adapters_file(weights, backbone)
    return None if path is None else Adapters.read(path, weights)


class _Pending(NamedTuple):
    """Adapters that have not been fetched yet."""

    fetch: Callable[[], Adapters]
    hook: RemovableHandle


class AdapterSource:
    """Source of a model's adapters, in one of three states.

    - Untrained: the adapters have their initial values. This is the first state.
    - Given: they come from a file, a checkpoint or a training.
    - Published: they are fetched before the model is first used, and are then given.
    """

    def __init__(self, model: FBClipModel) -> None:
        self.trained_on: str | None = None  # the dataset; None also if they are not yet fetched
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
        """Load adapters into the model. See :meth:`Adapters.load_into`."""
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
