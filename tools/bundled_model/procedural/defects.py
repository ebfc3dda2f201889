# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Defects: each changes a scene in one place.

A defect is a function of the scene, a random stream and the defect's extent as a fraction of the image's side. Its mask
is the difference of the photographs with and without it.
"""

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from tools.bundled_model.procedural.fields import Field, blend, color, coordinates, noise, shade, smoothstep, soften
from tools.bundled_model.procedural.materials import Surface
from tools.bundled_model.procedural.outlines import blob, disc, fill, regular, ribbon
from tools.bundled_model.procedural.scene import Scene
from tools.bundled_model.procedural.strokes import bars, characters, curve, jagged, rotation, stamp, unit_vector

Defect = Callable[[Scene, Generator, float], Scene]


def scratch(scene: Scene, rng: Generator, extent: float) -> Scene:
    """Thin, nearly straight groove, lighter or darker than the surface."""
    center = _place(scene, rng)
    lines = []
    for _ in range(int(rng.integers(1, 4))):
        line = curve(rng, center + 0.15 * extent * rng.standard_normal(2, dtype=np.float32), 2 * extent, bend=0.5)
        widths = rng.uniform(0.004, 0.009) * np.sin(np.linspace(0.25, np.pi - 0.1, len(line)))
        lines.append(ribbon(line, widths.astype(np.float32)))
    mark = fill(scene.size, lines)
    tone = _contrast(scene, mark, rng, 0.15, 0.55)
    surface = scene.surface
    return scene._replace(
        surface=Surface(blend(surface.albedo, tone, 0.85 * mark), surface.height - 0.002 * mark, surface.gloss)
    )


def crack(scene: Scene, rng: Generator, extent: float) -> Scene:
    """Dark, jagged and branching gap."""
    start = _place(scene, rng)
    heading = rng.uniform(0, 2 * np.pi)
    trunk = jagged(rng, start - np.float32(extent) * unit_vector(heading), heading, 2 * extent)
    lines = [ribbon(trunk, np.linspace(rng.uniform(0.008, 0.016), 0.003, len(trunk), dtype=np.float32))]
    for _ in range(int(rng.integers(0, 4))):
        root = trunk[int(rng.integers(3, len(trunk) - 3))]
        branch = jagged(
            rng, root, heading + rng.choice([-1, 1]) * rng.uniform(0.4, 1.1), extent * rng.uniform(0.4, 0.9)
        )
        lines.append(ribbon(branch, np.linspace(0.007, 0.002, len(branch), dtype=np.float32)))
    gap = fill(scene.size, lines)
    surface = scene.surface
    albedo = shade(surface.albedo, -rng.uniform(0.6, 0.9) * gap)
    return scene._replace(surface=Surface(albedo, surface.height - 0.006 * gap, surface.gloss * (1 - gap)))


def stain(scene: Scene, rng: Generator, extent: float) -> Scene:
    """Translucent spot with an irregular, darker edge."""
    spot = irregular(scene, rng, extent)
    edge = spot * (1 - smoothstep(soften(spot, 0.012), 0.5, 1.0))
    tint = _contrast(scene, spot, rng, 0.14, 0.5)
    weight = np.float32(rng.uniform(0.5, 0.85)) * spot + 0.15 * edge
    surface = scene.surface
    return scene._replace(surface=surface._replace(albedo=blend(surface.albedo, tint, weight)))


def hole(scene: Scene, rng: Generator, extent: float) -> Scene:
    """Hole that was punched or broken through, with a rim."""
    center = _place(scene, rng)
    outline = blob(rng, 0.4 * extent, rng.uniform(0.02, 0.2), tuple(center))
    opening = fill(scene.size, [outline])
    rim = np.clip(soften(opening, 0.012) * 2, 0, 1) * (1 - opening)
    if scene.background is not None:
        coverage = scene.coverage * (1 - opening)
        surface = scene.surface._replace(height=scene.surface.height + 0.006 * rim)
        return scene._replace(surface=surface, coverage=coverage)
    surface = scene.surface
    inside = color(rng, saturation=(0.0, 0.3), value=(0.02, 0.12))
    depth = smoothstep(soften(opening, 0.01), 0.3, 1.0) * opening
    albedo = blend(surface.albedo, inside, np.maximum(opening * np.float32(0.8), depth))
    height = surface.height + 0.006 * rim - 0.02 * depth
    return scene._replace(surface=Surface(albedo, height, surface.gloss * (1 - opening)))


def chip(scene: Scene, rng: Generator, extent: float) -> Scene:
    """Piece that broke off at an edge, or flaked off a surface."""
    center = _place(scene, rng, edge=scene.background is not None)
    corners = int(rng.integers(5, 10))
    flake = regular(corners, 0.55 * extent, angle=rng.uniform(0, 2 * np.pi))
    flake = (flake * rng.uniform(0.6, 1.2, (corners, 1)) + center).astype(np.float32)
    missing = fill(scene.size, [flake])
    surface = scene.surface
    if scene.background is not None:
        return scene._replace(coverage=scene.coverage * (1 - missing))
    fresh = _contrast(scene, missing, rng, 0.15, 0.45)
    rough = noise(rng, scene.size, 40, 2)
    return scene._replace(
        surface=Surface(
            blend(surface.albedo, shade(fresh, 0.10 * rough), missing),
            surface.height + missing * (0.003 * rough - surface.height - 0.008),
            surface.gloss * (1 - missing),
        )
    )


def fracture(scene: Scene, rng: Generator, extent: float) -> Scene:
    """Gap of a break that runs from an edge into the object, or across a surface, wide at one end and ragged."""
    start = _place(scene, rng, edge=scene.background is not None)
    middle = _center(scene.coverage) if scene.background is not None else _place(scene, rng)
    heading = np.arctan2(*(middle - start)[::-1]) + rng.normal(0, 0.5)
    length = extent * rng.uniform(1.5, 3.5)
    line = jagged(rng, start - np.float32(0.3 * extent) * unit_vector(heading), heading, length)
    sides = np.linspace(extent * rng.uniform(0.15, 0.6), 0.004, len(line)) * rng.uniform(0.6, 1.4, len(line))
    gap = fill(scene.size, [ribbon(line, sides.astype(np.float32))])
    if scene.background is not None:
        return scene._replace(coverage=scene.coverage * (1 - gap))
    surface = scene.surface
    inside = _mean_color(scene, gap) * np.float32(rng.uniform(0.1, 0.4))
    return scene._replace(
        surface=Surface(blend(surface.albedo, inside, gap), surface.height - 0.01 * gap, surface.gloss * (1 - gap))
    )


def foreign_object(scene: Scene, rng: Generator, extent: float) -> Scene:
    """Something foreign: a crumb, a pellet, a splinter or a scrap."""
    center = tuple(_place(scene, rng))
    angle = rng.uniform(0, 2 * np.pi)
    outline = {
        "crumb": lambda: blob(rng, 0.35 * extent, 0.18, center),
        "pellet": lambda: disc(0.3 * extent, center),
        "splinter": lambda: ribbon(curve(rng, np.array(center), 1.3 * extent, bend=0.1), 0.12 * extent),
        "scrap": lambda: regular(4, 0.45 * extent, center, angle),
    }[str(rng.choice(["crumb", "pellet", "splinter", "scrap"]))]()
    body = fill(scene.size, [outline])
    tone = shade(_contrast(scene, body, rng, 0.15, 0.6), 0.08 * noise(rng, scene.size, 50))
    return _lay(scene, body, tone, rng.uniform(0.1, 0.25) * extent, rng.uniform(0, 0.6))


def misprint(scene: Scene, rng: Generator, extent: float) -> Scene:
    """Letters, bars or a stamp, printed in the wrong place."""
    center, angle = _place(scene, rng), rng.uniform(0, 2 * np.pi)
    draw = (characters, bars, stamp)[rng.integers(3)]
    outlines = draw(rng)
    corners = np.concatenate(outlines)
    middle, unit = (corners.max(0) + corners.min(0)) / 2, extent * 1.2 / np.ptp(corners, axis=0).max()
    ink = fill(
        scene.size,
        [(((outline - middle) * unit) @ rotation(angle) + center).astype(np.float32) for outline in outlines],
    )
    surface = scene.surface
    albedo = blend(surface.albedo, _contrast(scene, ink, rng, 0.2, 0.7), np.float32(rng.uniform(0.7, 1.0)) * ink)
    return scene._replace(surface=surface._replace(albedo=albedo))


def color_fault(scene: Scene, rng: Generator, extent: float) -> Scene:
    """Region of a wrong color, with the right texture."""
    center = _place(scene, rng)
    outline = blob(rng, 0.8 * extent, 0.12, tuple(center))
    softness = rng.uniform(0.004, max(0.004, 0.2 * extent))
    region = soften(fill(scene.size, [outline]), softness)
    surface = scene.surface
    mean = _mean_color(scene, region)
    factor = (_contrast(scene, region, rng, 0.12, 0.4) + np.float32(0.05)) / (mean + np.float32(0.05))
    albedo = np.clip(surface.albedo * (1 + region * (factor - 1)), 0, 1)
    return scene._replace(surface=surface._replace(albedo=albedo))


def contamination(scene: Scene, rng: Generator, extent: float) -> Scene:
    """Dust, grit or splashes: many specks near each other."""
    center = _place(scene, rng)
    count = int(rng.integers(8, 40))
    places = center + rng.normal(0, 0.45 * extent, (count, 2))
    radii = np.clip(rng.lognormal(np.log(0.006), 0.5, count), 0.003, 0.02)
    specks = fill(scene.size, [blob(rng, r, 0.2, (x, y)) for (x, y), r in zip(places, radii, strict=True)])
    tone = _contrast(scene, specks, rng, 0.2, 0.6)
    if scene.background is not None:
        specks *= scene.coverage
    return _lay(scene, specks, tone, rng.uniform(0.0, 0.005), 0.05)


def deformation(scene: Scene, rng: Generator, extent: float) -> Scene:
    """Region that is bent or pushed aside."""
    center = _place(scene, rng, edge=scene.background is not None)
    x, y = coordinates(scene.size)
    reach = 1.1 * extent
    weight = np.exp(-((x - np.float32(center[0])) ** 2 + (y - np.float32(center[1])) ** 2) / np.float32(reach**2))
    angle, push = rng.uniform(0, 2 * np.pi), rng.uniform(0.35, 0.7) * reach * scene.size
    columns = np.clip(x * scene.size + weight * np.float32(push * np.cos(angle)), 0, scene.size - 1)
    rows = np.clip(y * scene.size + weight * np.float32(push * np.sin(angle)), 0, scene.size - 1)
    source = rows.astype(np.intp) * scene.size + columns.astype(np.intp)
    height, gloss, coverage = (field.ravel()[source] for field in (*scene.surface[1:], scene.coverage))
    albedo = np.stack([channel.ravel()[source] for channel in scene.surface.albedo])
    ridge = np.float32(0.35 * extent) * weight
    return scene._replace(surface=Surface(albedo, height + ridge, gloss), coverage=coverage)


def abrasion(scene: Scene, rng: Generator, extent: float) -> Scene:
    """Worn patch: many fine parallel scratches, bare and dull."""
    center, heading = _place(scene, rng), unit_vector(rng.uniform(0, np.pi))
    lines = []
    for _ in range(int(rng.integers(14, 36))):
        middle = center + rng.normal(0, 0.3 * extent) * np.array([-heading[1], heading[0]])
        half = heading * extent * rng.uniform(0.2, 0.7)
        offset = heading * rng.normal(0, 0.15 * extent)
        lines.append(
            ribbon(
                np.stack([middle - half, middle + half]).astype(np.float32) + offset.astype(np.float32),
                rng.uniform(0.003, 0.007),
            )
        )
    marks = fill(scene.size, lines)
    marks = np.maximum(marks, 0.5 * smoothstep(soften(marks, 0.25 * extent), 0.3, 0.8))
    surface = scene.surface
    albedo = blend(surface.albedo, _contrast(scene, marks, rng, 0.2, 0.45), np.float32(0.8) * marks)
    return scene._replace(surface=Surface(albedo, surface.height - 0.0008 * marks, surface.gloss * (1 - marks)))


def corrosion(scene: Scene, rng: Generator, extent: float) -> Scene:
    """Blooms of rust, verdigris or mold."""
    region = irregular(scene, rng, 1.2 * extent)
    speckle = smoothstep(noise(rng, scene.size, 30, 3), -0.5, 0.3) * region
    hue = (0.02, 0.08) if rng.random() < 0.7 else (0.35, 0.5)
    tone = color(rng, hue, (0.45, 0.8), (0.2, 0.55))
    rough = noise(rng, scene.size, 50, 2)
    surface = scene.surface
    albedo = blend(surface.albedo, shade(tone, 0.3 * rough), np.float32(0.9) * speckle)
    return scene._replace(
        surface=Surface(albedo, surface.height + 0.003 * rough * speckle, surface.gloss * (1 - speckle))
    )


def dent(scene: Scene, rng: Generator, extent: float) -> Scene:
    """Hollow from an impact, in the surface's color."""
    center, angle = _place(scene, rng), rng.uniform(0, np.pi)
    ratio = rng.uniform(0.5, 1.0)
    outline = disc(1.0) * np.array([0.55 * extent, 0.55 * extent * ratio], dtype=np.float32)
    hollow = soften(fill(scene.size, [(outline @ rotation(angle) + center).astype(np.float32)]), 0.18 * extent)
    rim = hollow * (1 - hollow)
    surface = scene.surface
    height = surface.height - np.float32(rng.uniform(0.25, 0.5) * extent) * hollow + np.float32(0.2 * extent) * rim
    return scene._replace(surface=Surface(shade(surface.albedo, -0.12 * hollow), height, surface.gloss))


