# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Small datasets in the layouts that the datamodules read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from anomalib.data import Folder

from layouts import write_category, write_image, write_mask


@pytest.fixture(scope="session")
def mvtec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MVTec AD with 2 categories; 3 normal and 2 anomalous test images in each."""
    root = tmp_path_factory.mktemp("datasets") / "MVTecAD"
    for category in ("bottle", "cable"):
        write_category(root / category, defect="broken", mask_suffix="_mask")
    return root


@pytest.fixture(scope="session")
def visa(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VisA as anomalib sorts it, with 2 categories; 3 normal and 2 anomalous test images in each."""
    root = tmp_path_factory.mktemp("datasets") / "visa"
    for category in ("candle", "pcb1"):
        write_category(root / "visa_pytorch" / category, defect="bad", mask_suffix="")
    return root


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for ``Folder``, without normal images of its own to test on."""
    root = tmp_path_factory.mktemp("datasets") / "nuts"
    for index in range(10):
        write_image(root / f"good/{index:03}.png")
    for index in range(3):
        write_image(root / f"cracked/{index:03}.png")
        write_mask(root / f"masks/{index:03}.png")
    return root


@pytest.fixture
def nuts(folder: Path) -> Folder:
    return Folder(name="nuts", root=folder, normal_dir="good", abnormal_dir="cracked", mask_dir="masks", num_workers=0)


MetaWriter = Callable[..., Path]


@pytest.fixture
def write_meta(tmp_path: Path) -> MetaWriter:
    """Write a dataset in the ``meta.json`` layout: what is given, or two categories with two splits each."""

    def entries(category: str, split: str) -> list[dict[str, Any]]:
        listed = [
            {"img_path": f"{category}/{split}/good/{index}.png", "mask_path": "", "anomaly": 0} for index in range(3)
        ]
        if split == "test":
            listed += [
                {
                    "img_path": f"{category}/test/bad/{index}.png",
                    "mask_path": f"{category}/masks/{index}.png",
                    "anomaly": 1,
                }
                for index in range(2)
            ]
        return [{**entry, "cls_name": category, "specie_name": "x"} for entry in listed]

    def write(meta: Any = None, *, files: bool = True, name: str = "meta.json") -> Path:
        root = tmp_path / "photographs"
        root.mkdir(exist_ok=True)
        if meta is None:
            meta = {split: {name: entries(name, split) for name in ("cup", "pen")} for split in ("train", "test")}
        (root / name).write_text(meta if isinstance(meta, str) else json.dumps(meta), encoding="utf-8")
        if files:
            for split in meta.values():
                for entry in (entry for category in split.values() for entry in category):
                    write_image(root / entry["img_path"].replace("\\", "/"))
                    if entry.get("mask_path"):
                        write_mask(root / entry["mask_path"].replace("\\", "/"))
        return root

    return write
