# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Datasets in the ``meta.json`` layout."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data.utils import Split
from PIL import Image

from anomalib_fbclip.data import AuxiliaryDataModule, MetaJson
from anomalib_fbclip.data.meta_json import make_meta_json_dataset
from layouts import MASKED, write_image


def read(root: Path, **kwargs) -> MetaJson:
    datamodule = MetaJson(root, num_workers=0, **kwargs)
    datamodule.prepare_data()
    datamodule.setup()
    return datamodule


def images(dataset, root: Path) -> list[str]:
    return [Path(path).relative_to(root).as_posix() for path in dataset.samples["image_path"]]


def entry(image: str, mask: str = "", anomaly: int = 0) -> dict[str, str | int]:
    return {"img_path": image, "mask_path": mask, "anomaly": anomaly}


class TestSplits:
    def test_all_categories(self, write_meta):
        root = write_meta()
        datamodule = read(root)
        assert images(datamodule.train_data, root) == [
            f"{name}/train/good/{i}.png" for name in ("cup", "pen") for i in range(3)
        ]
        assert images(datamodule.test_data, root) == [
            f"{name}/test/{image}.png"
            for name in ("cup", "pen")
            for image in ("bad/0", "bad/1", "good/0", "good/1", "good/2")
        ]
        assert images(datamodule.val_data, root) == images(datamodule.test_data, root)
        assert datamodule.task == "segmentation"
        assert (datamodule.name, datamodule.category) == ("photographs", "")

    @pytest.mark.parametrize("categories", ["pen", ["pen"]])
    def test_one_category(self, write_meta, categories):
        root = write_meta()
        datamodule = read(root, categories=categories, name="desk")
        assert {Path(image).parts[0] for image in images(datamodule.test_data, root)} == {"pen"}
        assert (datamodule.name, datamodule.category) == ("desk", "pen")

    def test_several_categories(self, write_meta):
        datamodule = read(write_meta(), categories=["pen", "cup", "pen"])
        assert (len(datamodule.test_data), datamodule.category) == (10, "")

    def test_items(self, write_meta):
        seen = 0
        for batch in read(write_meta(), eval_batch_size=3).test_dataloader():
            seen += len(batch)
            assert torch.equal(batch.gt_mask.sum((1, 2)), batch.gt_label * MASKED**2)
        assert seen == 10

    @pytest.mark.parametrize("train", [None, {}, {"cup": []}])
    @pytest.mark.parametrize("normal", [True, False])
    def test_nothing_to_train_on(self, write_meta, train, normal):
        test = [entry("bad.png", "mask.png", 1), *([entry("good.png")] if normal else [])]
        meta = {"test": {"cup": test}} if train is None else {"train": train, "test": {"cup": test}}
        datamodule = read(write_meta(meta))
        assert len(datamodule.train_data) == 0
        assert len(datamodule.test_data) == len(datamodule.val_data) == 1 + normal
        assert sum(len(batch) for batch in datamodule.test_dataloader()) == 1 + normal
        assert datamodule.task == "segmentation"

    def test_nothing_to_test_on_takes_from_train(self, write_meta):
        datamodule = read(write_meta({"train": {"cup": [entry(f"{i}.png") for i in range(5)]}}), seed=0)
        assert (len(datamodule.train_data), len(datamodule.test_data)) == (4, 1)

    @pytest.mark.parametrize(("split", "count"), [(Split.TRAIN, 6), (Split.TEST, 10)])
    def test_a_split_as_a_table(self, write_meta, split, count):
        samples = make_meta_json_dataset(write_meta(), None, "meta.json", split)
        assert samples["split"].value_counts().to_dict() == {split.value: count}
        assert samples.attrs["task"] == "segmentation"

    def test_other_file(self, write_meta):
        root = write_meta({"test": {"cup": [entry("cup.png")]}}, name="meta_1.json")
        assert images(read(root, meta_file="meta_1.json").test_data, root) == ["cup.png"]

    def test_is_a_source_to_train_on(self, write_meta):
        root = write_meta()
        datamodule = AuxiliaryDataModule(MetaJson(root, categories="cup"), num_workers=0)
        datamodule.setup()
        assert datamodule.name == "photographs"
        assert images(datamodule.train_data, root) == [
            f"cup/test/{image}.png" for image in ("bad/0", "bad/1", "good/0", "good/1", "good/2")
        ]


