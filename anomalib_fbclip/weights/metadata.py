# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Kinds of the values in a file's metadata. Whoever knows the format can write any value with a valid digest."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from anomalib_fbclip.images.photographs import DECODING_ERRORS, SIXTEEN_BITS
from anomalib_fbclip.images.region_of_interest import decode_region

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch

PRODUCT_SUFFIX = ".fbclip"
"""Suffix of a product, a safetensors file with all that is needed to inspect one kind of part."""

SCORES = "photographs.scores"
"""Name of the tensor of the good photographs' scores in a product."""


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_count(value: object, least: int = 1) -> bool:
    return type(value) is int and value >= least  # a bool is an int, too


def _is_number(value: object) -> bool:
    return type(value) in {int, float} and math.isfinite(value)  # type: ignore[arg-type]


def _is_threshold(value: Any) -> bool:  # noqa: ANN401 - whatever a file holds
    return value is None or (_is_number(value) and 0 <= value <= 1)


def _is_list(value: object, is_element: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(is_element, value))


def _is_pair(value: Any, is_element: Callable[[Any], bool]) -> bool:  # noqa: ANN401
    return _is_list(value, is_element) and len(value) == 2  # noqa: PLR2004


def _are_indices(value: object) -> bool:
    return _is_list(value, lambda one: _is_count(one, least=0))


def _are_weights(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_number, value.values()))


def _is_region(value: Any) -> bool:  # noqa: ANN401
    try:
        return value is None or bool(decode_region(value).any())
    except DECODING_ERRORS:
        return False


def _is_photograph(value: object) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"name", "size", "digest"}
        and _is_text(value["name"])
        and _is_count(value["size"], least=0)
        and _is_text(value["digest"])
    )


ARGUMENT_KINDS: dict[str, Callable[[Any], bool]] = {
    "views": lambda value: _is_list(value, _is_text),
    "text_strategies": lambda value: value is None or _are_weights(value),
    "background_suppression": lambda value: isinstance(value, bool),
    "image_score": lambda value: value is None or _is_text(value),
}
"""Checks of the arguments of a model that its scores depend on, and that its tensors don't reveal."""

KINDS: dict[str, Callable[[Any], bool]] = {
    "backbone": _is_text,
    "pretrained": lambda value: value is None or _is_text(value),
    "source": lambda value: value is None or _is_text(value),
    "version": _is_text,
    "signature": lambda value: _is_list(value, _is_number),
    "image_size": lambda value: _is_pair(value, _is_count),
    "feature_layers": lambda value: _is_list(value, _is_count),
    "arguments": lambda value: (
        isinstance(value, dict)
        and value.keys() <= ARGUMENT_KINDS.keys()
        and all(ARGUMENT_KINDS[name](one) for name, one in value.items())
    ),
    "tiles": lambda value: _is_pair(value, _is_count),
}
"""Checks of the values that adapters may have, and that a product has."""

TEXT_KINDS: dict[str, Callable[[Any], bool]] = {"text_strategies": _are_weights, "text_digest": _is_text}
"""Checks of the values that adapters or a product may have."""

PRODUCT_KINDS: dict[str, Callable[[Any], bool]] = {
    "photographs": lambda value: _is_list(value, _is_photograph) and bool(value),
    "used": lambda value: _are_indices(value) and bool(value),
    "outliers": _are_indices,
    "rotations": _is_count,
    "white_level": lambda value: value is None or (_is_count(value) and value <= SIXTEEN_BITS),
    "region": _is_region,
    "thresholds": lambda value: _is_pair(value, _is_threshold),
    "taught": _is_text,
    "changed": _is_text,
}
"""Checks of the values that only a product has."""


def check_metadata(metadata: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], *, is_product: bool) -> None:
    """Raise ``ValueError`` if a value in a file's metadata is missing or of another kind.

    A product has all, with indices in range and a score for each photograph in use.
    """
    needed = {**KINDS, **PRODUCT_KINDS} if is_product else {}
    kinds = {**KINDS, **TEXT_KINDS, **needed}
    if needed.keys() - metadata.keys() or not all(kinds[name](metadata[name]) for name in kinds.keys() & metadata):
        raise ValueError
    if not is_product:
        return
    count, scores = len(metadata["used"]), tensors[SCORES]
    are_scores = scores.shape == (count,) and scores.is_floating_point() and scores.isfinite().all()
    last_used, last_outlier = max(metadata["used"]), max(metadata["outliers"], default=-1)
    if not are_scores or last_used >= len(metadata["photographs"]) or last_outlier >= count:
        raise ValueError
