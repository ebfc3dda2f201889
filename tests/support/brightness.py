# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""A model whose answer is known: bright is anomalous. Scores and maps are those of grey levels, 0..1."""

from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import Folder, InferenceBatch
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from PIL import Image

from anomalib_fbclip import FBClip

SIDE = 56


def judge_by_brightness(model: FBClip, monkeypatch: pytest.MonkeyPatch) -> FBClip:
    """Let the brightest place of an image be its score, and its grey levels its anomaly map."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))

    def forward(images: torch.Tensor) -> InferenceBatch:
        grey = (images * std + mean).mean(dim=1).clamp(0, 1)
        return InferenceBatch(pred_score=grey.flatten(1).amax(dim=1), anomaly_map=grey)

    monkeypatch.setattr(model.model, "forward", forward)
    return model


def write_image(path: Path, level: int, spot: int | None = None) -> Path:
    """Write a grey image, with a brighter spot if there is to be one."""
    pixels = np.full((SIDE, SIDE, 3), level, dtype=np.uint8)
    if spot is not None:
        pixels[20:30, 10:25] = spot
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def write_folder(root: Path, good: list[int], spots: list[int], masks: bool = True) -> Path:
    """Write images for anomalib's ``Folder``: good ones of the given grey levels, and defects, dark but for a spot."""
    for index, level in enumerate(good):
        write_image(root / "train" / f"{index}.png", level)
        write_image(root / "good" / f"{index}.png", level)
    for index, spot in enumerate(spots):
        write_image(root / "defect" / f"{index}.png", 10, spot)
        if masks:
            write_image(root / "masks" / f"{index}.png", 0, 255)
    return root


def make_folder(root: Path, **arguments: object) -> Folder:
    """Read what :func:`write_folder` wrote."""
    options = {
        "normal_dir": "train",
        "normal_test_dir": "good" if (root / "good").is_dir() else None,
        "abnormal_dir": "defect" if (root / "defect").is_dir() else None,
        "mask_dir": "masks" if (root / "masks").is_dir() else None,
        "val_split_mode": "same_as_test",
        "eval_batch_size": 2,
        "num_workers": 0,
    }
    return Folder(name="parts", root=root, **(options | arguments))
