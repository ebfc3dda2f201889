# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Materials: color, relief and gloss of a surface that fills the image.

A material is a function of two random streams. What belongs to a product (its color, the width of its weave) comes
from ``design``; what differs from one piece to the next (the run of the grain, the place of each speck) comes from
``variation``.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from tools.bundled_model.procedural.fields import (
    Field,
    blend,
    cells,
    color,
    directions,
    grain,
    noise,
    shade,
    smoothstep,
)


class Surface(NamedTuple):
    """A surface that fills the image.

    Attributes:
        albedo (Field): Color ``[3, size, size]``, from 0 to 1.
        height (Field): Relief ``[size, size]``, as a fraction of the side.
        gloss (Field): Strength of highlights ``[size, size]``, from 0 to 1.
    """

    albedo: Field
    height: Field
    gloss: Field


Material = Callable[[Generator, Generator, int], Surface]

TAU = 2 * np.pi


def _surface(albedo: Field, height: Field, gloss: float) -> Surface:
    return Surface(albedo, height, np.full(height.shape, gloss, dtype=np.float32))


def _jitter(variation: Generator, base: Field) -> Field:
    """Vary a color from piece to piece."""
    jitter = 1 + variation.normal(0, 0.03) + variation.normal(0, 0.01, (3, 1, 1))
    return np.clip(base * jitter, 0.02, 0.98).astype(np.float32)


def plastic(design: Generator, variation: Generator, size: int) -> Surface:
    """Smooth molded plastic, slightly uneven."""
    base = _jitter(variation, color(design, saturation=(0.05, 0.85), value=(0.2, 0.9)))
    uneven = noise(variation, size, 3, 2)
    return _surface(shade(base, 0.03 * uneven), 0.002 * uneven, design.uniform(0.3, 0.8))


def painted_metal(design: Generator, variation: Generator, size: int) -> Surface:
    """Lacquer with the dimples of an orange's peel."""
    base = _jitter(variation, color(design, saturation=(0.1, 0.9), value=(0.25, 0.85)))
    peel = noise(variation, size, design.uniform(25, 50), 2)
    return _surface(shade(base, 0.02 * peel), 0.0006 * peel, design.uniform(0.4, 0.8))


def cast_metal(design: Generator, variation: Generator, size: int) -> Surface:
    """Rough gray casting."""
    base = _jitter(variation, color(design, (0.05, 0.65), (0.0, 0.12), (0.35, 0.65)))
    rough = noise(variation, size, design.uniform(30, 60), 3)
    return _surface(
        shade(base, 0.06 * rough + 0.05 * noise(variation, size, 4, 2)), 0.0022 * rough, design.uniform(0.3, 0.6)
    )


def brushed_metal(design: Generator, variation: Generator, size: int) -> Surface:
    """Metal with fine parallel brush marks."""
    base = _jitter(variation, color(design, (0.05, 0.65), (0.0, 0.18), (0.5, 0.75)))
    aspect = design.uniform(0.02, 0.06)
    strokes: Field = noise(variation, size, 3, aspect=aspect) + 0.6 * noise(variation, size, 8, aspect=aspect)
    if design.random() < 0.5:
        strokes = strokes.T
    return _surface(
        shade(base, 0.10 * strokes + 0.04 * noise(variation, size, 2)), 0.0003 * strokes, design.uniform(0.5, 0.9)
    )


def wood(design: Generator, variation: Generator, size: int) -> Surface:
    """Planed board with growth rings and pores."""
    base = _jitter(variation, color(design, (0.05, 0.11), (0.35, 0.65), (0.45, 0.85)))
    rings = design.uniform(7, 18)
    upright = design.random() < 0.5
    along, across = directions(size, (np.pi / 2 if upright else 0) + variation.normal(0, 0.04))
    bend = noise(variation, size, 2, 2)
    phase = rings * (across + 0.10 * bend + 0.05 * np.sin(5 * along + np.float32(variation.uniform(0, TAU))))
    late = np.square(np.mod(phase, 1, dtype=np.float32))
    pores: Field = np.maximum(noise(variation, size, 8, aspect=0.05), 0)
    if upright:
        pores = pores.T
    return _surface(
        shade(base, 0.04 * bend - 0.30 * late - 0.10 * pores), np.float32(-0.0008) * pores, design.uniform(0.0, 0.25)
    )


