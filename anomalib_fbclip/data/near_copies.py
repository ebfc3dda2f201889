# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Near copies among photographs: copies, augmentations, and several photographs of one part."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from anomalib_fbclip.images.photographs import Enough, KeptPhotograph, PhotographSource, digest_file, read_reduced

from .image_source import ImageLike, load_image

Gray = NDArray[Any]

SourceT = TypeVar("SourceT", bound=ImageLike)

SIDE, THUMB_SIDE, CANVAS = 160, 32, 64
"""Sides in pixels of squares with the area of a photograph, for the alignment and for the search before it; and side of
the canvas on which the smaller photograph turns."""

TURNS = 24
"""Number of turns tried. The alignment corrects up to half the step between them."""

ALIGNED_AT_MOST = 8
"""Largest number of photographs that each one is aligned with: those with the highest correlation."""

LEAST_STRUCTURE = 8.0
"""Norm of a small photograph's structure below which it counts as plain: 0.25 gray levels per pixel."""

LEAST_CORRELATION = 0.35
"""Correlation of two small photographs above which they are aligned."""

WHITE, CLIPPED = 255, 250
"""Gray value of white, and the one from which a brighter copy may be clipped."""

SCALES = ((3.0, 12.0), (1.0, 8.0))
"""Standard deviations in pixels that limit the structure to align: first coarse, then fine."""

LEAST_OVERLAP = 0.25
"""Smallest share of a photograph that the other must overlap."""

CIRCLE_FACTOR = 3.0
"""Factor on the residual inside the circle: without the corners, copies must agree better."""

ECC_STEPS = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 30, 1e-3)

SHARE, LEAST, MOST = 0.2, 0.006, 0.03
"""Largest residual of near copies: this share of the median of all pairs, within these bounds. Different parts leave
0.01 to 0.1 if they lie the same way in one fixture, otherwise more than 0.2."""


class Pose(NamedTuple):
    """Approximate position of a photograph in another."""

    correlation: float  # normalized cross-correlation of the two small photographs
    variant: int  # the mirrored and turned copy of the second one that fits best
    shift: tuple[int, int]  # of that copy on the canvas, in rows and columns


def leave_out_copies(references: Sequence[SourceT], white_level: int | None = None) -> list[SourceT]:
    """Keep one of each group of near copies, so that a defective part is not confirmed by its copy.

    It is the image with the shortest path, which is seldom the copy. The order stays. For errors, see
    :func:`load_image`.
    """
    by_length = sorted(range(len(references)), key=lambda index: _path_length(references[index]))
    different = {_content(references[index], index): index for index in reversed(by_length)}
    order = [index for index in by_length if index in different.values()]
    groups = group_near_copies([_to_gray(references[index], white_level) for index in order])
    return [references[index] for index in sorted({order[group] for group in groups})]


def describe_near_copies(given: int, kept: int) -> list[str]:
    """Say how many photographs are near copies of others, if there are any."""
    if kept == given:
        return []
    if kept == 1:
        return [f"Your {given} good photographs show one part: they count as 1. Give photographs of other parts, too."]
    return [f"{given - kept} of your {given} good photographs are near copies of others: they count as {kept}."]


def _content(reference: ImageLike, index: int) -> str | int:
    """Return the digest of a file; for other images, and for files that can't be read, the index."""
    if isinstance(reference, KeptPhotograph):
        return reference.digest
    if not isinstance(reference, str | Path):
        return index
    try:
        return digest_file(reference)
    except OSError:  # the reader reports it
        return index


def _path_length(reference: ImageLike) -> int:
    if isinstance(reference, KeptPhotograph):
        return len(reference.name)
    return len(str(reference)) if isinstance(reference, str | Path) else 0


