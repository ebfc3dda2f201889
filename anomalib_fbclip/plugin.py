# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Registers FB-CLIP with anomalib by name, without an import by the user.

anomalib finds models and datamodules by name among the classes that are imported and among the attributes of
``anomalib.models`` and ``anomalib.data``; it has no entry points for classes from outside. Therefore:

1. When Python starts, ``anomalib_fbclip.pth`` (from Python 3.15 on ``anomalib_fbclip.start``, PEP 829) in site-packages
   calls :func:`install`. It only notes which modules to wait for.
2. As soon as anomalib's module has been imported, by whomever and however, ours is imported and its classes become
   attributes of anomalib's, as if they came with anomalib.

The environment variable ``ANOMALIB_FBCLIP_AUTOLOAD=0`` switches this off. ``anomalib-fbclip`` and ``python -m
anomalib_fbclip`` are anomalib's command line with the names registered beforehand, and do not depend on it.

This module runs whenever Python starts: it imports next to nothing, and nothing that takes time.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType


class NameRegistration:
    """Adds classes of one of our modules to one of anomalib's modules, once that one has been imported.

    On ``sys.meta_path`` it is a finder that leaves all finding and loading to the others, and has :meth:`register`
    called after the module was executed.

    Args:
        target (str): anomalib's module.
        source (str): Our module. It may import ``target``.
        names (tuple[str, ...]): The classes in ``source`` that ``target`` gets.
    """

    def __init__(self, target: str, source: str, names: tuple[str, ...]) -> None:
        self.target = target
        self.source = source
        self.names = names

    def register(self) -> None:
        """Import both modules and make the classes attributes of anomalib's; nothing where it has them already."""
        from importlib import import_module

        target = import_module(self.target)
        # They may be anomalib's own: a second class of the same name would make jsonargparse refuse both.
        if any(hasattr(target, name) for name in self.names):
            return
        source = import_module(self.source)  # its finder, if it is installed, comes here too
        for name in self.names:
            setattr(target, name, getattr(source, name))
            if name not in target.__all__:
                target.__all__.append(name)

    def find_spec(
        self,
        fullname: str,
        path: "Sequence[str] | None" = None,
        target: "ModuleType | None" = None,
    ) -> "ModuleSpec | None":
        """Find ``fullname`` by the other finders; see :class:`importlib.abc.MetaPathFinder`."""
        if fullname not in {self.target, self.source}:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                self._register_after_execution(fullname, spec.loader)
                return spec
        return None

    def _register_after_execution(self, fullname: str, loader: "Loader") -> None:
        execute = loader.exec_module

        def execute_and_register(module: "ModuleType") -> None:
            del loader.exec_module
            execute(module)
            if fullname == self.source:
                if self.target in sys.modules:  # otherwise its own import registers
                    self.register()
            elif not _is_executing(self.source):  # otherwise it is what imports anomalib's, and registers at its end
                self.register_or_warn()

        loader.exec_module = execute_and_register  # type: ignore[method-assign]

    def register_or_warn(self) -> None:
        """Register, or say in one line why that is impossible, and leave anomalib as it is without us."""
        before = set(sys.modules)
        try:
            self.register()
        except Exception as error:  # noqa: BLE001 - whatever is wrong with us, anomalib's own models go on working
            import logging

            logging.getLogger(__name__).warning(
                "anomalib-fbclip: %s cannot be used, because importing %s failed: %s: %s",
                " and ".join(self.names),
                self.source,
                type(error).__name__,
                error,
            )
        else:
            return
        # A class that was made before the failure is among the subclasses that anomalib lists, until it is collected.
        import gc

        for name in set(sys.modules) - before:
            if name.startswith("anomalib_fbclip."):
                del sys.modules[name]
        gc.collect()


def _is_executing(name: str) -> bool:
    """Tell whether a module is being imported, as Python itself does."""
    return getattr(getattr(sys.modules.get(name), "__spec__", None), "_initializing", False)


REGISTRATIONS = (
    NameRegistration("anomalib.data", "anomalib_fbclip.data", ("AuxiliaryDataModule", "MetaJson", "SyntheticParts")),
    NameRegistration("anomalib.models", "anomalib_fbclip.lightning_model", ("FBClip",)),
)


def register() -> None:
    """Make the model and the datamodules known to anomalib now; harmless when they are."""
    for registration in REGISTRATIONS:
        registration.register()


def install() -> None:
    """Have the names registered as soon as anomalib is imported; at once where it has been."""
    if os.environ.get("ANOMALIB_FBCLIP_AUTOLOAD") == "0":
        return
    for registration in REGISTRATIONS:
        if registration.target in sys.modules:
            registration.register_or_warn()
        elif registration not in sys.meta_path:
            sys.meta_path.insert(0, registration)