class TestDatasetsAsTheyAre:
    def test_windows_paths_and_a_byte_order_mark(self, write_meta):
        root = write_meta({"test": {"cup": [entry("test\\bad\\0.png", "masks\\0.png", 1)]}})
        path = root / "meta.json"
        path.write_text(path.read_text(encoding="utf-8"), encoding="utf-8-sig")
        dataset = read(root).test_data
        assert images(dataset, root) == ["test/bad/0.png"]
        assert dataset[0].gt_mask.sum() == MASKED**2

    def test_classification_without_masks(self, write_meta):
        root = write_meta({"test": {"brain": [entry("0.png"), {"img_path": "1.png", "anomaly": 1, "mask_path": None}]}})
        datamodule = read(root)
        assert datamodule.task == "classification"
        (batch,) = datamodule.test_dataloader()
        assert batch.gt_label.tolist() == [False, True]
        assert batch.gt_mask is None

    def test_mask_of_a_normal_image_is_not_read(self, write_meta):
        meta = {"test": {"cup": [entry("good.png", "nowhere.png"), entry("bad.png", "mask.png", 1)]}}
        root = write_meta(meta)
        (root / "nowhere.png").unlink()
        assert [mask.rpartition("/")[2] for mask in read(root).test_data.samples["mask_path"]] == ["mask.png", ""]

    @pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
    @pytest.mark.parametrize("value", [1, 255])
    @pytest.mark.parametrize("mode", ["L", "1", "RGB"])
    def test_mask_formats(self, write_meta, suffix, value, mode):
        root = write_meta({"test": {"cup": [entry("bad.png", f"mask.{suffix}", 1)]}})
        mask = np.zeros((24, 32), dtype=np.uint8)
        mask[:MASKED, :MASKED] = value
        image = Image.fromarray(mask > 0) if mode == "1" else Image.fromarray(mask).convert(mode)
        image.save(root / f"mask.{suffix}")
        gt_mask = read(root).test_data[0].gt_mask
        assert gt_mask.sum() == MASKED**2
        assert gt_mask.max() == 1

    def test_jpeg_masks_warn(self, write_meta, caplog):
        with caplog.at_level(logging.WARNING):
            read(write_meta({"test": {"cup": [entry("0.png", "0.jpg", 1), entry("1.png", "1.png", 1)]}}))
        (message,) = [record.getMessage() for record in caplog.records if "JPEG" in record.getMessage()]
        assert message.startswith("1 masks")
        assert "0.jpg" in message

    def test_images_are_not_opened(self, write_meta):
        root = write_meta()
        for path in root.rglob("*.png"):
            path.write_bytes(b"not an image")
        assert len(read(root).test_data) == 10

    def test_many_entries(self, tmp_path):
        write_image(tmp_path / "0.png")
        meta = {"test": {f"{index}": [entry("0.png")] * 1000 for index in range(30)}}
        (tmp_path / "meta.json").write_text(json.dumps(meta))
        assert len(make_meta_json_dataset(tmp_path, None, "meta.json", Split.TEST)) == 30_000


class TestErrors:
    def test_no_folder(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            read(tmp_path / "nowhere")

    def test_no_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"meta\.json"):
            read(tmp_path)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("{'train': {}}", r"meta\.json.* line 1 column 2"),
            ("", "JSON"),
            ([], r"meta\.json .* dict.* list"),
            ({"val": {}}, "'train'.*'test'"),
            ({"test": [1]}, "'test' .* dict.* list"),
            ({"test": {"cup": {}}}, "'test' / 'cup' .* list.* dict"),
            ({"test": {"cup": ["0.png"]}}, "entry 0 of 'test' / 'cup' .* dict.* str"),
            ({"test": {"cup": [{"anomaly": 0}]}}, "'img_path' in entry 0 of 'test' / 'cup' .* str"),
            (
                {"test": {"cup": [entry("0.png"), entry("1.png", mask=["1.png"])]}},
                "'mask_path' in entry 1 of 'test' / 'cup' .* str.* list",
            ),
            ({"test": {"cup": [entry("0.png", anomaly=2)]}}, "'anomaly' in entry 0 .* 0 or 1.* 2"),
            ({"test": {"cup": [entry("0.png", anomaly="1")]}}, "'anomaly' in entry 0 .* '1'"),
            ({"test": {"cup": [{"img_path": "0.png"}]}}, "'anomaly' in entry 0 .* None"),
            ({"test": {"cup": []}, "train": {"cup": []}}, "meta.json has no entries for cup"),
            ({"test": {}}, "no entries"),
            (
                {"test": {"cup": [entry("0.png", "0_mask.png", 1), entry("1.png", "", 1)]}},
                "1 of 2 anomalous .* mask_path.* 1.png",
            ),
        ],
    )
    def test_content(self, write_meta, content, message):
        with pytest.raises(ValueError, match=message) as error:
            read(write_meta(content, files=False))
        assert "\n" not in str(error.value)

    def test_unknown_category(self, write_meta):
        with pytest.raises(ValueError, match=r"mug.*cup, pen"):
            read(write_meta(), categories=["cup", "mug"])

    def test_no_category(self, tmp_path):
        with pytest.raises(ValueError, match="categories"):
            MetaJson(tmp_path, categories=[])

    def test_categories_of_the_source_itself(self, tmp_path):
        with pytest.raises(ValueError, match="'category'"):
            AuxiliaryDataModule(MetaJson(tmp_path, name="desk"), categories=["cup"])

    @pytest.mark.parametrize(
        ("lost", "message"),
        [
            (("cup/test/good/1.png", "pen/test/bad/0.png"), r"2 of 10 images .*cup/test/good/1\.png"),
            (("pen/masks/1.png",), r"1 of 4 masks .*pen/masks/1\.png"),
        ],
    )
    def test_missing_files(self, write_meta, lost, message):
        root = write_meta()
        for name in lost:
            (root / name).unlink()
        with pytest.raises(FileNotFoundError, match=message):
            read(root)
