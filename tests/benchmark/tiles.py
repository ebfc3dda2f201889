# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""What input size and tiles gain on a category in MVTec AD's layout, alone and with its good photographs::

    python tests/benchmark/tiles.py drawn/leather --tiles 1 3 7x5 --image-size 224 448

Photographs are inspected as ``fbclip`` does. Times are relative to the first row of each kind.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torchmetrics.functional.classification import binary_auroc

from anomalib_fbclip.cli.arguments import parse_size
from anomalib_fbclip.cli.torch_inferencer import TorchInferencer
from anomalib_fbclip.images.image_files import find_images
from anomalib_fbclip.weights import bundled

MAP_SIDE = 400
"""Pixels of the longer side of maps and masks that are compared; a mask's pixel has a defect if any of its own has."""


def read_mask(path: Path, category: Path, size: tuple[int, int]) -> NDArray[np.bool_] | None:
    """Read where the defect is; nothing where it is not known."""
    if path.parent.name == "good":
        return np.zeros(size, dtype=np.bool_)
    found = [*(category / "ground_truth" / path.parent.name).glob(f"{path.stem}*.png")]
    if not found:
        return None
    with Image.open(found[0]) as file:
        mask = torch.from_numpy(np.array(file.convert("L")) > 127)
    return torch.nn.functional.adaptive_max_pool2d(mask[None, None].float(), size)[0, 0].numpy() > 0


def measure(category: Path, inferencer: TorchInferencer, tested: Sequence[Path]) -> tuple[list[str], float]:
    """Inspect photographs; give the cells of a row, and the seconds of a photograph."""
    maps, masks = [], []
    predictions = []
    for path in tested:
        (prediction,) = inferencer.stream([path])
        predictions.append((prediction.score, prediction.seconds))
        height, width = prediction.image.shape[:2]
        size = round(MAP_SIDE * height / max(height, width)), round(MAP_SIDE * width / max(height, width))
        maps.append(np.asarray(Image.fromarray(prediction.anomaly_map).resize(size[::-1], Image.Resampling.BILINEAR)))
        masks.append(read_mask(path, category, size))
    scores, seconds = torch.tensor(predictions).unbind(dim=1)
    kinds = np.array([path.parent.name for path in tested])
    called = scores.numpy() > inferencer.decision_thresholds()[0]
    found = ", ".join(f"{kind} {called[kinds == kind].mean():.2f}" for kind in sorted({*kinds} - {"good"}))
    image_auroc = binary_auroc(scores, torch.tensor(kinds != "good").long()).item()
    false_alarms = f"{called[kinds == 'good'].mean():.2f}"
    return [f"{image_auroc:.3f}", pixel_auroc(maps, masks), found, false_alarms], seconds.mean().item()


def pixel_auroc(maps: Sequence[NDArray[np.floating]], masks: Sequence[NDArray[np.bool_] | None]) -> str:
    """Measure maps, where all masks are known."""
    known = [mask for mask in masks if mask is not None]
    if len(known) < len(masks):
        return "-"
    truth, shown = (torch.from_numpy(np.concatenate([one.ravel() for one in part])) for part in (known, maps))
    return f"{binary_auroc(shown, truth.long()).item():.3f}"


def rows(options: argparse.Namespace, category: Path, *, with_good: bool) -> Iterator[list[str]]:
    """Measure a category with each setting."""
    tested = find_images(category / "test")[:: options.every]
    first = None
    for image_size in options.image_size:
        for tiles in options.tiles:
            inferencer = TorchInferencer(
                bundled.NAME, "auto", "cpu", "float32", None, None, image_size=image_size, tiles=tiles
            )
            if with_good:
                good = find_images(category / "train" / "good")[: options.good]
                inferencer.compare_with(inferencer.read_references(good, options.rotations), lambda: None)
            cells, seconds = measure(category, inferencer, tested)
            first = first or seconds
            size, count = (f"{pair[1]} x {pair[0]}" for pair in (image_size, tiles))
            kind = f"{options.good} good" if with_good else "alone"
            yield [category.name, kind, size, count, *cells, f"{seconds / first:.1f}"]


def main() -> None:
    """Print the table, row by row."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("categories", nargs="+", type=Path)
    parser.add_argument("--tiles", nargs="+", type=parse_size, default=[(1, 1), (3, 3)])
    parser.add_argument("--image-size", nargs="+", type=parse_size, default=[(224, 224)])
    parser.add_argument("--rotations", type=int, default=4)
    parser.add_argument("--good", type=int, default=8)
    parser.add_argument("--every", type=int, default=1, help="take every so many tested photograph")
    parser.add_argument("--kinds", nargs="+", choices=["alone", "good"], default=["alone", "good"])
    options = parser.parse_args()
    names = "category", "compared", "size", "tiles", "image AUROC", "pixel AUROC", "found", "false alarms", "time"
    print("| " + " | ".join(names) + " |")
    print("|---|---|---|---|---:|---:|---|---:|---:|")
    for category in options.categories:
        for kind in options.kinds:
            for row in rows(options, category, with_good=kind == "good"):
                print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
