# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""What the paper's model reaches by category, to be put beside what is measured. ``published.csv`` names the source."""

import csv
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from anomalib_fbclip.checkpoints.published import canonical_name, choose_zero_shot

from .results import MEAN, METRICS, Published

FILE = Path(__file__).with_suffix(".csv")

COLUMNS = {
    "image_AUROC": "image_auroc",
    "image_AUPR": "image_ap",
    "pixel_AUROC": "pixel_auroc",
    "pixel_AUPRO": "pixel_aupro",
}
"""Column of each metric in the file."""


def find_published(dataset: str, settings: str, categories: Sequence[str]) -> Published:
    """Find the published figures of what was measured.

    Args:
        dataset (str): Name of the dataset.
        settings (str): Settings of the rows that were measured, as JSON.
        categories (Sequence[str]): Their categories.

    Returns:
        Published: The figures; none if this is neither MVTec AD nor VisA, or not the paper's model.
    """
    name = canonical_name(dataset)
    if not _is_of_paper(json.loads(settings)["model"], name):
        return {}
    known = _read(name)
    found = {category: known[category] for category in categories if category in known}
    if found and len(found) == len(categories):
        found[MEAN] = {metric: statistics.fmean(each[metric] for each in found.values()) for metric in METRICS}
    return found


def _is_of_paper(model: Mapping[str, object], name: str) -> bool:
    """Tell whether these are all usual arguments of FBClip, but for naming the authors' zero-shot adapters."""
    return model in ({}, {"weights": choose_zero_shot([name])})


def _read(name: str) -> dict[str, dict[str, float]]:
    """Read the figures of a dataset by category."""
    lines = FILE.read_text(encoding="utf-8").splitlines()
    return {
        row["category"]: {metric: float(row[column]) / 100 for metric, column in COLUMNS.items()}
        for row in csv.DictReader(line for line in lines if not line.startswith("#"))
        if canonical_name(row["dataset"]) == name
    }