def concrete(design: Generator, variation: Generator, size: int) -> Surface:
    """Gray mortar with clouds and pits."""
    base = _jitter(variation, color(design, (0.05, 0.15), (0.02, 0.15), (0.5, 0.75)))
    clouds, fine = noise(variation, size, 5, 4), noise(variation, size, 60, 2)
    pits = smoothstep(noise(variation, size, 28), 0.95, 1.2)
    return _surface(shade(base, 0.12 * clouds + 0.06 * fine - 0.35 * pits), 0.0016 * fine - 0.004 * pits, 0.02)


def cardboard(design: Generator, variation: Generator, size: int) -> Surface:
    """Brown board with fibres and faint corrugation."""
    base = _jitter(variation, color(design, (0.07, 0.11), (0.25, 0.45), (0.6, 0.8)))
    fibres = noise(variation, size, 14, 2, aspect=0.3)
    _, across = directions(size, variation.normal(0, 0.02))
    flutes = np.sin(across * np.float32(TAU * design.uniform(20, 36)))
    return _surface(shade(base, 0.07 * fibres + 0.02 * grain(variation, size)), 0.0007 * flutes, 0.0)


def carpet(design: Generator, variation: Generator, size: int) -> Surface:
    """Tufted pile."""
    first = _jitter(variation, color(design, saturation=(0.1, 0.6), value=(0.25, 0.65)))
    tufts = noise(variation, size, design.uniform(40, 70), 2)
    spots = noise(variation, size, 45)
    return _surface(blend(first, first * 0.6, smoothstep(spots, 0.2, 0.6)) * (1 + 0.25 * tufts), 0.005 * tufts, 0.0)


def woven_fabric(design: Generator, variation: Generator, size: int) -> Surface:
    """Plain weave of two yarns."""
    warp = _jitter(variation, color(design, saturation=(0.05, 0.7), value=(0.3, 0.85)))
    weft = _jitter(variation, warp * np.float32(design.uniform(0.65, 1.1)))
    threads = design.uniform(22, 44)
    along, across = directions(size, design.uniform(-0.1, 0.1) + variation.normal(0, 0.03))
    sway = 0.004 * noise(variation, size, 6)
    u = (along + sway) * np.float32(np.pi * threads)
    v = (across + sway) * np.float32(np.pi * threads)
    profile_u, profile_v = np.abs(np.sin(u)), np.abs(np.sin(v))
    over = smoothstep(np.sin(u + np.float32(np.pi / 4)) * np.sin(v + np.float32(np.pi / 4)), -0.15, 0.15)
    relief = over * profile_u + (1 - over) * profile_v
    fuzz = noise(variation, size, 70)
    return _surface(
        shade(blend(weft, warp, over), 0.35 * (relief - 0.75) + 0.08 * fuzz), np.float32(0.12 / threads) * relief, 0.0
    )


def knitted_fabric(design: Generator, variation: Generator, size: int) -> Surface:
    """Rows of V-shaped stitches."""
    base = _jitter(variation, color(design, saturation=(0.1, 0.7), value=(0.3, 0.8)))
    stitches = design.uniform(13, 22)
    along, across = directions(size, variation.normal(0, 0.04))
    sway = 0.006 * noise(variation, size, 5)
    u = np.mod((along + sway) * np.float32(stitches), 1)
    leg = np.abs(u - 0.5)
    v = (across + sway) * np.float32(1.3 * stitches) - 1.4 * leg
    relief = np.abs(np.sin(v * np.float32(np.pi))) * np.sqrt(np.clip(np.sin(leg * np.float32(TAU)), 0, 1))
    fuzz = noise(variation, size, 80)
    return _surface(shade(base, 0.5 * (relief - 0.6) + 0.10 * fuzz), np.float32(0.16 / stitches) * relief, 0.0)


def wire_mesh(design: Generator, variation: Generator, size: int) -> Surface:
    """Crossing wires over a dark or a light ground."""
    wire = _jitter(variation, color(design, (0.05, 0.65), (0.0, 0.2), (0.5, 0.8)))
    ground = _jitter(variation, color(design, (0.0, 1.0), (0.0, 0.2), (0.05, 0.2)))
    count, width = design.uniform(9, 17), design.uniform(0.16, 0.26)
    along, across = directions(size, design.choice([0, np.pi / 4]) + variation.normal(0, 0.03))
    sway = 0.003 * noise(variation, size, 4)
    profiles = []
    for axis in (along + sway, across - sway):
        distance = np.abs(np.mod(axis * np.float32(count), 1) - 0.5) / np.float32(width)
        profiles.append(np.sqrt(np.clip(1 - distance * distance, 0, 1)))
    relief = np.maximum(*profiles)
    albedo = blend(ground, shade(wire, 0.05 * noise(variation, size, 30)), smoothstep(relief, 0.0, 0.5))
    return Surface(albedo, np.float32(0.5 * width / count) * relief, np.float32(design.uniform(0.3, 0.7)) * relief)


