# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""FB-CLIP, a zero-shot anomaly detector, as a model of anomalib.

Once installed, ``anomalib test --model FBClip`` and ``anomalib.models.get_model("FBClip")`` find the model by its name;
see :mod:`anomalib_fbclip.plugin`. From Python:

Example:
    >>> from anomalib.engine import Engine
    >>> from anomalib.models import FBClip  # or: from anomalib_fbclip import FBClip

    >>> predictions = Engine().predict(model=FBClip(), data_path="photographs")  # doctest: +SKIP

This package is imported whenever Python starts, so everything in it is loaded on first use.
"""

# Not typing.TYPE_CHECKING: importing typing takes longer than all that is done here.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from .lightning.model import FBClip
    from .modeling.fbclip import FBClipModel

    __version__: str

__all__ = ["FBClip", "FBClipModel", "__version__"]

_MODULES = {"FBClip": "lightning.model", "FBClipModel": "modeling.fbclip"}


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import version

        return version("anomalib-fbclip")
    if name in _MODULES:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    """List the public names, including those that are not loaded yet."""
    return sorted({*globals(), *__all__})
