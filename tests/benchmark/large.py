# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Draws large photographs with small defects, in MVTec AD's layout, to decide on tiles and input sizes::

    python tests/benchmark/large.py drawn

``leather`` has 4000 x 3000 pixels, and scratches that are 12, 30 and 60 long and a quarter as wide. The others have
3000 x 3000, and defects of 20 to 60.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tools.bundled_model.procedural import CATEGORIES, DEFECTS, Product
from tools.bundled_model.procedural.camera import Camera
from tools.bundled_model.procedural.fields import stream
from tools.bundled_model.procedural.lighting import Light
from tools.bundled_model.procedural.sample import VISIBLE_DIFFERENCE, make_scene

GOOD, TESTED = 8, 20
LEATHER = Product("leather", design=7)
LEATHER_SIZE = (4000, 3000)
SCRATCHES = (12, 30, 60)
PARTS = ("foam", "fruit", "spring", "tile")
SIDE = 3000
DEFECT_PIXELS = (20, 60)
KINDS = ("stain", "foreign object", "hole", "colour fault", "chip")

Pixels = NDArray[np.uint8]


def draw_leather(seed: int, scratch: int | None = None) -> tuple[Pixels, Pixels]:
    """Draw leather, and a scratch of so many pixels on it; give photograph and mask."""
    image, _ = draw_part(LEATHER, seed, max(LEATHER_SIZE))
    width, height = LEATHER_SIZE
    picture = Image.fromarray(image[:height, :width])
    mask = Image.new("L", picture.size)
    if scratch:
        rng = stream(seed, "scratch", scratch)
        x, y = rng.uniform(0.1, 0.9, 2) * LEATHER_SIZE
        angle = rng.uniform(0, np.pi)
        along = np.array([np.cos(angle), np.sin(angle)]) * scratch / 2
        line = [tuple(np.array([x, y]) - along), tuple(np.array([x, y]) + along)]
        thickness = scratch // 4
        ImageDraw.Draw(picture).line(line, fill=(225, 215, 200), width=thickness)
        ImageDraw.Draw(mask).line(line, fill=255, width=thickness)
    return np.asarray(picture), np.asarray(mask)


def draw_part(product: Product, seed: int, side: int, *, is_defective: bool = False) -> tuple[Pixels, Pixels]:
    """Draw a part, and a defect of ``DEFECT_PIXELS`` on it; give photograph and mask."""
    scene = make_scene(product, seed, side)
    light, camera = Light.draw(stream(seed, "light")), Camera.draw(stream(seed, "camera"), side)
    image = camera.photograph(light.illuminate(scene))
    if not is_defective:
        return image, np.zeros((side, side), dtype=np.uint8)
    for attempt in range(20):
        rng = stream(seed, "defect", attempt)
        defect = DEFECTS[KINDS[(seed + attempt) % len(KINDS)]]
        extent = rng.uniform(*DEFECT_PIXELS) / 2 / side
        changed = camera.photograph(light.illuminate(defect(scene, rng, extent)))
        mask = np.abs(changed.astype(np.int16) - image).max(axis=2) >= VISIBLE_DIFFERENCE
        if mask.any():
            extents = [np.ptp(np.flatnonzero(mask.any(axis=axis))) + 1 for axis in (0, 1)]
            if DEFECT_PIXELS[0] <= max(extents) <= DEFECT_PIXELS[1]:
                return changed, mask.astype(np.uint8) * 255
    msg = f"No defect of {DEFECT_PIXELS} pixels can be seen on {product} with seed {seed}."
    raise RuntimeError(msg)


def draw_category(name: str) -> Iterator[tuple[str, Pixels, Pixels]]:
    """Draw the photographs of a category: folder, photograph and mask."""
    if name == "leather":
        for seed in range(GOOD + TESTED):
            yield "train/good" if seed < GOOD else "test/good", *draw_leather(seed)
        for scratch in SCRATCHES:
            for seed in range(100, 105):
                yield f"test/{scratch}_pixels", *draw_leather(seed, scratch)
        return
    product = CATEGORIES[name].product
    for seed in range(GOOD + TESTED):
        yield "train/good" if seed < GOOD else "test/good", *draw_part(product, seed, SIDE)
    for seed in range(100, 100 + TESTED):
        yield "test/defective", *draw_part(product, seed, SIDE, is_defective=True)


def main() -> None:
    """Write the photographs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--categories", nargs="+", default=["leather", *PARTS])
    options = parser.parse_args()
    for name in options.categories:
        for number, (folder, image, mask) in enumerate(draw_category(name)):
            path = options.folder / name / folder / f"{number:03}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path, quality=95)
            if mask.any():
                truth = options.folder / name / "ground_truth" / path.parent.name / f"{path.stem}.png"
                truth.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(truth)


if __name__ == "__main__":
    main()
