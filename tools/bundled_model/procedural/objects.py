# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Objects: silhouette, body and details of a part in the image.

An object is a function of two random streams, as a material is, and of its pose. Its material is chosen separately.
"""

import numpy as np
from numpy.random import Generator

from tools.bundled_model.procedural.bodies import Object, Part, bevel, dome, flat
from tools.bundled_model.procedural.fields import color, smoothstep, soften
from tools.bundled_model.procedural.outlines import Layer, Pose, blob, disc, rectangle, regular, ribbon


def plate(design: Generator, variation: Generator, pose: Pose) -> Part:
    """Round plate with a raised rim."""
    coverage = pose.draw(disc(1.0))
    rim = coverage - pose.draw(disc(design.uniform(0.72, 0.9)))
    return Part(coverage, bevel(coverage, pose, 0.04) + bevel(rim, pose, 0.06))


def washer(design: Generator, variation: Generator, pose: Pose) -> Part:
    """Flat ring."""
    return Part(*flat(pose, disc(1.0), holes=(disc(design.uniform(0.35, 0.65)),), edge=design.uniform(0.03, 0.1)))


def hex_nut(design: Generator, variation: Generator, pose: Pose) -> Part:
    """Hexagonal nut with a chamfered, threaded hole."""
    hole = design.uniform(0.4, 0.52)
    coverage, height = flat(pose, regular(6, 1.0), holes=(disc(hole),), edge=0.08)
    u, v = pose.coordinates()
    radius = np.sqrt(u * u + v * v)
    chamfer = smoothstep(radius, 0.78, 1.0)
    countersink = 1 - smoothstep(radius, hole, hole + 0.1)
    return Part(coverage, height - np.float32(0.12 * pose.scale) * (chamfer + countersink) * coverage)


def gear(design: Generator, variation: Generator, pose: Pose) -> Part:
    """Spur gear with a bore and lightening holes."""
    teeth, depth = int(design.integers(12, 25)), design.uniform(0.1, 0.16)
    profile = np.tile([1.0, 1.0, 1 - depth, 1 - depth], teeth)
    angles = (np.arange(4 * teeth) + np.tile([0.3, 0.7, 0.1, 0.9], teeth)) * (2 * np.pi / (4 * teeth))
    outline = (np.stack([np.cos(angles), np.sin(angles)], axis=1) * profile[:, None]).astype(np.float32)
    bore = design.uniform(0.14, 0.24)
    spokes = int(design.choice([0, 4, 5, 6]))
    around = regular(spokes, 0.52) if spokes else np.empty((0, 2), dtype=np.float32)
    holes = (disc(bore), *(disc(0.13, (float(x), float(y))) for x, y in around))
    coverage, height = flat(pose, outline, holes=holes, edge=0.04)
    hub = pose.draw(disc(bore + 0.13)) * coverage
    return Part(coverage, height + bevel(hub, pose, 0.04))


def bottle(design: Generator, variation: Generator, pose: Pose) -> Part:
    """Mouth of a bottle, seen from above."""
    neck, mouth = design.uniform(0.6, 0.75), design.uniform(0.36, 0.48)
    coverage = pose.draw(disc(1.0))
    inside = pose.draw(disc(mouth))
    lip = pose.draw(disc(neck)) - inside
    dark = color(design, saturation=(0.0, 0.3), value=(0.04, 0.15))
    body = dome(coverage, pose, 1.02, 1.02, 0.35)
    return Part(coverage, body + bevel(lip, pose, 0.09), (Layer(inside, dark, -0.05),))


def bottle_cap(design: Generator, variation: Generator, pose: Pose) -> Part:
    """Crown cap with a printed ring."""
    teeth = int(design.integers(18, 25))
    angles = np.linspace(0, 2 * np.pi, 8 * teeth, endpoint=False)
    radii = 0.96 + 0.04 * np.cos(teeth * angles)
    outline = (np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None]).astype(np.float32)
    coverage = pose.draw(outline)
    face = pose.draw(disc(0.74))
    print_color = color(design, saturation=(0.5, 0.95), value=(0.3, 0.9)) * np.float32(1 + variation.normal(0, 0.03))
    ring = pose.draw(disc(0.58)) - pose.draw(disc(design.uniform(0.35, 0.5)))
    u, v = pose.coordinates()
    flutes = np.float32(0.03 * pose.scale) * np.cos(np.arctan2(v, u) * teeth) * (coverage - face)
    return Part(coverage, bevel(coverage, pose, 0.16) + flutes, (Layer(ring, print_color),))


def screw(design: Generator, variation: Generator, pose: Pose) -> Part:
    """Wood screw, seen from the side."""
    width, threads = design.uniform(0.2, 0.3), int(design.integers(9, 16))
    x = np.linspace(-0.75, 1.05, 120)
    saw = 0.82 + 0.18 * np.abs(np.mod((x + 0.3) * threads, 1) * 2 - 1)
    widths = width * np.where(x > -0.25, saw, 0.8) * np.clip((1.08 - x) / 0.3, 0.08, 1)
    shaft = ribbon(np.stack([x, np.zeros_like(x)], axis=1).astype(np.float32), widths.astype(np.float32))
    head = np.array(
        [(-1.05, -0.3), (-1.0, -0.34), (-0.7, -width * 0.4), (-0.7, width * 0.4), (-1.0, 0.34), (-1.05, 0.3)],
        dtype=np.float32,
    )
    coverage = pose.draw(shaft, head)
    u, v = pose.coordinates()
    flank = np.float32(0.02) * np.sin((u + 0.25 * v + 0.3) * np.float32(2 * np.pi * threads)) * (u > -0.25)
    across = np.sqrt(np.clip(1 - (v / (0.55 * width + 0.45 * np.clip(-u - 0.7, 0, 0.4))) ** 2, 0.02, 1))
    return Part(coverage, np.float32(pose.scale) * (0.5 * width * across + flank) * coverage)


def capsule(design: Generator, variation: Generator, pose: Pose) -> Part:
    """Two-colored capsule."""
    half = design.uniform(0.3, 0.4)
    coverage = pose.draw(rectangle(2.0, 2 * half, corner=half - 0.01))
    cap = pose.draw(rectangle(1.0, 2.2 * half, (0.5, 0))) * coverage
    shade = np.float32(1 + variation.normal(0, 0.03))
    cap_color = np.clip(color(design, saturation=(0.4, 0.95), value=(0.35, 0.9)) * shade, 0, 1)
    _, v = pose.coordinates()
    roll = np.sqrt(np.clip(1 - (v / half) ** 2, 0.02, 1)) * coverage
    return Part(
        coverage,
        np.float32(half * 0.7 * pose.scale) * roll + bevel(coverage, pose, 0.1),
        (Layer(cap, cap_color, 0.004),),
    )


def pill(design: Generator, variation: Generator, pose: Pose) -> Part:
    """Arched tablet with a score line."""
    ratio = design.uniform(0.55, 1.0)
    outline = disc(1.0) * np.array([1, ratio], dtype=np.float32)
    coverage = pose.draw(outline)
    score = pose.draw(rectangle(0.09, 1.6 * ratio))
    body = dome(coverage, pose, 1.15, 1.15 * ratio, 0.3) + bevel(coverage, pose, 0.08)
    return Part(coverage, body - np.float32(0.05 * pose.scale) * soften(score, 0.004))


def perforated_plate(design: Generator, variation: Generator, pose: Pose) -> Part:
    """Rectangular plate with a grid of holes."""
    columns, rows = (int(count) for count in design.integers(2, 6, 2))
    height = design.uniform(0.9, 1.6)
    radius = 0.28 * min(1.8 / columns, height / rows)
    holes = tuple(
        disc(radius, (-0.9 + 1.8 * (column + 0.5) / columns, height * ((row + 0.5) / rows - 0.5)))
        for column in range(columns)
        for row in range(rows)
    )
    return Part(*flat(pose, rectangle(2.0, height + 0.1, corner=0.1), holes=holes, edge=0.04))


def bracket(design: Generator, variation: Generator, pose: Pose) -> Part:
    """L-shaped bracket with screw holes."""
    width = design.uniform(0.45, 0.65)
    legs = (rectangle(1.8, width, (0, 0.9 - width / 2), 0.08), rectangle(width, 1.8, (-0.9 + width / 2, 0), 0.08))
    radius = width * design.uniform(0.18, 0.28)
    inset = 0.9 - width / 2
    holes = tuple(disc(radius, center) for center in ((0.55, inset), (-inset, inset), (-inset, -0.55), (0.0, inset)))
    return Part(*flat(pose, *legs, holes=holes, edge=0.04))


def fruit(design: Generator, variation: Generator, pose: Pose) -> Part:
    """Round fruit with a stem's pit."""
    radius = 1.0 * variation.uniform(0.95, 1.05)
    coverage = pose.draw(blob(variation, radius, 0.035))
    blush = color(design, (0.0, 0.3), (0.5, 0.9), (0.5, 0.85))
    u, v = pose.coordinates()
    x, y = variation.uniform(-0.35, 0.35, 2).astype(np.float32)
    pit = np.exp(-((u - x) ** 2 + (v - y) ** 2) / np.float32(0.02))
    cheek = np.exp(-((u + x) ** 2 + (v - 0.5) ** 2) / np.float32(0.35)) * coverage
    body = dome(coverage, pose, 1.05 * radius, 1.05 * radius, 0.75) - np.float32(0.08 * pose.scale) * pit
    stem = np.array([0.25, 0.17, 0.10], dtype=np.float32)[:, None, None]
    return Part(coverage, body, (Layer(np.float32(0.6) * cheek, blush), Layer(np.float32(0.8) * pit * coverage, stem)))


