# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Every datamodule of anomalib's runs with the model: zero-shot, and with good photographs of its training split."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_type_hints

import anomalib.data
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from anomalib.data import (
    ADAM3D,
    BMAD,
    MPDD,
    VAD,
    AnomalibDataModule,
    AutoVI,
    BTech,
    Datumaro,
    Folder,
    Folder3D,
    Kaputt,
    Kolektor,
    MVTec3D,
    MVTecAD,
    MVTecAD2,
    MVTecLOCO,
    RealIAD,
    Tabular,
    Visa,
)
from anomalib.data.datamodules.base import AnomalibVideoDataModule
from anomalib.data.datasets.base.video import AnomalibVideoDataset
from anomalib.engine import Engine
from torch.utils.data import DataLoader

from anomalib_fbclip import FBClip
from anomalib_fbclip.lightning.callbacks.checked_data import ClipError
from datasets import WRITERS
from layouts import HEIGHT, WIDTH, write_category, write_image, write_mask
from support.command_line import run


def make_mvtec_ad(root: Path) -> MVTecAD:
    WRITERS["mvtec_ad"](root)
    return MVTecAD(root, "bottle", num_workers=0)


def make_mvtec_ad_2(root: Path) -> MVTecAD2:
    folder = root / "can"
    for split in ("train", "validation", "test_public"):
        for number in range(2):
            write_image(folder / split / "good" / f"{number:03}_regular.png")
    write_image(folder / "test_public" / "bad" / "000_regular.png")
    write_mask(folder / "test_public" / "ground_truth" / "bad" / "000_regular_mask.png")
    for split in ("test_private", "test_private_mixed"):
        write_image(folder / split / "000_regular.png")
    return MVTecAD2(root, "can", num_workers=0)


def make_mvtec_loco(root: Path) -> MVTecLOCO:
    folder = root / "pushpins"
    for split in ("train", "validation", "test"):
        for number in range(2):
            write_image(folder / split / "good" / f"{number:03}.png")
    for defect, parts in (("logical_anomalies", 2), ("structural_anomalies", 1)):
        write_image(folder / "test" / defect / "000.png")
        for part in range(parts):
            write_mask(folder / "ground_truth" / defect / "000" / f"{part:03}.png")
    return MVTecLOCO(root, "pushpins", num_workers=0)


def make_mpdd(root: Path) -> MPDD:
    WRITERS["mpdd"](root)
    return MPDD(root, "tubes", num_workers=0)


def make_btech(root: Path) -> BTech:
    WRITERS["btad"](root)
    return BTech(root, "01", num_workers=0)


def make_vad(root: Path) -> VAD:
    write_category(root / "vad", "bad", "_mask")
    return VAD(root, "vad", num_workers=0)


def make_visa(root: Path) -> Visa:
    WRITERS["visa"](root)
    return Visa(root, "candle", num_workers=0)


def make_kolektor(root: Path) -> Kolektor:
    WRITERS["kolektor_sdd"](root)
    return Kolektor(root, num_workers=0)


def make_real_iad(root: Path) -> RealIAD:
    WRITERS["real_iad"](root)
    return RealIAD(root, "toy", resolution=1024, test_split_mode="from_dir", num_workers=0)


def make_kaputt(root: Path) -> Kaputt:
    for split in ("train", "validation", "test"):
        rows = []
        for number in range(2):
            place, mask = f"data/{split}/query-data", ""
            write_image(root / "query-image" / place / "image" / f"{number}.jpg")
            if is_defect := split != "train" and number == 1:
                mask = f"{place}/mask/{number}.png"
                write_mask(root / "query-mask" / mask)
            rows.append({
                "capture_id": f"{split}{number}",
                "item_identifier": str(number),
                "item_material": "cardboard",
                "defect_types": "hole" if is_defect else None,
                "defect": is_defect,
                "query_image": f"{place}/image/{number}.jpg",
                "query_mask": mask,
            })
        (root / "datasets").mkdir(exist_ok=True)
        pd.DataFrame(rows).to_parquet(root / "datasets" / f"query-{split}.parquet")
    return Kaputt(root, "cardboard", num_workers=0)