def cut(scene: Scene, rng: Generator, extent: float) -> Scene:
    """Clean slit of a blade, open in the middle, with raised lips."""
    line = curve(rng, _place(scene, rng), 1.8 * extent, bend=0.12)
    opening = (rng.uniform(0.06, 0.13) * extent + 0.004) * np.sin(np.linspace(0, np.pi, len(line)))
    slit = fill(scene.size, [ribbon(line, opening.astype(np.float32))])
    lips = fill(scene.size, [ribbon(line, (2.2 * opening).astype(np.float32))]) * (1 - slit)
    surface = scene.surface
    inside = _mean_color(scene, slit) * np.float32(rng.uniform(0.1, 0.3))
    albedo = shade(blend(surface.albedo, inside, slit), 0.25 * lips)
    return scene._replace(
        surface=Surface(albedo, surface.height + 0.004 * lips - 0.006 * slit, surface.gloss * (1 - slit))
    )


def burn(scene: Scene, rng: Generator, extent: float) -> Scene:
    """Scorch: black in the middle, brown around."""
    region = soften(irregular(scene, rng, 1.1 * extent), 0.15 * extent)
    ash = noise(rng, scene.size, 40, 2)
    brown = np.array([0.42, 0.25, 0.12], dtype=np.float32)[:, None, None]
    charred = np.float32(rng.uniform(0.2, 1.0))
    char = np.array([0.05, 0.045, 0.04], dtype=np.float32)[:, None, None]
    surface = scene.surface
    albedo = surface.albedo * (1 - smoothstep(region, 0.02, 0.5) * (1 - brown))
    albedo = blend(albedo, shade(char, 0.4 * ash), charred * smoothstep(region + 0.1 * ash, 0.35, 0.8))
    return scene._replace(surface=surface._replace(albedo=np.clip(albedo, 0, 1), gloss=surface.gloss * (1 - region)))