def ceramic_tiles(design: Generator, variation: Generator, size: int) -> Surface:
    """Glazed tiles with joints."""
    base = color(design, saturation=(0.02, 0.5), value=(0.5, 0.92))
    joint = _jitter(variation, color(design, (0.05, 0.15), (0.0, 0.15), (0.4, 0.8)))
    count = int(design.integers(3, 7))
    along, across = directions(size, variation.normal(0, 0.03))
    u = (along + np.float32(variation.uniform(1, 2))) * count
    v = (across + np.float32(variation.uniform(1, 2))) * count
    edge = np.minimum(0.5 - np.abs(np.mod(u, 1) - 0.5), 0.5 - np.abs(np.mod(v, 1) - 0.5))
    inside = smoothstep(edge, 0.02, 0.06)
    tones = variation.normal(0, 0.04, (3 * count + 3, 3 * count + 3)).astype(np.float32)
    tone = tones[v.astype(np.int32), u.astype(np.int32)]
    tile = shade(base, tone + 0.04 * noise(variation, size, 8, 2))
    return Surface(blend(joint, tile, inside), 0.008 * smoothstep(edge, 0.02, 0.12), np.float32(0.6) * inside)


def rubber(design: Generator, variation: Generator, size: int) -> Surface:
    """Dark matte rubber with a fine grain."""
    base = _jitter(variation, color(design, (0.0, 1.0), (0.0, 0.25), (0.1, 0.28)))
    fine = noise(variation, size, 90)
    return _surface(
        shade(base, 0.10 * fine + 0.06 * noise(variation, size, 3)), 0.0012 * fine, design.uniform(0.05, 0.25)
    )


def marble(design: Generator, variation: Generator, size: int) -> Surface:
    """Polished stone with veins."""
    base = _jitter(variation, color(design, (0.0, 0.6), (0.0, 0.15), (0.65, 0.92)))
    vein = base * np.float32(design.uniform(0.45, 0.75))
    warp = noise(variation, size, 3, 3)
    lines = 1 - np.abs(np.sin((directions(size, variation.uniform(0, np.pi))[0] * 3 + 0.6 * warp) * np.float32(np.pi)))
    return _surface(
        blend(base, vein, 0.7 * (lines * lines) ** 2 + 0.15 * np.abs(warp)), 0 * warp, design.uniform(0.3, 0.6)
    )


def foam(design: Generator, variation: Generator, size: int) -> Surface:
    """Open foam with small pores."""
    base = _jitter(variation, color(design, saturation=(0.05, 0.6), value=(0.45, 0.85)))
    pores = smoothstep(noise(variation, size, design.uniform(60, 95)), 0.1, 1.1)
    return _surface(shade(base, -0.35 * pores + 0.05 * noise(variation, size, 4)), -0.005 * pores, 0.0)


def granite(design: Generator, variation: Generator, size: int) -> Surface:
    """Polished stone of small light, dark and colored grains."""
    base = _jitter(variation, color(design, (-0.05, 0.15), (0.05, 0.35), (0.5, 0.75)))
    count = design.uniform(45, 75)
    dark = smoothstep(noise(variation, size, count), 0.35, 0.5)
    light = smoothstep(noise(variation, size, count), 0.35, 0.5)
    albedo = blend(blend(base, base * 0.3, dark), np.float32(0.5) + 0.5 * base, light * (1 - dark))
    return _surface(shade(albedo, 0.06 * noise(variation, size, 6)), 0 * dark, design.uniform(0.2, 0.5))


def cork(design: Generator, variation: Generator, size: int) -> Surface:
    """Pressed cork granules."""
    base = _jitter(variation, color(design, (0.06, 0.09), (0.4, 0.55), (0.6, 0.8)))
    first, second, index = cells(variation, size, int(design.integers(22, 34)))
    tones = variation.normal(0, 0.12, index.max() + 1).astype(np.float32)
    gap = 1 - smoothstep(second - first, 0.0, 0.25)
    return _surface(shade(base, tones[index] - 0.35 * gap + 0.06 * noise(variation, size, 60)), -0.002 * gap, 0.0)