def _to_gray(reference: ImageLike, white_level: int | None) -> Gray:
    """Reduce a photograph to gray values 0..255, with the area of a square of ``SIDE`` pixels."""
    if isinstance(reference, PhotographSource):
        pixels = read_reduced(reference, enough=Enough(2 * SIDE, SIDE), white_level=white_level).pixels
    else:
        pixels = (WHITE * load_image(reference)).permute(1, 2, 0).numpy()
    return cv2.cvtColor(_resize(np.ascontiguousarray(pixels, np.float32), SIDE), cv2.COLOR_RGB2GRAY)


def group_near_copies(photographs: Sequence[Gray]) -> list[int]:
    """Return for each photograph the index of the first of its near copies.

    Each is aligned with those that it correlates with best: mirrored, turned, shifted, scaled, sheared, and in other
    light. A copy leaves a small residual, another part a large one. Gray values are 0..255, and the area is that of a
    square of ``SIDE`` pixels.

    Example:
        >>> first, second = np.random.default_rng(0).uniform(0, 255, (2, 160, 160)).astype(np.float32)
        >>> group_near_copies([first, second, 0.8 * first[:, ::-1]])
        [0, 1, 0]
    """
    groups = list(range(len(photographs)))
    if len(photographs) < 2:  # noqa: PLR2004
        return groups
    poses = _find_poses(photographs)
    residuals = {pair: 1 - pose.correlation for pair, pose in poses.items()}
    aligned = _worth_aligning(poses, len(photographs))
    residuals |= {pair: _align(photographs[pair[0]], photographs[pair[1]], poses[pair]) for pair in aligned}
    limit = min(max(SHARE * float(np.median([*residuals.values()])), LEAST), MOST)
    for pair in aligned:
        if residuals[pair] <= limit:
            low, high = sorted(groups[index] for index in pair)
            groups = [low if group == high else group for group in groups]
    return groups


def _find_poses(photographs: Sequence[Gray]) -> dict[tuple[int, int], Pose]:
    """Find, for each pair, the mirrored, turned and shifted copy of the second photograph that fits the first best."""
    banks = [_bank(photograph) for photograph in photographs]
    spectra = [torch.fft.rfft2(bank) for bank in banks]
    return {
        (first, second): _best_pose(spectra[first][0].conj() * spectra[second])
        for second in range(len(photographs))
        for first in range(second)
    }


def _worth_aligning(poses: Mapping[tuple[int, int], Pose], count: int) -> list[tuple[int, int]]:
    chosen: set[tuple[int, int]] = set()
    for index in range(count):
        alike = (pair for pair in poses if index in pair and poses[pair].correlation > LEAST_CORRELATION)
        pairs = sorted(alike, key=lambda pair: poses[pair].correlation)
        chosen.update(pairs[-ALIGNED_AT_MOST:])
    return sorted(chosen)


def _bank(photograph: Gray) -> torch.Tensor:
    """Make the mirrored and turned copies of a small photograph, normalized: ``[2 TURNS, CANVAS, CANVAS]``."""
    small = _structure(_resize(photograph, THUMB_SIDE), fine=0.7, coarse=4.0)
    height, width = (min(side, CANVAS) for side in small.shape)
    small *= np.sqrt(np.outer(np.hanning(small.shape[0] + 2)[1:-1], np.hanning(small.shape[1] + 2)[1:-1]))
    canvas = np.zeros((CANVAS, CANVAS), np.float32)
    top, left = (CANVAS - height) // 2, (CANVAS - width) // 2
    canvas[top : top + height, left : left + width] = _center(small, height, width)
    copies = [cv2.warpAffine(canvas, _about_center(_turn(variant)), canvas.shape) for variant in range(2 * TURNS)]
    bank = torch.from_numpy(np.stack(copies))
    return bank / bank.flatten(1).norm(dim=1).clamp(min=LEAST_STRUCTURE)[:, None, None]


def _best_pose(spectrum: torch.Tensor) -> Pose:
    correlations = torch.fft.irfft2(spectrum, s=(CANVAS, CANVAS)).flatten(1)
    variant, place = divmod(int(correlations.argmax()), CANVAS * CANVAS)
    row, column = divmod(place, CANVAS)
    half = CANVAS // 2
    shift = ((row + half) % CANVAS - half, (column + half) % CANVAS - half)
    return Pose(float(correlations[variant, place]), variant, shift)


