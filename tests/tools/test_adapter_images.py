# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""What adapters are trained on: crops of photographs, and defects that are cut out of them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomalib_fbclip import FBClip  # noqa: F401 - anomalib comes before the modules that it asks for
from tools.bundled_model.adapter_images import augment, draw_adapter_image, lay_defects_of, read_folders
from tools.bundled_model.images import DEFECT, draw_training_image
from tools.bundled_model.procedural import MATERIALS
from tools.bundled_model.procedural.fields import stream
from tools.bundled_model.procedural.scene import make_object, plain_background

GREEN, RED = (40, 160, 60), (230, 30, 20)


def write_photograph(category: Path, name: str, spot: tuple[slice, slice] | None, size: tuple[int, int]) -> None:
    """Write a green photograph, with a red defect and its mask."""
    pixels, mask = np.full((*size, 3), GREEN, dtype=np.uint8), np.zeros(size, dtype=np.uint8)
    path = category / "test" / ("defect" if spot else "good") / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    if spot:
        pixels[spot], mask[spot] = RED, 255
        mask_path = category / "ground_truth" / "defect" / f"{name}_mask.png"
        mask_path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(mask_path)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(3):
        write_photograph(tmp_path / "leaf", f"{index}", None, (96, 160))
        write_photograph(tmp_path / "leaf", f"{index}", np.s_[30:60, 20 + index : 70], (96, 160))
    return tmp_path / "leaf"


def is_red(image: np.ndarray) -> np.ndarray:
    return image[..., 0].astype(int) > image[..., 1].astype(int) + 60


def test_masks_fit_crops(folder: Path) -> None:
    sets = read_folders({str(folder): "CC0"})
    crops = [draw_adapter_image(seed, 64, sets) for seed in range(60)]
    # What is drawn has other colors than the photographs.
    cut = [(image, mask) for image, mask in crops if (is_red(image) | (image == GREEN).all(axis=2)).mean() > 0.9]
    assert len(cut) > 10
    assert {bool(mask.any()) for _, mask in cut} == {True, False}
    assert all((is_red(image) == mask).mean() > 0.9 for image, mask in cut)
    sides = {round(mask.sum() ** 0.5) for _, mask in cut if mask.any()}
    assert len(sides) > 3  # of several scales


def test_the_same_seed_gives_the_same_image(folder: Path) -> None:
    sets = read_folders({str(folder): "CC0"})
    first, second = ([augment(*draw_adapter_image(seed, 64, sets), 48, seed) for seed in range(4)] for _ in range(2))
    for (image, mask), (same, same_mask) in zip(first, second, strict=True):
        assert image.shape == (48, 48, 3)
        assert np.array_equal(image, same)
        assert np.array_equal(mask, same_mask)


def test_real_defects_are_laid_on_drawings(folder: Path) -> None:
    given = {"real defect": lay_defects_of(read_folders({str(folder): "CC0"}))}
    drawn = [draw_training_image(seed, 64, given=given) for seed in range(40)]
    laid = [sample for sample in drawn if "real defect" in sample.texts[2]]
    assert laid
    assert all((sample.regions == DEFECT).any() for sample in laid)


def test_where_a_defect_is_laid(folder: Path) -> None:
    """It changes a part of the object, and nothing else."""
    sets = read_folders({str(folder): "CC0"})
    for seed in range(5):
        rng = stream(seed, "scene")
        scene = make_object("gear", MATERIALS["wood"](rng, rng, 64), plain_background(rng, rng, 64), rng, rng)
        changed = lay_defects_of(sets)(scene, rng, 0.1)
        places = (changed.surface.albedo != scene.surface.albedo).any(axis=0)
        assert 0 < places.mean() < 0.3
        assert (scene.coverage[places] > 0).all()


def no_masks(folder: Path) -> None:
    for path in (folder / "ground_truth" / "defect").iterdir():
        path.unlink()
    for path in (folder / "ground_truth" / "defect", folder / "ground_truth"):
        path.rmdir()


def one_mask_is_missing(folder: Path) -> None:
    (folder / "ground_truth" / "defect" / "1_mask.png").unlink()


def one_mask_is_smaller(folder: Path) -> None:
    Image.new("L", (30, 20)).save(folder / "ground_truth" / "defect" / "1_mask.png")


def one_mask_is_gray(folder: Path) -> None:
    Image.linear_gradient("L").resize((160, 96)).save(folder / "ground_truth" / "defect" / "1_mask.png")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (no_masks, "no masks"),
        (one_mask_is_missing, r"1_mask\.png"),
        (one_mask_is_smaller, "160 x 96 and 30 x 20"),
        (one_mask_is_gray, "0 and 255"),
        (lambda folder: folder.rename(folder.with_name("other")), "no folder"),
    ],
)
def test_bad_folders(folder: Path, damage: Callable[[Path], object], words: str) -> None:
    damage(folder)
    with pytest.raises((FileNotFoundError, ValueError), match=words) as error:
        read_folders({str(folder): "CC0"})
    assert "\n" not in str(error.value)