def printed_pattern(design: Generator, variation: Generator, size: int) -> Surface:
    """Paper or foil printed with dots, stripes or checks."""
    paper = _jitter(variation, color(design, saturation=(0.0, 0.25), value=(0.75, 0.95)))
    ink = _jitter(variation, color(design, saturation=(0.4, 0.95), value=(0.2, 0.75)))
    count = np.float32(design.uniform(5, 14))
    along, across = directions(size, design.uniform(0, np.pi) + variation.normal(0, 0.03))
    u = np.sin((along + np.float32(variation.uniform(0, 1) / count)) * (np.float32(TAU) * count))
    v = np.sin((across + np.float32(variation.uniform(0, 1) / count)) * (np.float32(TAU) * count))
    pattern = {"dots": u + v - 0.7, "stripes": u, "checks": 3 * u * v}[
        str(design.choice(["dots", "stripes", "checks"]))
    ]
    edge = float(count) * TAU / size
    return _surface(
        blend(paper, ink, smoothstep(pattern, -edge, edge)),
        0.0003 * noise(variation, size, 60),
        design.uniform(0.0, 0.4),
    )


def leather(design: Generator, variation: Generator, size: int) -> Surface:
    """Grained hide: irregular cells between creases."""
    base = _jitter(variation, color(design, (0.0, 0.12), (0.3, 0.75), (0.25, 0.65)))
    first, second, _ = cells(variation, size, int(design.integers(26, 42)))
    crease = 1 - smoothstep(second - first, 0.0, 0.35)
    pores = noise(variation, size, 70)
    return _surface(
        shade(base, -0.30 * crease + 0.05 * pores + 0.05 * noise(variation, size, 3)),
        -0.004 * crease + 0.0006 * pores,
        design.uniform(0.15, 0.4),
    )


def terrazzo(design: Generator, variation: Generator, size: int) -> Surface:
    """Polished cement with stone chips."""
    base = _jitter(variation, color(design, saturation=(0.0, 0.2), value=(0.55, 0.85)))
    chips = np.concatenate([color(design, (0.0, 1.0), (0.05, 0.45), (0.25, 0.9)) for _ in range(4)], axis=1)
    first, second, index = cells(variation, size, int(design.integers(11, 18)))
    which = variation.integers(0, 4, index.max() + 1)
    reach = variation.uniform(0.0, 0.5, index.max() + 1).astype(np.float32)
    gap = second - first - 0.12 + 0.05 * noise(variation, size, 40)
    chip = smoothstep(np.minimum(gap, reach[index] - first + 0.25 * gap), 0.0, 0.06)
    albedo = blend(shade(base, 0.04 * noise(variation, size, 40, 2)), chips[:, which, 0][:, index], chip)
    return _surface(albedo, 0 * chip, design.uniform(0.2, 0.5))


def dough(design: Generator, variation: Generator, size: int) -> Surface:
    """Baked dough: golden, browned in places, crumbly."""
    base = _jitter(variation, color(design, (0.07, 0.10), (0.45, 0.65), (0.65, 0.85)))
    brown = base * np.array([0.65, 0.52, 0.42], dtype=np.float32)[:, None, None]
    toast, crumbs = noise(variation, size, 5, 3), noise(variation, size, 34, 3)
    return _surface(shade(blend(base, brown, 0.7 * smoothstep(toast, -0.2, 1.2)), 0.10 * crumbs), 0.004 * crumbs, 0.03)


MATERIALS: dict[str, Material] = {
    "plastic": plastic,
    "painted metal": painted_metal,
    "cast metal": cast_metal,
    "brushed metal": brushed_metal,
    "wood": wood,
    "concrete": concrete,
    "cardboard": cardboard,
    "carpet": carpet,
    "woven fabric": woven_fabric,
    "knitted fabric": knitted_fabric,
    "wire mesh": wire_mesh,
    "ceramic tile": ceramic_tiles,
    "rubber": rubber,
    "marble": marble,
    "foam": foam,
    "granite": granite,
    "cork": cork,
    "printed foil": printed_pattern,
    "leather": leather,
    "terrazzo": terrazzo,
    "baked dough": dough,
}
"""Materials by their words in a caption."""
