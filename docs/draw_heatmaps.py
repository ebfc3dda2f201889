# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Draws the picture of README.md, ``docs/images/heatmaps.jpg``: what fbclip-small finds in drawn photographs.

::

    python docs/draw_heatmaps.py

No image was chosen by its result: they are the first ones of three categories that no training has seen.
"""

from pathlib import Path

import numpy as np
from anomalib.models import FBClip
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from anomalib_fbclip.data.procedural import CATEGORIES, draw_sample

PICTURE = Path(__file__).parent / "images" / "heatmaps.jpg"
SHOWN = (("leather", "cut"), ("leather", "burn"), ("knitted_fabric", "thread"), ("gear", "burn"))
"""Category and defect of each column."""


def show(axis: Axes, image: np.ndarray, **options: object) -> None:
    """Show an image without a scale, over the same square as all others."""
    axis.imshow(image, extent=(0, 1, 1, 0), **options)
    axis.set(xticks=[], yticks=[])


def main() -> None:
    """Draw the picture: photograph, mask and anomaly map, one above the other."""
    model = FBClip("fbclip-small")
    figure = Figure(figsize=(8, 6.4), layout="constrained")
    axes = figure.subplots(3, len(SHOWN))
    for column, (category, defect) in zip(axes.T, SHOWN, strict=True):
        sample = draw_sample(CATEGORIES[category].product, seed=0, defect=defect, size=256)
        explanation = model.explain(sample.image)
        show(column[0], sample.image)
        show(column[1], sample.mask, cmap="gray")
        show(column[2], sample.image)
        heat = explanation.anomaly_map.numpy()
        show(column[2], heat, cmap="inferno", vmin=0, vmax=1, alpha=0.75)
        column[0].set_title(f"{category.replace('_', ' ')}: {defect}", fontsize=10)
        column[2].set_xlabel(f"score {explanation.pred_score:.2f}", fontsize=10)
    for row, title in zip(axes[:, 0], ("photograph", "where the defect is", "anomaly map"), strict=True):
        row.set_ylabel(title, fontsize=10)
    figure.savefig(PICTURE, dpi=100, pil_kwargs={"quality": 88})


if __name__ == "__main__":
    main()
