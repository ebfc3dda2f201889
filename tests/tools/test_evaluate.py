# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The figures of fbclip-small's model card."""

import math
import re
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import MVTecAD
from anomalib.engine import Engine
from anomalib.metrics import AUROC, Evaluator
from PIL import Image
from torchvision.transforms.v2 import RandomHorizontalFlip

from anomalib_fbclip import FBClip
from tools.bundled_model import evaluate as evaluate_module
from tools.bundled_model.evaluate import (
    Accuracy,
    draw_validation_sets,
    evaluate,
    images_per_second,
    list_images,
    main,
    mean_accuracy,
    pointing_game,
    summarize,
    to_markdown,
    variants,
)
from tools.bundled_model.parts import draw_category


@pytest.fixture(scope="module")
def gear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_category(tmp_path_factory.mktemp("parts"), "gear", image_size=200, train_images=1, test_images=8)


def test_are_those_of_anomalib_test(gear: Path, tmp_path: Path) -> None:
    metrics = [
        AUROC(fields=["pred_score", "gt_label"], prefix="image_"),
        AUROC(fields=["anomaly_map", "gt_mask"], prefix="pixel_"),
    ]
    # The default post-processor clips scores, so that some become equal.
    model = FBClip("fbclip-small", visualizer=False, post_processor=False, evaluator=Evaluator(test_metrics=metrics))
    (expected,) = Engine(logger=False, accelerator="cpu", default_root_dir=tmp_path).test(
        model,
        datamodule=MVTecAD(gear.parent, "gear", num_workers=0),
        verbose=False,
    )
    found = evaluate(FBClip("fbclip-small").eval(), list_images(gear), batch_size=5)
    assert found.image_auroc == pytest.approx(expected["image_AUROC"], abs=1e-6)
    assert found.pixel_auroc == pytest.approx(expected["pixel_AUROC"], abs=1e-3)


def test_images_have_their_own_masks(gear: Path) -> None:
    images = list_images(gear)
    assert len(images) == 16
    for path, mask_path in images:
        assert (mask_path is None) == (path.parent.name == "good")
        assert mask_path is None or mask_path.name == f"{path.stem}_mask.png"


def test_missing_mask(tmp_path: Path) -> None:
    (tmp_path / "test" / "crack").mkdir(parents=True)
    (tmp_path / "test" / "crack" / "1.jpg").touch()
    (tmp_path / "ground_truth").mkdir()
    with pytest.raises(FileNotFoundError, match=r"1_mask\.png"):
        list_images(tmp_path)


def test_without_masks_pixels_are_not_measured(gear: Path, tmp_path: Path) -> None:
    shutil.copytree(gear / "test", tmp_path / "gear" / "test")
    images = list_images(tmp_path / "gear")
    found = evaluate(FBClip("fbclip-small"), images[::3])
    assert 0 <= found.image_auroc <= 1
    assert math.isnan(found.pixel_auroc)
    assert to_markdown({"ours": [{"gear": found}]}).splitlines()[-1].endswith("/ - / - |")


def test_no_images(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="test/good"):
        list_images(tmp_path)


def test_validation_sets_are_labelled(tmp_path: Path) -> None:
    sets = draw_validation_sets(tmp_path, images=4)
    assert list(sets) == ["foam", "fruit", "spring", "tile", "coffee", "coin", "gravel"]
    for images in sets.values():
        assert len(images) == 8
        for path, mask_path in images:
            assert (mask_path is None) == (path.parent.name == "good")
            if mask_path:
                assert np.asarray(Image.open(mask_path)).any()
    normal = [mask_path is None for images in sets.values() for _, mask_path in images]
    assert 0.3 < np.mean(normal) < 0.7


def test_mean_accuracy() -> None:
    mean = mean_accuracy({"gear": Accuracy(0.5, 0.25, 0.0), "leather": Accuracy(1.0, 0.75, 0.5)})
    assert mean == Accuracy(0.75, 0.5, 0.25)


def test_variants_change_one_part_each() -> None:
    parts_of = {name: list(arguments) for name, arguments in variants().items()}
    assert len(parts_of) == 10
    assert all(len(arguments) == 1 for arguments in parts_of.values())
    assert variants()["image score of the map"] == {"image_score": "map"}
    assert variants()["without spatial view"]["views"] == ["identity", "semantic"]
    assert variants()["without global text strategy"]["text_strategies"] == {"attention": 0.5, "end_of_text": 0.5}


def test_several_seeds_are_shown_with_their_range() -> None:
    assert summarize([0.5]) == "0.500"
    assert summarize([0.5, 0.9, 0.7]) == "0.700 (0.500 to 0.900)"
    table = to_markdown({"ours": [{"gear": Accuracy(0.5, 0.25, 0.5)}, {"gear": Accuracy(1.0, 0.75, 0.5)}]})
    assert (
        table.splitlines()[-1] == "| ours | 0.750 (0.500 to 1.000) / 0.500 (0.250 to 0.750) / 0.500 (0.500 to 0.500) |"
    )


def test_the_strongest_place_may_miss_the_defect_by_a_patch() -> None:
    defects = torch.zeros(1, 60, 60, dtype=torch.bool)
    defects[0, 20, 20] = True
    maps = {}
    for column in (20, 34, 35):
        maps[column] = torch.zeros(1, 60, 60)
        maps[column][0, 6, column] = 1
    assert {column: pointing_game(anomaly_map, defects) for column, anomaly_map in maps.items()} == {
        20: 1,
        34: 1,
        35: 0,
    }
    assert pointing_game(torch.cat([*maps.values()]), defects.expand(3, -1, -1)) == pytest.approx(2 / 3)


@pytest.mark.slow
def test_table(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    gear = draw_category(tmp_path, "gear", image_size=200, train_images=1, test_images=1)
    images = list_images(gear)
    monkeypatch.setattr(evaluate_module, "images_per_second", partial(images_per_second, repetitions=1))
    monkeypatch.setattr(evaluate_module, "draw_unseen_categories", lambda *_, **__: {"gear": images})
    main(photographs=[gear.parent], disturbances=True, image_sizes=(224, 112), good=1)
    printed = capsys.readouterr().out
    header, _, *rows = [line for line in printed.splitlines() if line.startswith("|")]
    assert header == "| image AUROC / pixel AUROC / pointing | gear | gear (photographs) |"
    assert len(rows) == 4 + 10 + 8
    assert all(re.fullmatch(r"\| [\w ,.%-]+ (\|( [01]\.\d{3} /){2} [01]\.\d{3} ){2}\|", row) for row in rows)
    assert len(re.findall(r"\d images a second, batch (1|16),", printed)) == 2


def test_a_disturbance_comes_first_and_reaches_the_mask(gear: Path) -> None:
    model = FBClip("fbclip-small").eval()
    images = list_images(gear)[::6]
    plain, mirrored = (evaluate(model, images, disturbance=turn) for turn in (None, RandomHorizontalFlip(p=1)))
    assert mirrored != plain
    assert mirrored.pixel_auroc == pytest.approx(plain.pixel_auroc, abs=0.05)  # the mask is mirrored, too