def _align(first: Gray, second: Gray, pose: Pose) -> float:
    """Align two photographs, and return the share of one's structure that the other does not explain."""
    matrix = np.linalg.inv(_turn(pose.variant))
    shift = np.array(pose.shift[::-1]) * SIDE / THUMB_SIDE
    centers = [(np.array(photograph.shape[::-1]) - 1) / 2 for photograph in (first, second)]
    warp: NDArray[Any] = np.column_stack([matrix, matrix @ (shift - centers[0]) + centers[1]]).astype(np.float32)
    for fine, coarse in SCALES:
        target, source = (_structure(photograph, fine, coarse) for photograph in (first, second))
        try:
            warp = np.asarray(cv2.findTransformECC(target, source, warp, cv2.MOTION_AFFINE, ECC_STEPS)[1])
        except cv2.error:  # it does not converge
            return 1.0
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    size = first.shape[::-1]
    warped = cv2.warpAffine(second, warp, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    inside = cv2.warpAffine(np.ones_like(second), warp, size, flags=flags) > 1 - 1e-3
    is_round = _circle(first) & (cv2.warpAffine(_circle(second).astype(np.float32), warp, size, flags=flags) > 1 - 1e-3)
    regions = [(inside, 1.0), (is_round, CIRCLE_FACTOR)]
    found = [factor * _unexplained(first, warped, part) for part, factor in regions if part.mean() >= LEAST_OVERLAP]
    return min(found, default=1.0)


def _circle(gray: Gray) -> NDArray[np.bool_]:
    """Mark the circle inside which a photograph has no filled corners, whatever its turn."""
    height, width = gray.shape
    y, x = np.ogrid[:height, :width]
    return np.hypot(y - (height - 1) / 2, x - (width - 1) / 2) <= min(height, width) / 2


def _unexplained(first: Gray, second: Gray, inside: NDArray[np.bool_]) -> float:
    """Compare two aligned photographs at the contrast of the higher one, which may be clipped."""
    is_known = inside & (np.maximum(first, second) < CLIPPED)
    if is_known.mean() < LEAST_OVERLAP:
        is_known = inside
    dark, bright = (first, second) if first[is_known].std() < second[is_known].std() else (second, first)
    gain, offset = np.polyfit(dark[is_known], bright[is_known], 1)
    lit = (gain * dark + offset).clip(max=WHITE).astype(np.float32)
    explained, structure = (_structure(gray, *SCALES[-1])[inside] for gray in (lit, bright))
    return 1 - float(np.corrcoef(explained, structure)[0, 1])


def _turn(variant: int) -> NDArray[np.float64]:
    """Return the matrix that mirrors and turns coordinates: x to the right, y down."""
    is_mirrored, turn = divmod(variant, TURNS)
    angle = 2 * np.pi * turn / TURNS
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return rotation @ np.diag([-1.0 if is_mirrored else 1.0, 1.0])


def _about_center(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    center = np.full(2, (CANVAS - 1) / 2)
    return np.column_stack([matrix, center - matrix @ center])


def _structure(gray: Gray, fine: float, coarse: float) -> Gray:
    """Remove lighting and noise: keep the structure between two sizes."""
    return cv2.GaussianBlur(gray, (0, 0), fine) - cv2.GaussianBlur(gray, (0, 0), coarse)


def _resize(image: NDArray[Any], side: int) -> NDArray[Any]:
    """Resize to the area of a square, and keep the proportions."""
    height, width = image.shape[:2]
    scale = side / (height * width) ** 0.5
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _center(gray: Gray, height: int, width: int) -> Gray:
    top, left = (gray.shape[0] - height) // 2, (gray.shape[1] - width) // 2
    return gray[top : top + height, left : left + width]