def kernel(design: Generator, variation: Generator, pose: Pose) -> Part:
    """Nut's kernel with a pointed end and furrows."""
    half = design.uniform(0.55, 0.8) * variation.uniform(0.95, 1.05)
    angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    taper = np.sin(angles) * half * (1 - 0.28 * np.cos(angles))
    outline = np.stack([np.cos(angles), taper], axis=1).astype(np.float32)
    coverage = pose.draw(outline)
    u, v = pose.coordinates()
    furrows = np.sin((v / half + 0.08 * np.sin(4 * u + np.float32(variation.uniform(0, 6)))) * np.float32(13))
    foot = Layer(
        (1 - smoothstep(u, -0.85, -0.55)) * np.float32(0.7) * coverage,
        color(design, (0.06, 0.1), (0.3, 0.5), (0.5, 0.8)),
    )
    return Part(
        coverage, dome(coverage, pose, 1.05, 1.05 * half, 0.5) + np.float32(0.012 * pose.scale) * furrows, (foot,)
    )


def cookie(design: Generator, variation: Generator, pose: Pose) -> Part:
    """Flat biscuit with drops."""
    coverage = pose.draw(blob(variation, 0.97, 0.02))
    brown = color(design, (0.02, 0.07), (0.5, 0.8), (0.15, 0.35))
    count = int(design.integers(9, 15))
    turns = np.arange(count) * 2.4 + variation.uniform(0, 6)
    reach = 0.8 * np.sqrt((np.arange(count) + variation.uniform(0.2, 0.9, count)) / count)
    drops = pose.draw(
        *(
            blob(variation, variation.uniform(0.07, 0.12), 0.12, (float(r * np.cos(t)), float(r * np.sin(t))))
            for r, t in zip(reach, turns, strict=True)
        )
    )
    return Part(coverage, bevel(coverage, pose, 0.16), (Layer(drops * coverage, brown, 0.008),))