def thread(scene: Scene, rng: Generator, extent: float) -> Scene:
    """Loose thread or hair that lies on top."""
    line = curve(rng, _place(scene, rng), 3 * extent, bend=3.0)
    strand = fill(scene.size, [ribbon(line[i : i + 2], rng.uniform(0.006, 0.01)) for i in range(len(line) - 1)])
    return _lay(scene, strand, _contrast(scene, strand, rng, 0.2, 0.6), 0.006, 0.2)


def bubbles(scene: Scene, rng: Generator, extent: float) -> Scene:
    """Blisters under the surface."""
    center = _place(scene, rng)
    raised = np.zeros((scene.size, scene.size), dtype=np.float32)
    x, y = coordinates(scene.size)
    for _ in range(int(rng.integers(2, 7))):
        at = (center + rng.normal(0, 0.4 * extent, 2)).astype(np.float32)
        radius = np.float32(extent * rng.uniform(0.15, 0.32) + 0.006)
        inside = 1 - ((x - at[0]) ** 2 + (y - at[1]) ** 2) / (radius * radius)
        raised = np.maximum(raised, radius * np.sqrt(np.clip(inside, 0, 1)))
    surface = scene.surface
    gloss = np.maximum(surface.gloss, 0.8 * (raised > 0))
    return scene._replace(surface=Surface(surface.albedo, surface.height + raised, gloss.astype(np.float32)))


