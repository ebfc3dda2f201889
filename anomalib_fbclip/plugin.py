# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Registration of FB-CLIP with anomalib by name, without an import by the user.

anomalib finds models and datamodules by name among the classes that are imported and among the attributes of
``anomalib.models`` and ``anomalib.data``; it has no entry points for classes from outside. Therefore:

1. When Python starts, ``anomalib_fbclip.pth`` (from Python 3.15 on ``anomalib_fbclip.start``, PEP 829) in site-packages
   calls :func:`install`. It only notes which modules to wait for.
2. As soon as anomalib's module has been imported, our classes are imported and become its attributes, as if they came
   with anomalib.

The environment variable ``ANOMALIB_FBCLIP_AUTOLOAD=0`` switches this off; ``--model anomalib_fbclip.FBClip`` still
works.

This module runs whenever Python starts: it imports next to nothing, and nothing slow.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType


class NameRegistration:
    """A finder on ``sys.meta_path`` that adds our classes to one of anomalib's modules once it has been imported.

    It leaves all finding and loading to the other finders. ``sources`` has our classes, and the module that defines
    each, which may import ``target``, anomalib's module.
    """

    def __init__(self, target: str, sources: "dict[str, str]") -> None:
        self.target = target
        self.sources = sources

    def find_spec(
        self,
        fullname: str,
        path: "Sequence[str] | None" = None,
        target: "ModuleType | None" = None,
    ) -> "ModuleSpec | None":
        """Find anomalib's module with the other finders; see :class:`importlib.abc.MetaPathFinder`."""
        if fullname != self.target:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        found = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is None or spec.loader is None:
            return spec
        loader, execute = spec.loader, spec.loader.exec_module

        def execute_and_register(module: "ModuleType") -> None:
            del loader.exec_module
            execute(module)
            self.register(module)

        loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec

    def register(self, module: "ModuleType") -> None:
        """Make the classes attributes of anomalib's module, unless it has them already.

        The attributes are resolved on access (PEP 562), because one of our modules may still be waiting for anomalib's
        to be imported, and has no class yet.
        """
        # A class may be anomalib's own: a second one of the same name would make jsonargparse refuse both.
        sources = {name: source for name, source in self.sources.items() if name not in vars(module)}

        def find(name: str) -> object:
            from importlib import import_module

            if name in sources:
                return getattr(import_module(sources[name]), name)
            msg = f"module {module.__name__!r} has no attribute {name!r}"
            raise AttributeError(msg)

        module.__getattr__ = find  # type: ignore[method-assign]
        for name in tuple(sources):
            if not import_or_warn(name, sources[name]):
                del sources[name]
        module.__all__.extend(name for name in sources if name not in module.__all__)


def import_or_warn(name: str, source: str) -> bool:
    """Import a class's module, or warn in one line why that failed, and leave anomalib as it is without us."""
    from importlib import import_module

    before = set(sys.modules)
    try:
        import_module(source)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with us, anomalib's own models go on working
        import logging

        message = "anomalib-fbclip: %s cannot be used, because importing %s failed: %s: %s"
        logging.getLogger(__name__).warning(message, name, source, type(error).__name__, error)
    else:
        return True
    # A class that was made before the failure is among the subclasses that anomalib lists, until it is collected.
    import gc

    for imported in set(sys.modules) - before:
        if imported.startswith("anomalib_fbclip."):
            del sys.modules[imported]
    gc.collect()
    return False


REGISTRATIONS = (
    NameRegistration(
        "anomalib.data",
        {
            "AuxiliaryDataModule": "anomalib_fbclip.data.auxiliary",
            "MetaJson": "anomalib_fbclip.data.meta_json",
        },
    ),
    NameRegistration("anomalib.models", {"FBClip": "anomalib_fbclip.lightning.model"}),
)


def install() -> None:
    """Register the names as soon as anomalib is imported, or at once if it already is."""
    if os.environ.get("ANOMALIB_FBCLIP_AUTOLOAD") == "0":
        return
    for registration in REGISTRATIONS:
        if registration.target in sys.modules:
            registration.register(sys.modules[registration.target])
        elif registration not in sys.meta_path:
            sys.meta_path.insert(0, registration)