def circuit_board(design: Generator, variation: Generator, pose: Pose) -> Part:  # noqa: PLR0914
    """Circuit board with tracks, chips, resistors and pads. Its solder mask hides the material."""
    board = rectangle(2.0, design.uniform(1.3, 1.9), corner=0.06)
    half = float(board[:, 1].max())
    mask = color(design, (0.25, 0.7), (0.55, 0.9), (0.2, 0.45))
    coverage, height = flat(pose, board, edge=0.02)
    lines = []
    for _ in range(16):
        x, y = design.uniform(-0.85, 0.85), design.uniform(-0.85, 0.85) * half
        step_x, step_y = design.uniform(-0.7, 0.7), design.uniform(-0.5, 0.5)
        corner = np.clip(
            [[x, y], [x + step_x, y], [x + step_x + step_y, y + step_y]], [-0.9, -half + 0.08], [0.9, half - 0.08]
        )
        lines += [ribbon(corner.astype(np.float32)[i : i + 2], 0.03) for i in (0, 1)]
    chips, small, pads = [], [], [disc(0.06, (x, y)) for x in (-0.88, 0.88) for y in (-half + 0.12, half - 0.12)]
    for column in range(-2, 3):
        for row in range(-1, 2):
            center = (0.36 * column + design.uniform(-0.03, 0.03), (half - 0.3) * row + design.uniform(-0.03, 0.03))
            kind = design.random()
            if kind < 0.3:
                width, tall = design.uniform(0.18, 0.3), design.uniform(0.18, 0.36)
                chips.append(rectangle(width, tall, center))
                pads += [
                    rectangle(0.05, 0.035, (center[0] + side * (width / 2 + 0.02), center[1] + offset))
                    for side in (-1, 1)
                    for offset in np.arange(-tall / 2 + 0.04, tall / 2, 0.075)
                ]
            elif kind < 0.8:
                width, tall = (0.2, 0.09) if design.random() < 0.5 else (0.09, 0.2)
                pads.append(rectangle(width, tall, center))
                small.append(rectangle(width * 0.7, tall * 0.7, center))
    layers = (
        Layer(coverage, mask),
        Layer(pose.draw(*lines), np.clip(mask * np.float32(1.35), 0, 1)),
        Layer(pose.draw(*pads), color(design, (0.1, 0.14), (0.05, 0.5), (0.7, 0.85)), 0.002),
        Layer(pose.draw(*small), color(design, (0.03, 0.1), (0.1, 0.6), (0.2, 0.7)), 0.008),
        Layer(pose.draw(*chips), color(design, (0, 1), (0.0, 0.15), (0.08, 0.16)), 0.012),
    )
    return Part(coverage, height, layers)