DEFECTS: dict[str, Defect] = {
    "scratch": scratch,
    "crack": crack,
    "stain": stain,
    "hole": hole,
    "chip": chip,
    "fracture": fracture,
    "foreign object": foreign_object,
    "misprint": misprint,
    "colour fault": color_fault,
    "contamination": contamination,
    "deformation": deformation,
    "abrasion": abrasion,
    "corrosion": corrosion,
    "dent": dent,
    "cut": cut,
    "burn": burn,
    "thread": thread,
    "bubbles": bubbles,
}
"""Defects by their words in a caption."""


def _place(scene: Scene, rng: Generator, *, edge: bool = False) -> Field:
    """Draw a point on the object, or on its edge, as fractions of the side."""
    margin = scene.size // 10
    coverage = soften(scene.coverage, 0.02)[margin:-margin, margin:-margin]
    # Relative to the maximum: some objects are thinner than the blur.
    inside = np.abs(coverage - 0.5) < 0.2 if edge else coverage >= 0.8 * coverage.max()
    candidates = np.flatnonzero(inside)
    row, column = divmod(int(candidates[rng.integers(len(candidates))]), scene.size - 2 * margin)
    return np.array([column + margin + 0.5, row + margin + 0.5], dtype=np.float32) / np.float32(scene.size)


