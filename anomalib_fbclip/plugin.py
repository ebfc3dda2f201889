# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Registers FB-CLIP with anomalib by name, without an import by the user.

anomalib finds models and datamodules by name among the classes that are imported and among the attributes of
``anomalib.models`` and ``anomalib.data``; it has no entry points for classes from outside. Therefore:

1. When Python starts, ``anomalib_fbclip.pth`` (from Python 3.15 on ``anomalib_fbclip.start``, PEP 829) in site-packages
   calls :func:`install`. It only notes which modules to wait for.
2. As soon as anomalib's module has been imported, by whomever and however, ours is imported and its classes become
   attributes of anomalib's, as if they came with anomalib.

3. Commands of anomalib that name the model are run by :mod:`anomalib_fbclip.command_line`, and all others as they are.

The environment variable ``ANOMALIB_FBCLIP_AUTOLOAD=0`` switches this off. ``--model
anomalib_fbclip.FBClip`` works then, too.

This module runs whenever Python starts: it imports next to nothing, and nothing that takes time.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType


class ImportObserver:
    """Takes part when one of some modules is imported.

    On ``sys.meta_path`` it is a finder that leaves all finding and loading to the others.

    Args:
        observed (frozenset[str]): The modules.
    """

    def __init__(self, observed: frozenset[str]) -> None:
        self.observed = observed

    def execute(self, module: "ModuleType", execute: "Callable[[ModuleType], None]") -> None:
        """Execute a module, and do what there is to be done before and after that."""
        raise NotImplementedError

    def find_spec(
        self,
        fullname: str,
        path: "Sequence[str] | None" = None,
        target: "ModuleType | None" = None,
    ) -> "ModuleSpec | None":
        """Find ``fullname`` by the other finders; see :class:`importlib.abc.MetaPathFinder`."""
        if fullname not in self.observed:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                self._take_part(spec.loader)
                return spec
        return None

    def _take_part(self, loader: "Loader") -> None:
        execute = loader.exec_module

        def execute_observed(module: "ModuleType") -> None:
            del loader.exec_module
            self.execute(module, execute)

        loader.exec_module = execute_observed  # type: ignore[method-assign]


class NameRegistration(ImportObserver):
    """Adds classes of ours to one of anomalib's modules, once that one has been imported.

    Args:
        target (str): anomalib's module.
        sources (dict[str, str]): The classes that it gets, and the module of ours that defines each. It may import
            ``target``.
    """

    def __init__(self, target: str, sources: "dict[str, str]") -> None:
        super().__init__(frozenset((target, *sources.values())))
        self.target = target
        self.sources = sources

    def register(self) -> None:
        """Import all modules and make the classes attributes of anomalib's; nothing where it has them already."""
        for name in self.sources:
            self._register(name)

    def _register(self, name: str) -> None:
        from importlib import import_module

        target = import_module(self.target)
        # It may be anomalib's own: a second class of the same name would make jsonargparse refuse both.
        if hasattr(target, name):
            return
        source = import_module(self.sources[name])  # its finder, if it is installed, comes here too
        setattr(target, name, getattr(source, name))
        if name not in target.__all__:
            target.__all__.append(name)

    def execute(self, module: "ModuleType", execute: "Callable[[ModuleType], None]") -> None:
        """Execute one of the modules, and register."""
        execute(module)
        for name, source in self.sources.items():
            if module.__name__ == source:
                if self.target in sys.modules:  # otherwise its own import registers
                    self._register(name)
            elif module.__name__ == self.target and not _is_executing(source):  # that registers at its end
                self._register_or_warn(name)

    def register_or_warn(self) -> None:
        """Register, or say in one line why that is impossible, and leave anomalib as it is without us."""
        for name in self.sources:
            self._register_or_warn(name)

    def _register_or_warn(self, name: str) -> None:
        before = set(sys.modules)
        try:
            self._register(name)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with us, anomalib's own models go on working
            import logging

            logging.getLogger(__name__).warning(
                "anomalib-fbclip: %s cannot be used, because importing %s failed: %s: %s",
                name,
                self.sources[name],
                type(error).__name__,
                error,
            )
        else:
            return
        # A class that was made before the failure is among the subclasses that anomalib lists, until it is collected.
        import gc

        for imported in set(sys.modules) - before:
            if imported.startswith("anomalib_fbclip."):
                del sys.modules[imported]
        gc.collect()