def make_bmad(root: Path) -> BMAD:
    folder = root / "Brain"
    for number in range(2):
        write_image(folder / "train" / "good" / f"{number}.png")
    for split in ("valid", "test"):
        write_image(folder / split / "good" / "img" / "0.png")
        write_mask(folder / split / "good" / "label" / "0.png", value=0)
        write_image(folder / split / "Ungood" / "img" / "1.png")
        write_mask(folder / split / "Ungood" / "label" / "1.png")
    return BMAD(root, "Brain", num_workers=0)


def make_autovi(root: Path) -> AutoVI:
    folder = root / "tank_screw"
    for split in ("train", "test"):
        for number in range(2):
            write_image(folder / split / "good" / f"{number:04}.png")
    write_image(folder / "test" / "missing" / "0002.png")
    write_mask(folder / "ground_truth" / "missing" / "0002" / "0000.png")
    return AutoVI(root, "tank_screw", num_workers=0)


def list_table(root: Path) -> list[dict[str, str]]:
    """Write a small dataset, and list it as a table has it."""
    write_category(root, "broken", "_mask")
    rows = [
        {"image_path": str(path), "label": label, "split": split, "mask_path": ""}
        for split, label in (("train", "normal"), ("test", "normal_test"))
        for path in sorted((root / split / "good").iterdir())
    ]
    for path in sorted((root / "test" / "broken").iterdir()):
        mask = root / "ground_truth" / "broken" / f"{path.stem}_mask.png"
        rows.append({"image_path": str(path), "label": "abnormal", "split": "test", "mask_path": str(mask)})
    return rows


def make_tabular(root: Path) -> Tabular:
    return Tabular("parts", list_table(root), val_split_mode="same_as_test", num_workers=0)


def make_tabular_of_a_file(root: Path) -> Tabular:
    pd.DataFrame(list_table(root)).to_csv(root / "parts.csv", index=False)
    return Tabular.from_file("parts", root / "parts.csv", val_split_mode="same_as_test", num_workers=0)


def make_folder(root: Path) -> Folder:
    write_category(root, "broken", "_mask")
    folders = {"normal_dir": "train/good", "normal_test_dir": "test/good", "abnormal_dir": "test/broken"}
    return Folder("parts", root=root, **folders, mask_dir="ground_truth/broken", num_workers=0)


def make_datumaro(root: Path) -> Datumaro:
    items = []
    for number in range(6):
        write_image(root / "images" / "default" / f"{number}.png")
        items.append({"image": {"path": f"{number}.png"}, "annotations": [{"label_id": int(number > 3)}]})
    labels = [{"name": "Normal"}, {"name": "Anomalous"}]
    (root / "annotations").mkdir()
    (root / "annotations" / "default.json").write_text(
        json.dumps({"categories": {"label": {"labels": labels}}, "items": items})
    )
    return Datumaro(root, num_workers=0)


def write_depth(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, np.zeros((HEIGHT, WIDTH, 3), dtype=np.float32))


def write_depth_category(folder: Path, masks: str) -> None:
    """Write one category of photographs with depth images, in the layout of MVTec 3D."""
    for split in ("train", "validation", "test"):
        for number, label in enumerate(("good", "hole") if split == "test" else ("good",)):
            for image in range(2):
                place, name = folder / split / label, f"{image:03}"
                write_image(place / "rgb" / f"{name}.png")
                write_depth(place / "xyz" / f"{name}.tiff")
                write_mask(place / masks / f"{name}.png", value=255 * number)


def make_mvtec_3d(root: Path) -> MVTec3D:
    write_depth_category(root / "bagel", "gt")
    return MVTec3D(root, "bagel", num_workers=0)


def make_adam_3d(root: Path) -> ADAM3D:
    write_depth_category(root / "1m1", "ground_truth")
    return ADAM3D(root, "1m1", num_workers=0)