def _center(coverage: Field) -> Field:
    """Return the middle of the covered pixels, as fractions of the side."""
    x, y = coordinates(len(coverage))
    return np.array([(x * coverage).sum(), (y * coverage).sum()], dtype=np.float32) / coverage.sum()


def _mean_color(scene: Scene, region: Field) -> Field:
    """Return the surface's mean color in a region."""
    weight = (region * scene.coverage).ravel()
    mean = scene.surface.albedo.reshape(3, -1) @ weight / max(float(weight.sum()), 1e-6)
    return mean.astype(np.float32)[:, None, None]


def _contrast(scene: Scene, region: Field, rng: Generator, low: float, high: float) -> Field:
    """Draw a color that differs from the region's by ``low`` to ``high`` in one channel at least."""
    base = _mean_color(scene, region)
    shift = rng.uniform(low, high)
    if rng.random() < 0.7:  # another lightness
        direction = np.ones((3, 1, 1))
    else:  # another hue
        direction = rng.uniform(-1, 1, (3, 1, 1))
        direction /= np.abs(direction).max()
    there, back = (np.clip(base + sign * shift * direction, 0.02, 0.98) for sign in (1, -1))
    gains = [float(np.abs(tone - base).max()) for tone in (there, back)]
    first = rng.random() * gains[0] > rng.random() * gains[1]
    return (there if first else back).astype(np.float32)


def irregular(scene: Scene, rng: Generator, extent: float) -> Field:
    """Draw a spot with a ragged edge, on the object: coverage ``[size, size]``, from 0 to 1."""
    center = _place(scene, rng)
    x, y = coordinates(scene.size)
    distance = np.sqrt((x - center[0]) ** 2 + (y - center[1]) ** 2) / np.float32(0.6 * extent)
    return 1 - smoothstep(distance + 0.3 * noise(rng, scene.size, min(1.2 / extent, 30), 3), 0.85, 1.05)


def _lay(scene: Scene, body: Field, tone: Field, height: float, gloss: float) -> Scene:
    """Lay something onto the scene. Beyond the object, it lies on the background."""
    relief = np.float32(height) * smoothstep(soften(body, 0.006), 0.2, 1.0)

    def cover(layer: Surface) -> Surface:
        albedo = blend(layer.albedo, tone, body)
        return Surface(albedo, layer.height + relief, layer.gloss + body * (np.float32(gloss) - layer.gloss))

    background = None if scene.background is None else cover(scene.background)
    return scene._replace(surface=cover(scene.surface), background=background)
