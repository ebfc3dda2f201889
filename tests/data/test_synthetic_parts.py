# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""SyntheticParts: the files that it writes, and the folders that it refuses."""

import errno
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from anomalib.data import MVTecAD
from PIL import Image

from anomalib_fbclip.data import AuxiliaryDataModule, synthetic_parts
from anomalib_fbclip.data.procedural import CATEGORIES, HELD_OUT_CATEGORIES, VERSION, draw_sample
from anomalib_fbclip.data.synthetic_parts import SyntheticParts

SMALL = {"image_size": 48, "train_images": 3, "test_images": 6, "num_workers": 0}

WRITE = """
import sys
from anomalib_fbclip.data.synthetic_parts import SyntheticParts
SyntheticParts(root=sys.argv[1], category="cookie", image_size=48, train_images=3, test_images=6).prepare_data()
"""


def write(root: Path, category: str = "cookie", **arguments) -> SyntheticParts:
    datamodule = SyntheticParts(root=root, category=category, **{**SMALL, **arguments})
    datamodule.prepare_data()
    return datamodule


def hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("datasets") / "SyntheticParts"
    write(root)
    return root


class TestFiles:
    def test_layout(self, root):
        defects = ("dent", "cut", "burn", "thread", "bubbles")
        named = [("dent", "001"), *((defect, "000") for defect in defects)]
        assert set(hashes(root / "cookie")) == {
            "dataset.json",
            *(f"train/good/00{index}.png" for index in range(3)),
            *(f"test/good/00{index}.png" for index in range(6)),
            *(f"test/{defect}/{name}.png" for defect, name in named),
            *(f"ground_truth/{defect}/{name}_mask.png" for defect, name in named),
        }
        assert [path.name for path in root.iterdir()] == ["cookie"]

    def test_masks_are_black_and_white(self, root):
        for path in (root / "cookie/ground_truth").rglob("*.png"):
            mask = np.asarray(Image.open(path))
            assert mask.shape == (48, 48)
            assert set(np.unique(mask)) == {0, 255}

    def test_images_are_all_different(self, root):
        images = [value for name, value in hashes(root / "cookie").items() if "ground_truth" not in name]
        assert len(set(images)) == len(images)

    def test_are_the_same_elsewhere(self, root, tmp_path):
        write(tmp_path)
        assert hashes(tmp_path) == hashes(root)

    def test_more_images_are_more_of_the_same(self, root, tmp_path):
        write(tmp_path, train_images=4)
        assert hashes(root).items() - hashes(tmp_path).items() == {
            ("cookie/dataset.json", hashes(root)["cookie/dataset.json"])
        }

    def test_follow_the_seed(self, root, tmp_path):
        write(tmp_path, image_seed=1)
        assert not set(hashes(tmp_path).values()) & set(hashes(root).values())

    def test_are_written_once(self, root):
        before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
        write(root)
        assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before

    def test_default_folder(self):
        assert SyntheticParts().root.parts[-2:] == ("datasets", "SyntheticParts")


class TestReading:
    def test_items(self, root):
        datamodule = write(root)
        datamodule.setup()
        assert (datamodule.name, datamodule.category, datamodule.task) == ("SyntheticParts", "cookie", "segmentation")
        assert (len(datamodule.train_data), len(datamodule.val_data), len(datamodule.test_data)) == (3, 12, 12)
        batch = next(iter(datamodule.test_dataloader()))
        assert batch.image.shape == (12, 3, 48, 48)
        assert batch.gt_label.sum() == 6
        assert batch.gt_mask.any((1, 2)).tolist() == batch.gt_label.tolist()

    def test_mvtec_ad_reads_the_same(self, root):
        ours, theirs = write(root), MVTecAD(root=root, category="cookie", num_workers=0)
        for datamodule in (ours, theirs):
            datamodule.setup()
        assert ours.train_data.samples.equals(theirs.train_data.samples)
        assert ours.test_data.samples.equals(theirs.test_data.samples)

    def test_auxiliary(self, tmp_path):
        source = SyntheticParts(root=tmp_path, **SMALL)
        datamodule = AuxiliaryDataModule(sources=source, categories=["bottle", "wood"], num_workers=0)
        datamodule.prepare_data()
        datamodule.setup()
        assert datamodule.name == "SyntheticParts"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["bottle", "wood"]
        assert datamodule.train_data.samples["label_index"].value_counts().to_dict() == {0: 12, 1: 12}

    @pytest.mark.parametrize("category", CATEGORIES)
    def test_every_category(self, category, tmp_path):
        datamodule = write(tmp_path, category, image_size=32, train_images=1, test_images=5)
        datamodule.setup()
        labels = {Path(path).parent.name for path in datamodule.test_data.samples["image_path"]}
        assert labels == {"good", *(defect.replace(" ", "_") for defect in CATEGORIES[category].defects)}

    def test_default_category_is_held_out(self):
        assert SyntheticParts().category in HELD_OUT_CATEGORIES


