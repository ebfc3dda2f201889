# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The old paths of modules that have moved: they work for one more version, with a warning that names the new path.

This module is imported whenever Python starts: it imports next to nothing. Its finder is the last one, so that it is
asked only for what no other finds.
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import CodeType, ModuleType

PACKAGE = __name__.rpartition(".")[0]

MOVED = {
    "adaptive_threshold": ["evaluation.adaptive_threshold"],
    "alignment": ["modeling.alignment"],
    "anomaly_map": ["modeling.anomaly_map"],
    "backbone": ["modeling.clip", "checkpoints.registry", "checkpoints.clip_files"],
    "comparison": ["protocol.comparison"],
    "disentanglement": ["modeling.mvfbe"],
    "disentanglement.attention": ["modeling.mvfbe.attention", "modeling.mvfbe.fused"],
    "disentanglement.foreground_mask": ["modeling.mvfbe.foreground_mask"],
    "disentanglement.suppression": ["modeling.mvfbe.suppression"],
    "disentanglement.views": ["modeling.mvfbe.views", "modeling.mvfbe.linear_maps"],
    "evaluator": ["evaluation.evaluator", "evaluation.ranking_metrics", "evaluation.bins"],
    "explanation": ["modeling.explanation", "data.image_source"],
    "factory": ["modeling.build"],
    "loss": ["modeling.loss"],
    "nano": ["bundled"],
    "nano.evaluate": ["training.evaluate"],
    "nano.train": ["training.bundled"],
    "nano.weights": ["checkpoints.compact_clip"],
    "post_processing": ["processing.post_processing"],
    "pre_processing": ["processing.pre_processing", "modeling.resize"],
    "precision": ["modeling.precision", "callbacks.precision_check"],
    "prediction_table": ["callbacks.prediction_table"],
    "procedural": ["data.procedural"],
    "prompt_learner": ["modeling.prompt_learner"],
    "text_fusion": ["modeling.text_fusion"],
    "torch_model": ["modeling.fbclip", "modeling.decision"],
    "weights": ["checkpoints.adapters", "checkpoints.published"],
}
"""Where the names of a module are now, by its old path; the first is what a program runs. All below the package."""

RENAMED = {
    "Answer": "Prediction",
    "LAYER_WEIGHTS": "NUM_LAYER_WEIGHTS",
    "usual_pretrained": "default_pretrained",
}
"""New names of what was renamed in these modules."""


class MovedModule:
    """Loads an old path: a module with the names of those that took its place.

    Args:
        new_paths (list[str]): Full paths of the modules that took its place.
    """

    def __init__(self, new_paths: list[str]) -> None:
        self.new_paths = new_paths

    @staticmethod
    def create_module(spec: "ModuleSpec") -> "ModuleType | None":
        """Leave the creation to Python; see :class:`importlib.abc.Loader`."""

    def exec_module(self, module: "ModuleType") -> None:
        """Fill the module. Its names are the objects of the new modules, not copies of them."""
        from importlib import import_module

        self._warn(module.__name__)
        for path in self.new_paths:
            names = vars(import_module(path))
            old_names = {old: names[new] for old, new in RENAMED.items() if new in names}
            vars(module).update(
                {name: value for name, value in names.items() if not name.startswith("__")}, **old_names
            )

    def get_code(self, name: str) -> "CodeType":
        """Give what ``python -m`` runs: the new module, as a program."""
        self._warn(name)
        source = f"import runpy\nrunpy.run_module({self.new_paths[0]!r}, run_name='__main__', alter_sys=True)\n"
        return compile(source, f"<{name}>", "exec")

    def _warn(self, name: str) -> None:
        import warnings

        msg = f"{name} has moved to {' and '.join(self.new_paths)}. The old path is gone in the next version."
        warnings.warn(msg, FutureWarning, stacklevel=3)


class MovedModuleFinder:
    """Finds the old paths; see :class:`importlib.abc.MetaPathFinder`."""

    @staticmethod
    def find_spec(
        fullname: str,
        path: "Sequence[str] | None" = None,
        target: "ModuleType | None" = None,
    ) -> "ModuleSpec | None":
        """Find an old path; ``None`` for all others."""
        del path, target
        package, _, name = fullname.partition(".")
        if package != PACKAGE or name not in MOVED:
            return None
        from importlib.machinery import ModuleSpec

        loader = MovedModule([f"{PACKAGE}.{new_path}" for new_path in MOVED[name]])
        is_package = any(other.startswith(f"{name}.") for other in MOVED)
        return ModuleSpec(fullname, loader, is_package=is_package)  # type: ignore[arg-type] # a Loader by its methods


def install() -> None:
    """Have the old paths found, after all that others find."""
    if not any(finder is MovedModuleFinder for finder in sys.meta_path):
        sys.meta_path.append(MovedModuleFinder)