class CommandTakeover(ImportObserver):
    """Has anomalib's ``main`` leave commands that name the model to :mod:`anomalib_fbclip.command_line`.

    Args:
        target (str): anomalib's module with ``main``.
    """

    def __init__(self, target: str) -> None:
        super().__init__(frozenset((target,)))
        self.target = target

    def execute(self, module: "ModuleType", execute: "Callable[[ModuleType], None]") -> None:  # noqa: PLR6301
        """Execute anomalib's module, for commands that name the model without the warnings of what it imports."""
        if names_model(sys.argv[1:]):
            import warnings

            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                execute(module)
        else:
            execute(module)
        anomalib_main = module.main

        def main() -> None:
            if names_model(sys.argv[1:]) and hasattr(sys.modules.get("anomalib.models"), "FBClip"):
                run_command()
            else:
                anomalib_main()

        module.main = main  # type: ignore[attr-defined]


def run_command() -> None:
    """Run a command of anomalib's command line that names the model, if the config files that it names are there.

    Raises:
        SystemExit: If one is not, and is one of the package's.
    """
    from importlib import import_module

    from .inspection.configs import describe_missing

    if line := describe_missing(sys.argv[1:]):
        sys.stderr.write(f"error: {line}\n")
        raise SystemExit(2)

    import_module("anomalib_fbclip.command_line").main()


COMMANDS = frozenset(("fit", "validate", "test", "train", "predict", "export"))
"""Commands of anomalib that run one model."""


def names_model(arguments: "Sequence[str]") -> bool:
    """Tell whether a command of anomalib is for FBClip, by its arguments or by a config file among them.

    Args:
        arguments (Sequence[str]): What follows ``anomalib``.

    Returns:
        bool: Whether it is.
    """
    if not arguments or arguments[0] not in COMMANDS:
        return False
    words = [word for argument in arguments for word in argument.split("=", 1)]
    models = [words[index + 1] for index, word in enumerate(words[:-1]) if word in MODEL_OPTIONS]
    classes = [model for model in models if not _is_config(model)]
    if classes:
        return any(name.rpartition(".")[2].lower() == "fbclip" for name in classes)
    return any(_is_config(word) and _config_names_model(word) for word in words)


MODEL_OPTIONS = frozenset(("--model", "--model.class_path", "--model.help"))


def _is_config(word: str) -> bool:
    return word.endswith((".yaml", ".yml", ".json"))


def _config_names_model(path: str) -> bool:
    import re
    from pathlib import Path

    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        from .inspection.configs import describe_missing

        return describe_missing([path]) is not None  # one of the package's, which says how it is had
    except (OSError, UnicodeDecodeError):  # anomalib says what is wrong with it
        return False
    return re.search(r"""\b(class_path|model)["']?\s*:\s*["']?([\w.]+\.)?FBClip\b""", text) is not None


def _is_executing(name: str) -> bool:
    """Tell whether a module is being imported, as Python itself does."""
    return getattr(getattr(sys.modules.get(name), "__spec__", None), "_initializing", False)


REGISTRATIONS = (
    NameRegistration(
        "anomalib.data",
        {
            "AuxiliaryDataModule": "anomalib_fbclip.data.auxiliary",
            "MetaJson": "anomalib_fbclip.data.meta_json",
            "SyntheticParts": "anomalib_fbclip.data.synthetic_parts",
        },
    ),
    NameRegistration("anomalib.models", {"FBClip": "anomalib_fbclip.lightning_model"}),
)
TAKEOVER = CommandTakeover("anomalib.cli.cli")


def install() -> None:
    """Have the names registered as soon as anomalib is imported; at once where it has been."""
    if os.environ.get("ANOMALIB_FBCLIP_AUTOLOAD") == "0":
        return
    # Commands that name the model are run by us, as soon as anomalib's command line is imported.
    if TAKEOVER not in sys.meta_path:
        sys.meta_path.insert(0, TAKEOVER)
    for registration in REGISTRATIONS:
        if registration.target in sys.modules:
            registration.register_or_warn()
        elif registration not in sys.meta_path:
            sys.meta_path.insert(0, registration)