class TestRefused:
    def test_unknown_category(self):
        message = r"no category 'shoe'. Available to test on: gear, cookie, .*; to train on: bottle, .*wood"
        with pytest.raises(ValueError, match=message):
            SyntheticParts(category="shoe")

    def test_unknown_category_of_auxiliary(self, tmp_path):
        datamodule = AuxiliaryDataModule(sources=SyntheticParts(root=tmp_path), categories=["shoe", "wood"])
        with pytest.raises(ValueError, match=r"SyntheticParts has no category 'shoe'.*wood"):
            datamodule.prepare_data()
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("argument", "value", "least"),
        [("image_size", 31, 32), ("train_images", 0, 1), ("test_images", 0, 1), ("image_seed", -1, 0)],
    )
    def test_numbers(self, argument, value, least):
        with pytest.raises(ValueError, match=f"{argument} must be at least {least}, but is {value}"):
            SyntheticParts(**{argument: value})

    @pytest.mark.parametrize(
        ("argument", "value"), [("image_size", 64), ("train_images", 4), ("test_images", 5), ("image_seed", 1)]
    )
    def test_folder_of_other_settings(self, root, argument, value):
        before = hashes(root)
        message = f"cookie was written with {argument} .* instead of {value}: give another root, or delete it"
        with pytest.raises(ValueError, match=message):
            write(root, **{argument: value})
        assert hashes(root) == before

    def test_folder_of_another_version(self, root, monkeypatch):
        monkeypatch.setattr(synthetic_parts, "VERSION", 99)
        with pytest.raises(ValueError, match=f"version {VERSION} instead of 99: give another root"):
            write(root)

    @pytest.mark.parametrize("content", [None, "{", "[]"])
    def test_folder_of_something_else(self, tmp_path, content):
        folder = tmp_path / "cookie"
        folder.mkdir()
        (folder / "mine.txt").write_text("mine")
        if content is not None:
            (folder / "dataset.json").write_text(content)
        with pytest.raises(ValueError, match="was not written by SyntheticParts: give another root, or delete it"):
            write(tmp_path)
        assert (folder / "mine.txt").read_text() == "mine"

    def test_file_in_place_of_the_root(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(OSError, match=r"Cannot write images to .*file/cookie: .*give another root"):
            write(tmp_path / "file")


class TestInterrupted:
    @staticmethod
    def fail_at(call: int, error: BaseException, monkeypatch) -> None:
        calls = iter(range(1000))

        def draw(*args):
            if next(calls) == call:
                raise error
            return draw_sample(*args)

        monkeypatch.setattr(synthetic_parts, "draw_sample", draw)

    def test_leaves_nothing(self, tmp_path, monkeypatch):
        self.fail_at(5, KeyboardInterrupt(), monkeypatch)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path)
        assert not list(tmp_path.iterdir())

    def test_full_disk_leaves_nothing(self, tmp_path, monkeypatch):
        self.fail_at(5, OSError(errno.ENOSPC, "No space left on device"), monkeypatch)
        with pytest.raises(OSError, match=r"cookie: No space left on device. .* free space") as caught:
            write(tmp_path)
        assert caught.value.errno == errno.ENOSPC
        assert not list(tmp_path.iterdir())

    def test_can_be_repeated(self, root, tmp_path, monkeypatch):
        with monkeypatch.context() as patch:
            self.fail_at(5, KeyboardInterrupt(), patch)
            with pytest.raises(KeyboardInterrupt):
                write(tmp_path)
        write(tmp_path)
        assert hashes(tmp_path) == hashes(root)


class TestConcurrent:
    @pytest.mark.slow
    def test_two_processes(self, root, tmp_path):
        processes = [
            subprocess.Popen([sys.executable, "-c", WRITE, tmp_path], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            for _ in range(2)
        ]
        errors = [process.communicate()[1] for process in processes]
        assert [process.returncode for process in processes] == [0, 0], errors
        assert hashes(tmp_path) == hashes(root)

    def test_another_one_is_faster(self, root, tmp_path, monkeypatch):
        plan = SyntheticParts._plan

        def write_while_another_one_does(datamodule):
            monkeypatch.setattr(SyntheticParts, "_plan", plan)
            write(tmp_path)
            yield from plan(datamodule)

        monkeypatch.setattr(SyntheticParts, "_plan", write_while_another_one_does)
        write(tmp_path)
        assert hashes(tmp_path) == hashes(root)

    def test_another_one_with_other_settings_is_faster(self, tmp_path, monkeypatch):
        plan = SyntheticParts._plan

        def write_while_another_one_does(datamodule):
            monkeypatch.setattr(SyntheticParts, "_plan", plan)
            write(tmp_path, image_seed=1)
            yield from plan(datamodule)

        monkeypatch.setattr(SyntheticParts, "_plan", write_while_another_one_does)
        with pytest.raises(ValueError, match="image_seed 1 instead of 0"):
            write(tmp_path)
        assert json.loads((tmp_path / "cookie/dataset.json").read_text())["image_seed"] == 1