def cable(design: Generator, variation: Generator, pose: Pose) -> Part:
    """Cross-section of a cable with insulated strands."""
    cores = int(design.integers(3, 6))
    radius = 0.85 * np.sin(np.pi / cores) / (1 + np.sin(np.pi / cores))
    centers = regular(cores, 0.86 - radius, angle=variation.normal(0, 0.03))
    coverage = pose.draw(disc(1.0))
    layers, wires = [], []
    for x, y in centers:
        insulation = pose.draw(disc(0.97 * radius, (float(x), float(y))))
        layers.append(Layer(insulation, color(design, saturation=(0.4, 0.9), value=(0.3, 0.85)), 0.004))
        for ring, count in ((0.0, 1), (0.27, 6), (0.52, 12)):
            turn = variation.uniform(0, 1)
            wires += [
                regular(12, 0.13 * radius, (float(x + wx), float(y + wy)))
                for wx, wy in regular(count, ring * radius, angle=turn)
            ]
    copper = color(design, (0.05, 0.09), (0.4, 0.65), (0.7, 0.85))
    return Part(coverage, bevel(coverage, pose, 0.05), (*layers, Layer(pose.draw(*wires), copper, 0.006)))


def connector(design: Generator, variation: Generator, pose: Pose) -> Part:
    """Plug with a row of metal pins."""
    count = int(design.integers(4, 9))
    pitch = 1.8 / count
    centers = -0.9 + pitch * (np.arange(count) + 0.5)
    body = rectangle(2.0, 0.8, (0, -0.3), 0.05)
    pins = [rectangle(0.35 * pitch, 0.75, (float(x), 0.45)) for x in centers]
    slots = [rectangle(0.5 * pitch, 0.3, (float(x), -0.25)) for x in centers]
    pins_coverage, slots_coverage = pose.draw(*pins), pose.draw(*slots)
    coverage = np.maximum(pose.draw(body), pins_coverage)
    metal, dark = color(design, (0.1, 0.15), (0.05, 0.5), (0.65, 0.85)), color(design, (0, 1), (0, 0.2), (0.05, 0.15))
    outside = pins_coverage * (1 - pose.draw(body))
    return Part(
        coverage, bevel(coverage, pose, 0.04), (Layer(outside, metal, -0.006), Layer(slots_coverage, dark, -0.01))
    )


def key(design: Generator, variation: Generator, pose: Pose) -> Part:
    """Key with a bow, a blade and cuts."""
    cuts = np.repeat(design.uniform(0.08, 0.2, 6), 2)
    x = np.repeat(np.linspace(0.0, 0.95, 7), 2)[1:-1]
    blade = np.concatenate([
        [(-0.5, -0.12), (-0.5, 0.2)],
        np.stack([x, cuts], axis=1),
        [(1.05, 0.0), (0.95, -0.12)],
    ]).astype(np.float32)
    hole = disc(design.uniform(0.1, 0.18), (-0.85, 0))
    coverage, height = flat(pose, blade, disc(0.45, (-0.65, 0)), holes=(hole,), edge=0.04)
    groove = pose.draw(rectangle(1.3, 0.06, (0.3, -0.02)))
    return Part(coverage, height - np.float32(0.03 * pose.scale) * groove)


