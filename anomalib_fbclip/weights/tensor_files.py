# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Files of tensors: safetensors, and checkpoints of anomalib and of the reference implementation.

They are read without running their code, written completely, and checked against a module. Errors are one line. Torch's
own advise loading without ``weights_only``, which would run the rejected code.
"""

import math
import re
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError  # noqa: S403 - only to recognize it
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save

from anomalib_fbclip.results.files import naming_full_disk, replacing
from anomalib_fbclip.results.thresholds import USUAL_THRESHOLD

from .metadata import PRODUCT_SUFFIX

SUFFIXES = (".safetensors", PRODUCT_SUFFIX)
"""Suffixes of safetensors files."""

CHECKPOINT_KEY = "fbclip"
"""Key of a checkpoint's metadata."""

MODEL_PREFIX = "model."
"""Prefix of a model's tensors in a checkpoint."""

REFERENCE_GROUPS = ("prompt_learner", "model_trainable_params")
"""Entries with adapters in a checkpoint of the reference implementation."""

REFERENCE_NAMES = {
    r"ctx_pos": r"prompt_learner.normal_context",
    r"ctx_neg": r"prompt_learner.abnormal_context",
    r"fb_Attention\.fg_to_out\.0\.(weight|bias)": r"mvfbe.attention.foreground.to_out.\1",
    r"fb_Attention\.bg_to_out\.0\.(weight|bias)": r"mvfbe.attention.background.to_out.\1",
    r"fb_Attention\.fg_(norm\.weight|norm\.bias|to_[qkv]\.weight|scale)": r"mvfbe.attention.foreground.\1",
    r"fb_Attention\.bg_(norm\.weight|norm\.bias|to_[qkv]\.weight|scale)": r"mvfbe.attention.background.\1",
    r"fb_Attention\.((?:gate\.[02]|norm)\.(?:weight|bias))": r"mvfbe.attention.\1",
    r"token_selector\.([02]\.(?:weight|bias))": r"text_fusion.strategies.attention.selector.\1",
    r"text_projection_mlp\.([02]\.(?:weight|bias))": r"text_fusion.strategies.attention.mlp.\1",
    r"scale_weights": r"alignment.scale_weights",
}
"""Names of adapters in this project, by patterns of their names in the reference's checkpoints."""

REFERENCE_UNUSED = re.compile(
    r"token_(prefix|suffix)_(pos|neg)|tokenized_prompts_(pos|neg)"
    r"|compound_prompts_text\.[0-7]|compound_prompt_projections\.[0-7]\.(weight|bias)"
    r"|fusion_weights?|gate_network\.[02]\.(weight|bias)|layer_selector",
)
"""Names in the reference's checkpoints that it does not use."""


@contextmanager
def reading(what: str) -> Generator[None, None, None]:
    """Turn any error while a file is read into a ``ValueError`` of one line with ``what`` as its subject."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - a damaged file can cause any error
        msg = f"{what} can't be read: {reason_of(error)}"
        raise ValueError(msg) from None  # a traceback would show torch's advice


def read_checkpoint(path: Path, what: str) -> object:
    """Read a torch checkpoint of tensors and plain data without running code from it. See :func:`reading`."""
    # The reference implementation stores its loss as a scalar of numpy 1.x. Nothing else is allowed.
    scalar = np.float64(0).__reduce__()[0]
    allowed = [(scalar, "numpy.core.multiarray.scalar"), scalar, np.dtype, type(np.dtype(np.float64))]
    with reading(what), torch.serialization.safe_globals(allowed):
        return torch.load(path, map_location="cpu", weights_only=True)


def reason_of(error: Exception) -> str:
    """Say in one line why a file can't be read, without torch's advice."""
    text = str(error)
    if isinstance(error, PermissionError):
        return "this user may not read it. Give this user access."
    if isinstance(error, UnpicklingError) and "Unsupported operand" not in text:
        return (
            "it holds objects other than tensors and plain data, which could run code. Give a .safetensors file, or a "
            "file from a source that you trust."
        )
    if "TorchScript archive" in text:
        return "it is a TorchScript archive."
    if isinstance(error, OSError | RuntimeError) and text:
        return re.split(r"\. |\n", text, maxsplit=1)[0]
    return "it is empty, damaged or of another format: copy it again, or make a new one."


def write_safetensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors to a file with one of the :data:`SUFFIXES`. An existing one is replaced only by a complete one."""
    if path.suffix not in SUFFIXES:
        msg = f"Weights are saved as safetensors: give '{path.with_suffix('.safetensors')}' instead of '{path}'."
        raise ValueError(msg)
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary, naming_full_disk(path.parent, OSError):
        temporary.write_bytes(save(stored, dict(metadata)))  # save_file makes files that only the owner can read


