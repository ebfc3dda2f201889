# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Anomalous regions of an image."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

STRONGEST_PLACE = 32
"""Ratio of a map's shorter side to the side of its strongest place, a square."""

SMALLEST_DEFECT = 3.2
"""Estimated size of the smallest visible compact defect, in pixels of the model's input. Thin ones must be longer."""


def smallest_visible_defect(photograph_size: tuple[int, int], input_size: tuple[int, int]) -> int:
    """Estimate the size of the smallest visible defect in pixels of the photograph. Sizes are height and width.

    Example:
        >>> smallest_visible_defect((3000, 4000), (224, 224))
        58
    """
    sides = zip(photograph_size, input_size, strict=True)
    return math.ceil(SMALLEST_DEFECT * max(photograph / model for photograph, model in sides))


class Region(NamedTuple):
    """A connected anomalous part of an image.

    Attributes:
        box (tuple[int, int, int, int]): Left, top, right and bottom in pixels of the image; the region ends before
            right and bottom.
        area (int): Its area in pixels of the image.
    """

    box: tuple[int, int, int, int]
    area: int


def strongest_place_radius(height: int, width: int) -> int:
    """Return half the side of a map's strongest place in pixels of the map."""
    return min(height, width) // STRONGEST_PLACE // 2


def match_verdict(mask: NDArray[np.bool_], anomaly_map: NDArray[np.floating], is_anomalous: bool) -> NDArray[np.bool_]:
    """Make a mask ``[h, w]`` of where an anomaly map ``[h, w]`` is above its threshold agree with the verdict.

    That of a normal image becomes empty. An empty one of an anomalous image becomes the map's strongest place.
    """
    if not is_anomalous:
        return np.zeros_like(mask)
    if mask.any():
        return mask
    row, column = np.unravel_index(anomaly_map.argmax(), anomaly_map.shape)
    radius = strongest_place_radius(*anomaly_map.shape)
    place = np.zeros_like(mask)
    place[max(row - radius, 0) : row + radius + 1, max(column - radius, 0) : column + radius + 1] = True
    return place


def find_regions(mask: NDArray[np.bool_], image_size: tuple[int, int]) -> list[Region]:
    """Find the connected regions, the largest first, of a mask ``[h, w]`` of the whole image; corners connect.

    They are in pixels of the image, whose height and width are given, and rounded up.
    """
    rows, starts, ends = _find_runs(mask)
    labels = _connect_runs(rows, starts, ends, mask.shape[1])
    order = np.argsort(labels, kind="stable")
    first = np.flatnonzero(np.diff(labels[order], prepend=-1))
    if not len(first):
        return []
    boxes = zip(
        np.minimum.reduceat(starts[order], first).tolist(),
        rows[order][first].tolist(),  # the runs come from the top
        np.maximum.reduceat(ends[order], first).tolist(),
        (np.maximum.reduceat(rows[order], first) + 1).tolist(),
        strict=True,
    )
    areas = np.add.reduceat((ends - starts)[order], first).tolist()
    regions = [_scale(Region(box, area), mask.shape, image_size) for box, area in zip(boxes, areas, strict=True)]
    return sorted(regions, key=lambda region: region.area, reverse=True)


def _scale(region: Region, mask_size: tuple[int, ...], image_size: tuple[int, int]) -> Region:
    """Scale a region from pixels of the mask to those of the image."""
    (mask_height, mask_width), (height, width) = mask_size, image_size
    left, top, right, bottom = region.box
    box = (
        left * width // mask_width,
        top * height // mask_height,
        _divide_up(right * width, mask_width),
        _divide_up(bottom * height, mask_height),
    )
    return Region(box, _divide_up(region.area * height * width, mask_height * mask_width))


def _find_runs(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Find the runs of each row, from the top left: their rows, starts and ends."""
    edges = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    rows, starts = np.nonzero(edges == 1)
    _, ends = np.nonzero(edges == -1)
    return rows, starts, ends


def _connect_runs(
    rows: NDArray[np.int64], starts: NDArray[np.int64], ends: NDArray[np.int64], width: int
) -> NDArray[np.int64]:
    """Return for each run the number of the first run of its region."""
    stride = width + 2  # keeps positions in different rows apart
    first = np.searchsorted(rows * stride + ends, (rows + 1) * stride + starts, side="left")
    last = np.searchsorted(rows * stride + starts, (rows + 1) * stride + ends, side="right")
    parents = list(range(len(rows)))

    def root(run: int) -> int:
        while parents[run] != run:
            parents[run] = parents[parents[run]]
            run = parents[run]
        return run

    for run, (begin, end) in enumerate(zip(first.tolist(), last.tolist(), strict=True)):
        for below in range(begin, end):
            low, high = sorted((root(run), root(below)))
            parents[high] = low
    return np.array([root(run) for run in range(len(rows))], dtype=np.int64)


def _divide_up(numerator: int, denominator: int) -> int:
    return -(-numerator // denominator)
