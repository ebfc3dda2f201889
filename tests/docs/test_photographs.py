# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""What ``docs/results.md`` was measured with."""

import runpy
import shutil
from pathlib import Path

import pytest
from anomalib.pipelines import Benchmark
from anomalib.pipelines.components.utils import get_iterator_from_grid_dict

from anomalib_fbclip.data import MetaJson
from anomalib_fbclip.protocol.__main__ import create_parser
from layouts import MASKED, write_category

FOLDER = Path(__file__).parents[2] / "docs" / "photographs"


def test_every_mask_belongs_to_its_image(tmp_path: Path) -> None:
    for category in ("cookie", "hazelnut"):
        write_category(tmp_path / category, "cracked", "_mask")
    runpy.run_path(str(FOLDER / "list_photographs.py"))["main"](tmp_path)
    datamodule = MetaJson(root=tmp_path, categories="hazelnut", num_workers=0)
    datamodule.setup()
    assert (len(datamodule.train_data), len(datamodule.test_data)) == (4, 5)
    for item in datamodule.test_data:
        assert item.gt_mask.sum() == MASKED**2 * item.gt_label
        assert Path(item.image_path).stem in Path(item.mask_path or item.image_path).stem


def test_a_category_without_images_to_train_on(tmp_path: Path) -> None:
    write_category(tmp_path / "magnetic_tile", "cracked", "_mask", normal=10)
    shutil.rmtree(tmp_path / "magnetic_tile" / "train")
    runpy.run_path(str(FOLDER / "list_photographs.py"))["main"](tmp_path)
    datamodule = MetaJson(root=tmp_path, categories="magnetic_tile", num_workers=0)
    datamodule.setup()
    train, test = ({item.image_path for item in data} for data in (datamodule.train_data, datamodule.test_data))
    assert sorted(Path(path).name for path in train) == [f"{index:03}.png" for index in range(8)]
    assert not train & test
    assert train | test == {str(path) for path in (tmp_path / "magnetic_tile" / "test").rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["benchmark_fbclip", "benchmark_others"])
def test_benchmarks(name: str) -> None:
    arguments = Benchmark.get_parser().parse_args(["--config", str(FOLDER / f"{name}.yaml")])
    jobs = list(get_iterator_from_grid_dict(Benchmark()._get_args(arguments)["benchmark"]))
    assert {job["data"]["init_args"]["categories"] for job in jobs} == {"hazelnut", "cookie", "magnetic_tile"}
    assert {job["model"]["class_path"] for job in jobs} in ({"FBClip"}, {"Patchcore", "Padim"})


def test_protocol() -> None:
    options = create_parser().parse_args(["--config", str(FOLDER / "protocol.yaml")])
    assert options.model.backbone == "fbclip-small"
    assert options.data.class_path.endswith("MetaJson")