def read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read a safetensors file: the tensors by name, on the CPU, and the metadata."""
    path.open("rb").close()  # safetensors calls a file missing that it may not read
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def check_state_dict(expected: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor], origin: str) -> None:
    """Raise ``ValueError`` about ``origin`` if tensors have other names or shapes than those expected."""
    missing = expected.keys() - tensors.keys()
    unknown = tensors.keys() - expected.keys()
    wrong_shape = [
        f"{name} is {list(tensors[name].shape)}, not {list(expected[name].shape)}"
        for name in expected.keys() & tensors.keys()
        if tensors[name].shape != expected[name].shape
    ]
    faults = [
        f"{kind}: {_shorten(names)}"
        for kind, names in (("missing", missing), ("unknown", unknown), ("wrong shape", wrong_shape))
        if names
    ]
    if faults:
        msg = f"{origin} does not fit this model. {'; '.join(faults)}."
        raise ValueError(msg)


def _shorten(names: Iterable[str], limit: int = 5) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - limit} more" if len(ordered) > limit else ""
    return ", ".join(ordered[:limit]) + more


class Normalization(NamedTuple):
    """Normalization of scores or anomaly maps, fitted to labeled images: it moves their threshold to 0.5.

    NaN stands for what was not fitted.
    """

    threshold: float = math.nan  # before the normalization, like the limits of the values
    minimum: float = math.nan
    maximum: float = math.nan
    decision: float = USUAL_THRESHOLD  # threshold after the normalization

    @classmethod
    def read(cls, checkpoint: Mapping[str, Any], level: str) -> "Normalization":
        """Read anomalib's post-processor from a checkpoint, at the level ``image`` for scores or ``pixel`` for maps."""
        names = (f"_{level}_threshold", f"{level}_min", f"{level}_max")
        state = checkpoint["state_dict"]
        threshold, minimum, maximum = (float(state.get(f"post_processor.{name}", math.nan)) for name in names)
        sensitivity = checkpoint.get("anomalib_post_processor_config", {}).get(f"{level}_sensitivity", USUAL_THRESHOLD)
        return cls(threshold, minimum, maximum, 1 - sensitivity)

    @property
    def is_fitted(self) -> bool:
        """True if a threshold was fitted, or the threshold after the normalization is not the default."""
        return math.isfinite(self.threshold) or not math.isclose(self.decision, USUAL_THRESHOLD)

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Normalize values of any shape as anomalib does: to 0..1, with the threshold at 0.5.

        Values without a known range are returned unchanged.
        """
        if math.isnan(self.minimum) or math.isnan(self.maximum):
            return values
        extent = self.maximum - self.minimum
        threshold = self.minimum + extent / 2 if math.isnan(self.threshold) else self.threshold
        moved = (values - threshold) / extent if extent else (values - threshold).sign()
        return (moved + USUAL_THRESHOLD).clamp(0, 1)


def halve_averages(state: dict[str, Any]) -> dict[str, Any]:
    """Copy the state dict of Adam with its averages in bfloat16, which keeps their range. Loading casts them back."""
    halved = {
        index: {name: value.bfloat16() if name.startswith("exp_avg") else value for name, value in averages.items()}
        for index, averages in state["state"].items()
    }
    return {**state, "state": halved}


def convert_reference(checkpoint: object, what: str) -> tuple[dict[str, torch.Tensor], str]:
    """Extract the adapters of a checkpoint of the reference implementation, and the dataset of their training.

    Something else raises ``ValueError`` about ``what``.
    """
    if not isinstance(checkpoint, dict) or not all(isinstance(checkpoint.get(part), dict) for part in REFERENCE_GROUPS):
        msg = (
            f"{what} are not a checkpoint of FB-CLIP: give one from anomalib, or one from the reference "
            f"implementation, with {' and '.join(map(repr, REFERENCE_GROUPS))}."
        )
        raise ValueError(msg)
    tensors = {
        _rename(name): tensor.squeeze((0, 1)) if name in {"ctx_pos", "ctx_neg"} else tensor
        for group in REFERENCE_GROUPS
        for name, tensor in checkpoint[group].items()
        if not REFERENCE_UNUSED.fullmatch(name)
    }
    return tensors, checkpoint.get("source_domain", "unknown")


def _rename(name: str) -> str:
    for pattern, replacement in REFERENCE_NAMES.items():
        if match := re.fullmatch(pattern, name):
            return match.expand(replacement)
    return name
