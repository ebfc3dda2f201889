# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Samples: photographs of products, with or without a defect, and the exact mask of the defect."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tools.bundled_model.procedural.camera import Camera
from tools.bundled_model.procedural.defects import DEFECTS, Defect
from tools.bundled_model.procedural.fields import soften, stream
from tools.bundled_model.procedural.lighting import Light
from tools.bundled_model.procedural.materials import MATERIALS
from tools.bundled_model.procedural.objects import OBJECTS
from tools.bundled_model.procedural.scene import Scene, make_object, make_surface, plain_background

VISIBLE_DIFFERENCE = 12
"""Smallest change of a pixel's red, green or blue, of 255, that puts it in the mask."""

MINIMUM_CONTRAST = 20
"""Smallest average change of a mask's pixels, of 255."""

FILLED = 0.55
"""Share of changed pixels around a pixel, above which it belongs to the mask, too."""

MINIMUM_AREA = 0.0005
"""The smallest mask, as a fraction of the image."""

EXTENTS = 0.04, 0.22
"""Smallest and largest extent of a defect, as fractions of the side."""

ATTEMPTS = 24
"""Largest number of attempts to draw a visible defect."""

SMALLEST_IMAGE = 32
"""Smallest side of an image, in pixels."""


class InvisibleDefectError(RuntimeError):
    """A defect cannot be seen on a piece, such as a chip of an object that has the background's color."""


@dataclass(frozen=True)
class Product:
    """The subject of a photograph.

    Attributes:
        material (str): Material, a key of ``MATERIALS``.
        object (str | None): Object, a key of ``OBJECTS``; ``None`` for a surface that fills the image.
        background (str | None): Material of the background; ``None`` for an even one.
        design (int): Seed of the properties shared by all pieces, such as colors and proportions.
    """

    material: str
    object: str | None = None
    background: str | None = None
    design: int = 0

    def __post_init__(self) -> None:
        """Refuse unknown kinds."""
        _check_known("material", self.material, MATERIALS)
        if self.object is not None:
            _check_known("object", self.object, OBJECTS)
        if self.background is not None:
            _check_known("background", self.background, MATERIALS)


@dataclass(frozen=True)
class Sample:
    """A photograph.

    Attributes:
        image (NDArray[np.uint8]): Red, green and blue ``[size, size, 3]``.
        mask (NDArray[np.bool_]): Pixels ``[size, size]`` that the defect changes visibly.
        product (Product): The product.
        defect (str | None): Defect, a key of ``DEFECTS``, or ``None``.
        foreground (NDArray[np.bool_]): Pixels ``[size, size]`` of the object before the defect; all of a surface.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    product: Product
    defect: str | None
    foreground: NDArray[np.bool_]


def draw_sample(product: Product, seed: int, defect: str | None = None, size: int = 256) -> Sample:
    """Photograph a piece of a product.

    The sample depends only on the arguments. The same seed with and without a defect gives photographs that differ only
    by the defect.

    Args:
        product (Product): The product.
        seed (int): Seed of the piece, its pose, light, camera and defect, not negative.
        defect (str | None, optional): Defect, a key of ``DEFECTS``. Defaults to ``None``.
        size (int, optional): Side of the image in pixels, at least 32. Defaults to ``256``.

    Raises:
        ValueError: If the defect is unknown, the size is below 32, or a seed is negative.
        InvisibleDefectError: If the defect can't be seen anywhere, which is rare.
    """
    if defect is not None:
        _check_known("defect", defect, DEFECTS)
    if size < SMALLEST_IMAGE:
        msg = f"size must be at least {SMALLEST_IMAGE} pixels, but is {size}."
        raise ValueError(msg)

    scene = make_scene(product, seed, size)
    try:
        image, mask = photograph(scene, seed, defect)
    except InvisibleDefectError as error:
        msg = f"No {defect} can be seen on {product} with seed {seed}: choose another seed."
        raise InvisibleDefectError(msg) from error
    return Sample(image, mask, product, defect, scene.coverage > 0.5)


def photograph(
    scene: Scene,
    seed: int,
    defect: str | None = None,
    defects: Mapping[str, Defect] = DEFECTS,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Photograph a scene, and find the pixels that a defect changes.

    Args:
        scene (Scene): The scene without defect.
        seed (int): Seed of the light, the camera and the defect, not negative.
        defect (str | None, optional): Defect, a key of ``defects``. Defaults to ``None``.
        defects (Mapping[str, Defect], optional): Defects by name. Defaults to ``DEFECTS``.

    Returns:
        tuple[NDArray[np.uint8], NDArray[np.bool_]]: Red, green and blue ``[size, size, 3]``, and the pixels
            ``[size, size]`` that the defect changes visibly.

    Raises:
        InvisibleDefectError: If the defect can't be seen anywhere.
    """
    light, camera = Light.draw(stream(seed, "light")), Camera.draw(stream(seed, "camera"), scene.size)
    image = camera.photograph(light.illuminate(scene))
    best, best_mask, best_visibility = image, np.zeros((scene.size, scene.size), dtype=np.bool_), 0.0
    if defect is None:
        return best, best_mask
    for attempt in range(ATTEMPTS):
        rng = stream(seed, defect, attempt)
        # It grows with each attempt, because small ones may be hardly visible.
        smallest, largest = EXTENTS
        extent = smallest * (largest / smallest) ** rng.uniform(attempt / ATTEMPTS, 1)
        changed = camera.photograph(light.illuminate(defects[defect](scene, rng, extent)))
        mask, visibility = _compare(image, changed)
        if visibility > best_visibility:
            best, best_mask, best_visibility = changed, mask, visibility
        if visibility >= 1:
            break
    if not best_visibility:
        msg = f"No {defect} can be seen with seed {seed}: choose another seed."
        raise InvisibleDefectError(msg)
    return best, best_mask


def make_scene(product: Product, seed: int, size: int) -> Scene:
    """Make the scene of a piece of a product, ``size`` pixels a side."""
    design, variation = stream(product.design, product.material), stream(seed, product.material)
    if product.object is None:
        return make_surface(product.material, design, variation, size)
    make_background = MATERIALS[product.background] if product.background else plain_background
    background = make_background(stream(product.design, "background"), stream(seed, "background"), size)
    surface = MATERIALS[product.material](design, variation, size)
    return make_object(
        product.object, surface, background, stream(product.design, product.object), stream(seed, product.object)
    )


def _compare(image: NDArray[np.uint8], changed: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], float]:
    """Find the pixels that differ visibly, and their total visibility: 1 or more is enough."""
    red, green, blue = np.moveaxis(np.maximum(image, changed) - np.minimum(image, changed), 2, 0)
    difference = np.maximum(np.maximum(red, green), blue)
    mask = _fill_gaps(difference >= VISIBLE_DIFFERENCE)
    if not mask.any():
        return mask, 0.0
    contrast = float(difference[mask].mean()) / MINIMUM_CONTRAST
    return mask, min(contrast, float(mask.mean()) / MINIMUM_AREA)


def _fill_gaps(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Fill small gaps, where a defect happens to have the surface's color. Thin lines do not grow."""
    return mask | (soften(mask.astype(np.float32), 0.016) > FILLED)


def _check_known(argument: str, name: str, known: Mapping[str, object]) -> None:
    if name not in known:
        msg = f"Unknown {argument} '{name}': choose one of {', '.join(known)}."
        raise ValueError(msg)
