# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""``configs/data``: each is read by anomalib's command line, and reads the layout in which its dataset is published."""

import json
import shutil
from itertools import takewhile
from pathlib import Path

import numpy as np
import pytest
from anomalib.cli.cli import AnomalibCLI
from anomalib.data import AnomalibDataModule
from PIL import Image

from anomalib_fbclip.data.auxiliary import check_mask
from datasets import WRITERS
from layouts import HEIGHT, MASKED, WIDTH
from support.command_line import CONFIGS, anomalib

NAMES = sorted(path.stem for path in (CONFIGS / "data").glob("*.yaml") if path.stem != "meta_json")

TEST_IMAGES = {  # normal and anomalous ones of the first category, or of all where the config reads all
    "br35h": (3, 3),
    "brain_mri": (3, 3),
    "btad": (3, 2),
    "cvc_clinicdb": (0, 3),
    "cvc_colondb": (0, 3),
    "dagm": (6, 2),
    "dtd_synthetic": (6, 2),
    "endotect": (0, 1),
    "head_ct": (3, 2),
    "isic": (0, 3),
    "kolektor_sdd": (3, 2),
    "kvasir": (0, 1),
    "mpdd": (3, 2),
    "mvtec_ad": (3, 2),
    "real_iad": (2, 2),
    "tn3k": (0, 1),
    "visa": (1, 2),
}
WITHOUT_MASKS = {"head_ct", "brain_mri", "br35h"}


@pytest.fixture(scope="module")
def command_line() -> AnomalibCLI:
    """anomalib's command line; to build its parser takes longer than to use it."""
    return AnomalibCLI(["test", "--model", "Padim", "--model.pre_trained", "false"], run=False)


@pytest.fixture
def datamodule(
    command_line: AnomalibCLI,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AnomalibDataModule:
    """The datamodule of a config, with a few images in ``./datasets``."""
    name = request.param
    arguments = ["test", "--model", "Padim", "--data", str(CONFIGS / f"data/{name}.yaml"), "--data.num_workers", "0"]
    config = command_line.parser.parse_args(arguments)
    del config["test.model"], config["test.trainer"]
    monkeypatch.chdir(tmp_path)
    datamodule = command_line.parser.instantiate_classes(config).test.data
    root = tmp_path / datamodule.root
    root.mkdir(parents=True)
    WRITERS[name](root)
    return datamodule


def test_every_dataset_of_the_paper() -> None:
    assert len(NAMES) == 17
    assert set(NAMES) == WRITERS.keys() == TEST_IMAGES.keys()


@pytest.mark.parametrize(("name", "datamodule"), [(name, name) for name in NAMES], indirect=["datamodule"])
def test_layout(name: str, datamodule: AnomalibDataModule) -> None:
    datamodule.prepare_data()
    datamodule.setup()
    normal, anomalous = TEST_IMAGES[name]
    (batch,) = datamodule.test_dataloader()
    assert batch.image.shape == (normal + anomalous, 3, HEIGHT, WIDTH)
    assert batch.gt_label.sum() == anomalous
    if name in WITHOUT_MASKS:
        assert batch.gt_mask is None
    else:
        assert (batch.gt_mask.flatten(1).sum(dim=1) == batch.gt_label * MASKED**2).all()
    assert len(datamodule.val_data) == len(datamodule.test_data)


@pytest.mark.parametrize("name", NAMES)
def test_comments(name: str) -> None:
    text = (CONFIGS / f"data/{name}.yaml").read_text()
    assert f"--data configs/data/{name}.yaml" in text
    assert "Licence: " in text
    assert "\n# root/" in text


@pytest.mark.parametrize("name", ["endotect", "kvasir", "tn3k"])
def test_conversion_of_masks(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines that a config gives make masks that are not refused."""
    monkeypatch.chdir(tmp_path)
    WRITERS[name](tmp_path)
    comment = (CONFIGS / f"data/{name}.yaml").read_text().partition("In Python, in the root:\n#\n")[2]
    script = [line.removeprefix("#   ") for line in takewhile(lambda line: line != "#", comment.splitlines())]
    (entry,) = json.loads((tmp_path / "meta.json").read_text())["test"].popitem()[1]
    mask = tmp_path / entry["mask_path"]
    expected = np.asarray(Image.open(mask))
    shutil.rmtree(mask.parent)
    exec("\n".join(script), {})
    check_mask(mask)
    assert (np.asarray(Image.open(mask)) == expected).all()


def test_whole_run(tmp_path: Path, small_backbone: str, small_adapters: Path) -> None:
    root = tmp_path / "datasets" / "ISIC"
    root.mkdir(parents=True)
    WRITERS["isic"](root)
    result = anomalib(
        tmp_path,
        "test",
        *("--model", "FBClip", "--model.backbone", small_backbone, "--model.weights", small_adapters),
        *("--data", CONFIGS / "data/isic.yaml", "--data.num_workers", "0"),
    )
    assert result.returncode == 0, result.stderr
    assert "pixel_AUPRO" in result.stdout
    assert "not zero-shot" not in result.stdout + result.stderr
