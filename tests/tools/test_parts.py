# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Categories on disk: the same images for everyone, in a layout that anomalib reads."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from anomalib.data import MVTecAD
from PIL import Image

from tools.bundled_model import parts
from tools.bundled_model.parts import draw_category
from tools.bundled_model.procedural import CATEGORIES, draw_sample

SMALL = {"image_size": 48, "train_images": 3, "test_images": 6}


def hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def cookie(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_category(tmp_path_factory.mktemp("parts"), "cookie", **SMALL)


def test_layout(cookie: Path) -> None:
    defects = ("dent", "cut", "burn", "thread", "bubbles")
    named = [("dent", "001"), *((defect, "000") for defect in defects)]
    assert set(hashes(cookie)) == {
        *(f"train/good/00{index}.png" for index in range(3)),
        *(f"test/good/00{index}.png" for index in range(6)),
        *(f"test/{defect}/{name}.png" for defect, name in named),
        *(f"ground_truth/{defect}/{name}_mask.png" for defect, name in named),
    }
    assert [path.name for path in cookie.parent.iterdir()] == ["cookie"]


def test_masks_are_black_and_white(cookie: Path) -> None:
    masks = [np.asarray(Image.open(path)) for path in cookie.glob("ground_truth/*/*.png")]
    assert len(masks) == 6
    for mask in masks:
        assert mask.shape == (48, 48)
        assert set(np.unique(mask)) == {0, 255}


def test_images_are_all_different(cookie: Path) -> None:
    images = [value for name, value in hashes(cookie).items() if "ground_truth" not in name]
    assert len(set(images)) == len(images)


def test_are_the_same_elsewhere_and_more_of_the_same_if_more_are_asked_for(cookie: Path, tmp_path: Path) -> None:
    again = draw_category(tmp_path, "cookie", **SMALL | {"train_images": 4})
    assert hashes(again).items() - hashes(cookie).items() == {
        ("train/good/003.png", hashes(again)["train/good/003.png"])
    }
    assert hashes(cookie).items() <= hashes(again).items()


def test_follow_the_seed(cookie: Path, tmp_path: Path) -> None:
    assert not set(hashes(draw_category(tmp_path, "cookie", **SMALL, image_seed=1)).values()) & set(
        hashes(cookie).values()
    )


@pytest.mark.parametrize("category", CATEGORIES)
def test_anomalib_reads_every_category(category: str, tmp_path: Path) -> None:
    draw_category(tmp_path, category, image_size=32, train_images=1, test_images=5)
    datamodule = MVTecAD(tmp_path, category, num_workers=0)
    datamodule.prepare_data()
    datamodule.setup()
    assert (len(datamodule.train_data), len(datamodule.test_data)) == (1, 10)
    labels = {Path(path).parent.name for path in datamodule.test_data.samples["image_path"]}
    assert labels == {"good", *(defect.replace(" ", "_") for defect in CATEGORIES[category].defects)}
    batch = next(iter(datamodule.test_dataloader()))
    assert batch.gt_mask.any((1, 2)).tolist() == batch.gt_label.tolist()


def test_a_folder_that_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "cookie").mkdir()
    (tmp_path / "cookie/mine.txt").write_text("mine")
    with pytest.raises(OSError, match="cookie"):
        draw_category(tmp_path, "cookie", **SMALL)
    assert hashes(tmp_path).keys() == {"cookie/mine.txt"}


def test_an_interrupted_one_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter(range(6))

    def draw(*arguments: object) -> object:
        if next(calls) == 5:
            raise KeyboardInterrupt
        return draw_sample(*arguments)

    monkeypatch.setattr(parts, "draw_sample", draw)
    with pytest.raises(KeyboardInterrupt):
        draw_category(tmp_path, "cookie", **SMALL)
    assert not list(tmp_path.iterdir())
