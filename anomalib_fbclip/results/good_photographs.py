# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Checks that the good photographs fit the photographs to inspect."""

import filecmp
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from anomalib_fbclip.images.photographs import Enough, KeptPhotograph, digest_file, is_gray, read_reduced

ENOUGH_TO_SEE_COLOR = Enough(longer=256, shorter=256)

SWAPPED_SHARE, SWAPPED_GOOD, SWAPPED_PHOTOGRAPHS = 0.15, 6, 4
"""The folders may be swapped if at most this share of pairs (a photograph, a good one) gives the photograph the higher
score. The other values are the smallest numbers of good photographs and of others for this test. Among good parts the
share is about half, and 2 % of the choices of 8 good photographs fall below; with 4, it says nothing."""


def find_copies(paths: Iterable[Path], originals: Iterable[Path | KeptPhotograph]) -> dict[Path, Path]:
    """Find for each file that is a copy the first original with the same bytes. Unreadable files are left out."""
    by_size: dict[int, list[Path | KeptPhotograph]] = defaultdict(list)
    for original in originals:
        if isinstance(original, KeptPhotograph):
            by_size[original.size].append(original)
        elif _is_file(original):
            by_size[original.stat().st_size].append(original)
    found = {}
    for path in paths:
        same_size = by_size[path.stat().st_size] if _is_file(path) else []
        copied = next((original for original in same_size if _is_same(path, original)), None)
        if copied is not None:
            found[path] = Path(copied.name) if isinstance(copied, KeptPhotograph) else copied
    return found


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113 - pathlib raises where the folder can't be entered


def _is_same(path: Path, other: Path | KeptPhotograph) -> bool:
    try:
        if isinstance(other, KeptPhotograph):
            return digest_file(path) == other.digest
        return filecmp.cmp(path, other, shallow=False)  # it stops at the first difference
    except OSError:  # the reader reports it
        return False


def describe_inspected_references(copies: Mapping[Path, Path], total: int | None) -> list[str]:
    """Warn, in a line, of photographs that are copies of good ones. The total may be unknown."""
    if not copies:
        return []
    number = len(copies) if total is None else f"{len(copies)} of {total}"
    return [f"Photographs that are also among the good ones: {number}. Their scores mean nothing."]


def describe_swap(scores: Sequence[float], good_scores: Sequence[float], *, is_all_normal: bool) -> list[str]:
    """Warn, in a line, that the folders may be swapped if the good photographs are the unusual ones."""
    if not is_all_normal or len(good_scores) < SWAPPED_GOOD or len(scores) < SWAPPED_PHOTOGRAPHS:
        return []
    higher = sum(score > good for score in scores for good in good_scores)
    if higher > SWAPPED_SHARE * len(scores) * len(good_scores):
        return []
    return ["The good photographs are more unusual than the ones that you inspect: are the folders swapped?"]


def describe_colors(
    colors: Counter[bool], good: Sequence[Path | KeptPhotograph], white_level: int | None = None
) -> list[str]:
    """Warn, in a line, that photographs are gray and the good ones in color, or the other way round.

    ``colors`` has the number of gray photographs (``True``) and of others.
    """
    if not good or not colors:
        return []
    is_good_gray = _is_gray(good[0], white_level)
    others = colors[not is_good_gray]
    if not others or any(_is_gray(path, white_level) != is_good_gray for path in good[1:]):
        return []
    kind, good_kind = ("In color", "gray") if is_good_gray else ("Gray", "in color")
    number = f"{others} of {sum(colors.values())}"
    return [f"{kind}, while the good photographs are {good_kind}: {number}. Give good ones from the same camera."]


def _is_gray(path: Path | KeptPhotograph, white_level: int | None) -> bool:
    return is_gray(read_reduced(path, enough=ENOUGH_TO_SEE_COLOR, white_level=white_level).pixels)