def make_folder_3d(root: Path) -> Folder3D:
    write_depth_category(root, "gt")
    return Folder3D(
        "parts",
        "train/good/rgb",
        root,
        abnormal_dir="test/hole/rgb",
        normal_test_dir="test/good/rgb",
        mask_dir="test/hole/gt",
        normal_depth_dir="train/good/xyz",
        abnormal_depth_dir="test/hole/xyz",
        normal_test_depth_dir="test/good/xyz",
        num_workers=0,
    )


MAKERS: list[Callable[[Path], AnomalibDataModule]] = [
    make_mvtec_ad,
    make_mvtec_ad_2,
    make_mvtec_loco,
    make_mpdd,
    make_btech,
    make_vad,
    make_visa,
    make_kolektor,
    make_real_iad,
    make_kaputt,
    make_bmad,
    make_autovi,
    make_tabular,
    make_tabular_of_a_file,
    make_folder,
    make_datumaro,
    make_mvtec_3d,
    make_adam_3d,
    make_folder_3d,
]


class Clips(AnomalibVideoDataset):
    """Stands for a video datamodule's clips: those that read files need another package."""

    def __len__(self) -> int:
        return 1


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    root = tmp_path / "results"
    return Engine(accelerator="cpu", devices=1, default_root_dir=root, logger=False, enable_progress_bar=False)


def test_every_image_datamodule() -> None:
    """Without those of videos."""
    made = {
        value
        for name in anomalib.data.__all__
        if isinstance(value := getattr(anomalib.data, name), type)
        and issubclass(value, AnomalibDataModule)
        and value.__module__.startswith("anomalib.data.datamodules.")
        and not issubclass(value, AnomalibVideoDataModule)
    }
    assert made - {AnomalibDataModule} == {get_type_hints(make)["return"] for make in MAKERS}


@pytest.mark.parametrize("make", MAKERS)
def test_zero_shot(make, small_backbone: str, small_adapters: Path, engine: Engine, tmp_path: Path) -> None:
    datamodule = make(tmp_path / "data")
    (results,) = engine.test(FBClip(small_backbone, weights=small_adapters, visualizer=False), datamodule=datamodule)
    assert 0 <= results["image_AUROC"] <= 1


@pytest.mark.parametrize("make", MAKERS)
def test_with_good_photographs(make, small_backbone: str, small_adapters: Path, engine: Engine, tmp_path: Path) -> None:
    datamodule = make(tmp_path / "data")
    model = FBClip(small_backbone, weights=small_adapters, k_shot=2, reference_rotations=1, visualizer=False)
    batches = engine.predict(model, datamodule=datamodule)
    scores = torch.cat([batch.pred_score for batch in batches])
    assert len(scores) == len(datamodule.test_dataloader().dataset)
    assert scores.isfinite().all()


WITHOUT_PYARROW = """
import sys
from anomalib.data.datasets.image import kaputt
kaputt.module_available = lambda name: name != "pyarrow"
from anomalib.cli.cli import main
sys.argv = {command}
main()
"""


def test_a_package_that_a_datamodule_needs(small_backbone: str, small_adapters: Path, tmp_path: Path) -> None:
    make_kaputt(tmp_path / "kaputt")
    model = ["--model", "FBClip", "--model.backbone", small_backbone, "--model.weights", str(small_adapters)]
    data = ["--data", "Kaputt", "--data.root", "kaputt", "--trainer.accelerator", "cpu"]
    command = ["anomalib", "test", *model, *data]
    result = run(tmp_path, sys.executable, "-c", WITHOUT_PYARROW.format(command=command))
    assert result.returncode == 2, result.stdout + result.stderr
    (error,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "pyarrow" in error
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("stage", ["test", "predict"])
def test_clips_of_videos(stage: str, small_backbone: str, small_adapters: Path, engine: Engine) -> None:
    clips = DataLoader(Clips(clip_length_in_frames=2, frames_between_clips=1))
    with pytest.raises(ClipError, match="Save its frames"):
        getattr(engine, stage)(FBClip(small_backbone, weights=small_adapters), dataloaders=clips)