def wrench(design: Generator, variation: Generator, pose: Pose) -> Part:
    """Spanner with an open jaw and a ring."""
    width = design.uniform(0.22, 0.3)
    jaw = rectangle(0.4, 0.3, (-1.0, 0)) @ np.array([[0.966, 0.259], [-0.259, 0.966]], dtype=np.float32)
    coverage, height = flat(
        pose,
        rectangle(1.6, width),
        disc(0.36, (-0.78, 0)),
        disc(0.3, (0.82, 0)),
        holes=(jaw, regular(12, 0.17, (0.82, 0))),
        edge=0.05,
    )
    return Part(coverage, height - np.float32(0.04 * pose.scale) * soften(pose.draw(rectangle(0.9, width / 2)), 0.004))


def spring(design: Generator, variation: Generator, pose: Pose) -> Part:
    """Helical spring, seen from the side."""
    turns, half = int(design.integers(6, 11)), design.uniform(0.3, 0.42)
    t = np.linspace(0, 1, 12 * turns)
    line = np.stack([2 * t - 1, half * np.sin(2 * np.pi * turns * t)], axis=1).astype(np.float32)
    front = [
        ribbon(line[i : i + 2], 0.55 / turns) for i in range(len(line) - 1) if np.cos(2 * np.pi * turns * t[i]) > -0.1
    ]
    coverage = pose.draw(*(ribbon(line[i : i + 2], 0.5 / turns) for i in range(len(line) - 1)), *front)
    near = pose.draw(*front)
    return Part(coverage, bevel(coverage, pose, 0.05) + bevel(near, pose, 0.06))


def button(design: Generator, variation: Generator, pose: Pose) -> Part:
    """Button with a rim and holes."""
    holes = int(design.choice([2, 4]))
    radius = design.uniform(0.09, 0.14)
    around = regular(holes, 0.26, angle=np.pi / 4)
    coverage, height = flat(
        pose, disc(1.0), holes=tuple(disc(radius, (float(x), float(y))) for x, y in around), edge=0.06
    )
    rim = (pose.draw(disc(0.98)) - pose.draw(disc(design.uniform(0.65, 0.78)))) * coverage
    return Part(coverage, height + bevel(rim, pose, 0.08))


def bearing(design: Generator, variation: Generator, pose: Pose) -> Part:
    """Ball bearing: two rings, and balls between them."""
    balls = int(design.integers(7, 13))
    hole = design.uniform(0.32, 0.42)
    coverage, height = flat(pose, disc(1.0), holes=(disc(hole),), edge=0.03)
    middle, half = (1.0 + hole) / 2, (1.0 - hole) * 0.22
    race = pose.draw(disc(middle + half)) - pose.draw(disc(middle - half))
    turn = variation.uniform(0, 2 * np.pi)
    around = pose.draw(
        *(disc(min(half, 2.6 * middle / balls), (float(x), float(y))) for x, y in regular(balls, middle, angle=turn))
    )
    dark = color(design, (0, 1), (0.0, 0.15), (0.08, 0.2))
    steel = color(design, (0.5, 0.65), (0.0, 0.08), (0.7, 0.85))
    return Part(coverage, height + 1.5 * bevel(around, pose, 0.08), (Layer(race, dark, -0.006), Layer(around, steel)))


OBJECTS: dict[str, Object] = {
    "plate": plate,
    "washer": washer,
    "hex nut": hex_nut,
    "gear": gear,
    "bottle": bottle,
    "bottle cap": bottle_cap,
    "screw": screw,
    "capsule": capsule,
    "pill": pill,
    "perforated plate": perforated_plate,
    "bracket": bracket,
    "fruit": fruit,
    "kernel": kernel,
    "cookie": cookie,
    "circuit board": circuit_board,
    "cable": cable,
    "connector": connector,
    "key": key,
    "wrench": wrench,
    "spring": spring,
    "button": button,
    "bearing": bearing,
}
"""Objects by their words in a caption."""
