# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Results that hold, whatever comes in: bad files, interrupts, full disks, odd names, and several runs at once."""

import errno
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from itertools import starmap
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from anomalib.engine import Engine
from anomalib.visualization import ImageVisualizer
from lightning.pytorch import Trainer
from PIL import Image
from torchvision.transforms.v2 import RandomCrop, RandomHorizontalFlip

from anomalib_fbclip import FBClip
from anomalib_fbclip.data import AuxiliaryDataModule
from anomalib_fbclip.errors import ImageError
from anomalib_fbclip.lightning.callbacks.checked_data import CheckedDataset
from anomalib_fbclip.lightning.callbacks.results_folder import claim_folder
from anomalib_fbclip.weights.adapters import adapter_tensors
from support.brightness import judge_by_brightness, make_folder, write_folder, write_image
from support.command_line import ANOMALIB, anomalib, run
from support.photographs import store_in_12_bits
from support.schema import read_schema


@pytest.fixture
def model(small_backbone: str, small_adapters: Path, monkeypatch: pytest.MonkeyPatch) -> FBClip:
    return judge_by_brightness(FBClip(small_backbone, weights=small_adapters), monkeypatch)


@pytest.fixture
def command(small_backbone: str, small_adapters: Path) -> list[str]:
    """Arguments of the command line, all but the data."""
    return ["--model", "FBClip", "--model.backbone", str(small_backbone), "--model.weights", str(small_adapters)]


def make_engine(root: Path) -> Engine:
    return Engine(default_root_dir=root, devices=1, accelerator="cpu", enable_progress_bar=False)


def tables(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("predictions.jsonl") if "latest" not in path.parts)


def read(table: Path) -> list[dict]:
    rows = [json.loads(line) for line in table.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        jsonschema.validate(row, read_schema())
    return rows


def write_bad_files(folder: Path) -> dict[str, str]:
    """Write files that can't be predicted; give a part of what is said of each by its name."""
    whole = write_image(folder / "whole.png", 100)
    (folder / "cut.png").write_bytes(whole.read_bytes()[:-40])
    whole.unlink()
    (folder / "empty.jpg").write_bytes(b"")
    Image.new("RGB", (1, 1)).save(folder / "point.png")
    Image.new("RGB", (3000, 2)).save(folder / "line.png")
    Image.fromarray(np.full((60, 60), 3000, dtype=np.uint16)).save(folder / "twelve_bits.png")
    return {
        "cut.png": "can't be read",
        "empty.jpg": "can't be read",
        "point.png": "each side needs 14 or more",
        "line.png": "each side needs 14 or more",
        "twelve_bits.png": "8 bits",
    }


class TestBadFiles:
    """They are named, and the others are predicted."""

    def test_in_python(self, tmp_path: Path, model: FBClip, capsys: pytest.CaptureFixture[str]) -> None:
        folder = tmp_path / "photographs"
        for name in ("a", "k", "z"):
            write_image(folder / f"{name}.png", 10, 200)
        bad = write_bad_files(folder)
        predictions = make_engine(tmp_path / "results").predict(model, data_path=folder)
        assert [Path(path).name for prediction in predictions for path in prediction.image_path] == [
            "a.png",
            "k.png",
            "z.png",
        ]
        (table,) = tables(tmp_path)
        rows = read(table)
        assert [Path(row["path"]).name for row in rows] == sorted(["a.png", "k.png", "z.png", *bad])
        errors = capsys.readouterr().err.splitlines()
        for row in rows:
            name = Path(row["path"]).name
            assert (row["error"] is None) == (name not in bad)
            if name in bad:
                assert bad[name] in row["error"]
                assert name in row["error"]
                assert sum(name in line for line in errors) == 1
        assert len(list(table.parent.rglob("images/**/*.png"))) == 3

    def test_nothing_else(self, tmp_path: Path, model: FBClip, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "empty.png").write_bytes(b"")
        make_engine(tmp_path / "results").predict(model, data_path=tmp_path / "empty.png")
        (table,) = tables(tmp_path)
        (row,) = read(table)
        assert "empty.png" in row["error"]
        assert "1 image: 1 failed" in capsys.readouterr().out

    def test_on_the_command_line(self, tmp_path: Path, command: list[str]) -> None:
        """With a name of two lines, and what is skipped."""
        folder = tmp_path / "photographs"
        write_image(folder / "two\nlines, and a comma.png", 10, 200)
        write_image(folder / "b.png", 10, 200)
        Image.new("RGB", (60, 60)).save(folder / "moving.gif")
        (folder / "phone.heic").write_bytes(b"")
        (folder / "._b.png").write_bytes(b"of macOS")
        write_image(folder / ".ipynb_checkpoints" / "b-checkpoint.png", 10, 200)
        pages = [Image.new("RGB", (60, 60))] * 3
        pages[0].save(folder / "scan.tif", save_all=True, append_images=pages[1:])
        (folder / "cut.png").write_bytes((folder / "b.png").read_bytes()[:-40])
        result = anomalib(tmp_path, "predict", *command, "--data", folder)
        assert result.returncode == 2
        lines = result.stderr.splitlines()
        for name, said in {
            "cut.png": "can't be read",
            "moving.gif": "is skipped",
            "phone.heic": "HEIF is not supported",
            "scan.tif": "3 pages",
        }.items():
            assert sum(name in line and said in line for line in lines) == 1, result.stderr
        assert "Traceback" not in result.stderr
        assert "two\\nlines, and a comma.png: " in result.stdout
        assert "6 images: " in result.stdout
        assert "3 failed" in result.stdout
        (table,) = tables(tmp_path)
        assert [Path(row["path"]).name for row in read(table)] == [
            "b.png",
            "cut.png",
            "scan.tif",
            "two\nlines, and a comma.png",
            "moving.gif",
            "phone.heic",
        ]
        assert len(list(table.parent.rglob("images/**/*.*"))) == 3

    @pytest.mark.parametrize("data", ["photographs", "photographs/part.png"])
    def test_a_folder_of_one_image(self, tmp_path: Path, command: list[str], data: str) -> None:
        """What anomalib passes over is told, and is an error, if the folder was asked for."""
        write_image(tmp_path / "photographs" / "part.png", 10, 200)
        Image.new("RGB", (60, 60)).save(tmp_path / "photographs" / "moving.gif")
        result = anomalib(tmp_path, "predict", *command, "--data", data)
        is_folder = data == "photographs"
        assert result.returncode == (2 if is_folder else 0)
        assert ("moving.gif is skipped" in result.stderr) == is_folder

    def test_in_a_test(self, tmp_path: Path, model: FBClip) -> None:
        root = write_folder(tmp_path / "parts", good=[40, 50], spots=[200])
        (root / "good" / "1.png").write_bytes(b"")
        with pytest.raises(ImageError, match=r"good.1\.png can't be read"):
            make_engine(tmp_path / "results").test(model, datamodule=make_folder(root))

    @pytest.mark.parametrize("run", ["test", "validate"])
    def test_a_mask_with_a_background(self, tmp_path: Path, model: FBClip, run: str) -> None:
        root = write_folder(tmp_path / "parts", good=[40, 50], spots=[200])
        write_image(root / "masks" / "0.png", 2, 255)
        with pytest.raises(ValueError, match=r"masks.0\.png.* 2, 255"):
            getattr(make_engine(tmp_path / "results"), run)(model, datamodule=make_folder(root))


@pytest.mark.parametrize("stage", ["test", "predict", "predict folder"])
@pytest.mark.parametrize("white_level", [None, 4095])
def test_deeper_images_score_as_with_8_bits(
    tmp_path: Path,
    small_backbone: str,
    small_adapters: Path,
    monkeypatch: pytest.MonkeyPatch,
    white_level: int | None,
    stage: str,
) -> None:
    """Of anomalib's datamodules, too. So do their pictures look."""
    model = judge_by_brightness(FBClip(small_backbone, weights=small_adapters, white_level=white_level), monkeypatch)
    results, pictures = [], []
    for name, white in {"shallow": 255, "deep": white_level or 65535}.items():
        root = write_folder(tmp_path / name, good=[40, 50], spots=[200])
        for path in (root / "good", root / "defect"):
            for image in path.iterdir():
                pixels = np.round(np.asarray(Image.open(image).convert("L")) / 255 * white)
                Image.fromarray(pixels.astype(np.uint8 if white == 255 else np.uint16)).save(image)
        engine = make_engine(tmp_path / "results" / name)
        if stage == "test":
            engine.test(model, datamodule=make_folder(root))
            results.append([model.post_processor.image_threshold.item(), model.post_processor.pixel_max.item()])
        elif stage == "predict":
            batches = engine.predict(model, datamodule=make_folder(root))
            results.append(torch.cat([batch.pred_score for batch in batches]).tolist())
        else:
            results.append([batch.pred_score.item() for batch in engine.predict(model, data_path=root / "defect")])
        files = sorted((tmp_path / "results" / name).rglob("v0/images/**/*.png"))
        pictures.append([np.asarray(Image.open(path).convert("RGB")) for path in files])
    assert results[0] == pytest.approx(results[1], abs=1e-6)
    assert pictures[0]
    assert all(starmap(np.array_equal, zip(*pictures, strict=True)))


class TestTrainingOnDeeperImages:
    """anomalib reads them as white."""

    @pytest.fixture
    def roots(self, tmp_path: Path) -> list[Path]:
        """A folder of images of 8 bits, and the same of 12."""
        shallow = write_folder(tmp_path / "shallow", good=[40, 50], spots=[200, 180])
        deep = shutil.copytree(shallow, tmp_path / "deep")
        for name in ("train", "good", "defect"):
            store_in_12_bits(deep / name)
        return [shallow, deep]

    def test_the_adapters(self, tmp_path: Path, small_backbone: str, roots: list[Path]) -> None:
        """They are those of 8 bits, and so are the thresholds of a validation."""
        found = []
        for root in roots:
            model = FBClip(small_backbone, weights=None, learning_rate=1e-2, white_level=4095)
            data = AuxiliaryDataModule(
                make_folder(root),
                targets=make_folder(root),
                train_augmentations=RandomHorizontalFlip(1),
                num_workers=0,
            )
            engine = Engine(
                default_root_dir=tmp_path / "out" / root.name, max_epochs=1, accelerator="cpu", logger=False
            )
            engine.fit(model, datamodule=data)
            found.append(adapter_tensors(model.model) | {"threshold": model.post_processor.image_threshold})
        assert all(torch.equal(found[1][name], tensor) for name, tensor in found[0].items())

    def test_a_mask_is_cropped_as_its_image(self, roots: list[Path]) -> None:
        data = make_folder(roots[1], test_augmentations=RandomCrop(30))
        data.setup()
        images = CheckedDataset(data.test_data, 14, range(4), white_level=4095)
        items = [images[index] for index in range(4) for _ in range(5)]
        assert any(item.gt_mask.any() for item in items)
        for item in items:
            assert torch.equal(item.image[0] > 100 / 255, item.gt_mask.bool())

    def test_an_export_in_8_bits(self, small_backbone: str, roots: list[Path]) -> None:
        model = FBClip(small_backbone, weights=None, white_level=4095)
        found = []
        for root in roots:
            data = make_folder(root)
            data.setup()
            found.append(torch.stack([item.image for item in model.checked_data.check(data.test_data)]))
        assert torch.equal(*found)

    def test_a_damaged_one_is_named(self, tmp_path: Path, small_backbone: str, roots: list[Path]) -> None:
        (roots[0] / "good" / "0.png").write_bytes(b"")
        data = AuxiliaryDataModule(make_folder(roots[0]), num_workers=0)
        with pytest.raises(ImageError, match=r"good.0\.png can't be read"):
            make_engine(tmp_path).fit(FBClip(small_backbone, weights=None), datamodule=data)


class Malicious:
    """Runs code when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return Path.touch, (self.trace,)


class TestBadCheckpoints:
    """They are named, and torch's advice to trust them is not repeated."""

    @pytest.fixture(params=["malicious", "cut", "empty"])
    def checkpoint(self, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
        path = tmp_path / "model.ckpt"
        torch.save({"state_dict": {}, "code": Malicious(tmp_path / "trace")}, path)
        if request.param != "malicious":
            path.write_bytes(path.read_bytes()[: 200 if request.param == "cut" else 0])
        return path

    @pytest.mark.parametrize("run", ["predict", "test", "load_from_checkpoint"])
    def test_in_python(self, tmp_path: Path, model: FBClip, checkpoint: Path, run: str) -> None:
        root = write_folder(tmp_path / "parts", good=[40], spots=[200])
        engine = make_engine(tmp_path / "results")
        runs = {
            "predict": lambda: engine.predict(model, datamodule=make_folder(root), ckpt_path=checkpoint),
            "test": lambda: engine.test(model, datamodule=make_folder(root), ckpt_path=checkpoint),
            "load_from_checkpoint": lambda: FBClip.load_from_checkpoint(checkpoint),
        }
        with pytest.raises(ValueError, match=r"model\.ckpt' can't be read") as raised:
            runs[run]()
        assert "weights_only" not in str(raised.value)
        assert raised.value.__cause__ is None
        assert not (tmp_path / "trace").exists()

    def test_on_the_command_line(self, tmp_path: Path, command: list[str]) -> None:
        write_image(tmp_path / "photographs" / "part.png", 10)
        torch.save({"code": Malicious(tmp_path / "trace")}, tmp_path / "model.ckpt")
        arguments = ("--data", tmp_path / "photographs", "--ckpt_path", tmp_path / "model.ckpt")
        result = anomalib(tmp_path, "predict", *command, *arguments)
        assert result.returncode == 2
        (error,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert f"Checkpoint '{tmp_path / 'model.ckpt'}' can't be read" in error
        assert "weights_only" not in result.stdout + result.stderr
        assert "Traceback" not in result.stderr
        assert "Table" not in result.stdout + result.stderr
        assert not tables(tmp_path)
        assert not (tmp_path / "trace").exists()


class TestFolders:
    """Each run has a folder of its own."""

    def test_one_after_the_other(self, tmp_path: Path, model: FBClip) -> None:
        write_image(tmp_path / "photographs" / "part.png", 10, 200)
        for _ in range(2):
            make_engine(tmp_path / "results").predict(model, data_path=tmp_path / "photographs")
        engine = make_engine(tmp_path / "results")
        for _ in range(2):  # the same trainer
            engine.predict(model, data_path=tmp_path / "photographs")
        root = tmp_path / "results" / "FBClip"
        assert [table.parent for table in tables(root)] == [root / f"v{number}" for number in range(4)]
        assert (root / "latest").resolve() == root / "v3"
        for table in tables(root):
            (row,) = read(table)
            assert Path(row["picture"]).is_file()
            assert Path(row["picture"]).is_relative_to(table.parent)

    def test_a_test_and_a_prediction(self, tmp_path: Path, model: FBClip) -> None:
        root = write_folder(tmp_path / "parts", good=[40], spots=[200])
        for task in ("test", "predict", "test"):
            getattr(make_engine(tmp_path / "results"), task)(model, datamodule=make_folder(root))
        folder = tmp_path / "results" / "FBClip" / "parts"
        assert {path.parent.name for path in folder.glob("v*/images")} == {"v0", "v1", "v2"}
        assert {table.parent.name for table in tables(folder)} == {"v0", "v1", "v2"}
        (tested,) = (folder / "v0").glob("*.jsonl")
        assert {(Path(row["path"]).parent.name, row["label"]) for row in read(tested)} == {
            ("good", "normal"),
            ("defect", "anomalous"),
        }

    def test_each_test_has_its_own_checkpoint(self, tmp_path: Path, model: FBClip) -> None:
        root = write_folder(tmp_path / "parts", good=[40], spots=[200])
        folder = tmp_path / "results" / "FBClip" / "parts"
        for number in range(2):
            engine = make_engine(tmp_path / "results")
            engine.test(model, datamodule=make_folder(root))
            checkpoint = folder / f"v{number}" / "weights" / "lightning" / "model.ckpt"
            assert Path(engine.best_model_path) == checkpoint
            assert (folder / "latest").resolve() == folder / f"v{number}"
        assert sorted(path.parents[2].name for path in folder.glob("v*/weights/lightning/*")) == ["v0", "v1"]

    @pytest.mark.slow
    def test_each_test_of_the_command_line_has_its_own_checkpoint(self, tmp_path: Path, command: list[str]) -> None:
        write_folder(tmp_path / "parts", good=[40], spots=[200])
        data = ("--data", "Folder", "--data.name", "parts", "--data.root", "parts", "--data.normal_dir", "train")
        data += ("--data.abnormal_dir", "defect", "--data.val_split_mode", "same_as_test", "--data.num_workers", "0")
        for _ in range(2):
            assert anomalib(tmp_path, "test", *command, *data).returncode == 0
        folder = tmp_path / "results" / "FBClip" / "parts"
        assert (folder / "latest").resolve() == folder / "v1"
        files = {"config.yaml", "weights/lightning/model.ckpt"}
        for number in range(2):
            assert all((folder / f"v{number}" / file).is_file() for file in files)
        assert len(list(folder.glob("v*/weights/lightning/*"))) == 2

    def test_latest_leads_to_the_weights_of_a_training(self, tmp_path: Path, model: FBClip) -> None:
        root = write_folder(tmp_path / "parts", good=[40], spots=[200])
        make_engine(tmp_path / "results").fit(model, datamodule=make_folder(root))
        folder = tmp_path / "results" / "FBClip" / "parts"
        checkpoint = folder / "latest" / "weights" / "lightning" / "model.ckpt"
        assert checkpoint.is_file()
        for _ in range(2):
            engine = make_engine(tmp_path / "results")
            engine.predict(model, datamodule=make_folder(root), ckpt_path=checkpoint)
        assert checkpoint.is_file()
        assert [table.parent.name for table in tables(folder)] == ["v0", "v1"]

    def test_a_folder_latest_of_an_earlier_version(self, tmp_path: Path, model: FBClip) -> None:
        write_image(tmp_path / "photographs" / "part.png", 10, 200)
        latest = tmp_path / "results" / "FBClip" / "latest"
        write_image(latest / "images" / "old.png", 10)
        make_engine(tmp_path / "results").predict(model, data_path=tmp_path / "photographs")
        assert (latest.parent / "v0" / "images" / "old.png").is_file()
        assert latest.resolve() == latest.parent / "v1"

    def test_pictures_of_one_name(self, tmp_path: Path, model: FBClip) -> None:
        for folder in ("a/good", "b/good"):
            write_image(tmp_path / "photographs" / folder / "1.png", 10, 200)
        make_engine(tmp_path / "results").predict(model, data_path=tmp_path / "photographs")
        (table,) = tables(tmp_path)
        pictures = [row["picture"] for row in read(table)]
        assert len(set(pictures)) == 2
        assert all(Path(picture).is_file() for picture in pictures)

    def test_a_folder_for_pictures_of_the_users(
        self, tmp_path: Path, small_backbone: str, small_adapters: Path
    ) -> None:
        write_image(tmp_path / "photographs" / "part.png", 10, 200)
        visualizer = ImageVisualizer(output_dir=tmp_path / "pictures")
        model = FBClip(small_backbone, weights=small_adapters, visualizer=visualizer)
        for _ in range(2):
            make_engine(tmp_path / "results").predict(model, data_path=tmp_path / "photographs")
        assert len(list((tmp_path / "pictures").rglob("*.png"))) == 2
        assert visualizer.output_dir == tmp_path / "pictures"

    def test_lightnings_own_trainer(self, tmp_path: Path, model: FBClip) -> None:
        root = write_folder(tmp_path / "parts", good=[40], spots=[200])
        trainer = Trainer(
            default_root_dir=tmp_path / "out", logger=False, enable_checkpointing=False, accelerator="cpu"
        )
        for _ in range(2):
            trainer.predict(model, datamodule=make_folder(root))
        assert [table.parent for table in tables(tmp_path)] == [tmp_path / "out" / "v0", tmp_path / "out" / "v1"]

    @pytest.mark.parametrize("name", ["latest", "v0"])
    def test_an_empty_folder_of_another_process(self, tmp_path: Path, model: FBClip, name: str) -> None:
        write_image(tmp_path / "photographs" / "part.png", 10, 200)
        trainer = Trainer(default_root_dir=tmp_path / name, logger=False, enable_checkpointing=False, accelerator="cpu")
        assert claim_folder(tmp_path / "latest") == tmp_path / "v0"  # the other one has only begun
        trainer.predict(model, datamodule=make_folder(write_folder(tmp_path / "parts", good=[40], spots=[200])))
        assert [table.parent for table in tables(tmp_path)] == [tmp_path / "v1"]

    @pytest.mark.slow
    def test_at_once(self, tmp_path: Path, command: list[str]) -> None:
        write_image(tmp_path / "photographs" / "part.png", 10, 200)
        arguments = [*command, "--data", str(tmp_path / "photographs"), "--trainer.accelerator", "cpu"]
        processes = [
            subprocess.Popen([ANOMALIB, "predict", *arguments], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        for process in processes:
            output, _ = process.communicate(timeout=300)
            assert process.returncode == 0, output
        folders = [table.parent.name for table in tables(tmp_path)]
        assert folders == ["v0", "v1"]
        for table in tables(tmp_path):
            (row,) = read(table)
            assert Path(row["picture"]).is_relative_to(table.parent)
            assert (table.parent / "config.yaml").is_file()


def full_disk(self: Image.Image, path: Path, *args: object, **kwargs: object) -> None:
    del self, args, kwargs
    Path(path).write_bytes(b"half a picture")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def test_a_full_disk_leaves_no_half_picture(tmp_path: Path, model: FBClip, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        write_image(tmp_path / "photographs" / f"{name}.png", 10, 200)
    save, done = Image.Image.save, []

    def save_one(self: Image.Image, path: Path, *args: object, **kwargs: object) -> None:
        (full_disk if done else save)(self, path, *args, **kwargs)
        done.append(path)

    monkeypatch.setattr(Image.Image, "save", save_one)
    with pytest.raises(OSError, match="No space left"):
        make_engine(tmp_path / "results").predict(model, data_path=tmp_path / "photographs")
    (table,) = tables(tmp_path)
    (row,) = read(table)
    assert [path for path in (table.parent / "images").rglob("*") if path.is_file()] == [Path(row["picture"])]


FULL_DISK = """
import errno, os, sys
from PIL import Image
from anomalib_fbclip.results import records

def write(file, content, write=records._write_all, rows=[]):
    rows.append(content)
    if len(rows) > 6:  # the table's head, and two rows of each file
        file.write(content[:5])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "predictions.jsonl")
    write(file, content)

records._write_all = write
from anomalib.cli.cli import main
sys.argv[0] = "anomalib"
main()
"""


def test_a_full_disk_on_the_command_line(tmp_path: Path, command: list[str]) -> None:
    for index in range(5):
        write_image(tmp_path / "photographs" / f"{index}.png", 10, 200)
    arguments = ["predict", *command, "--data", str(tmp_path / "photographs"), "--trainer.accelerator", "cpu"]
    result = run(tmp_path, sys.executable, "-c", FULL_DISK, *arguments)
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert [line for line in result.stderr.splitlines() if line.startswith("error: ")] == [
        "error: [Errno 28] No space left on device: 'predictions.jsonl'"
    ]
    (table,) = tables(tmp_path)
    assert len(read(table)) == 2


def test_an_interrupt(tmp_path: Path, command: list[str]) -> None:
    """What was predicted is in the table."""
    for index in range(400):
        write_image(tmp_path / "photographs" / f"{index:03}.png", 10, 200)
    arguments = [*command, "--data", str(tmp_path / "photographs"), "--trainer.accelerator", "cpu"]
    process = subprocess.Popen([ANOMALIB, "predict", *arguments], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    table = tmp_path / "results" / "FBClip" / "v0" / "predictions.jsonl"
    while process.poll() is None and not (table.exists() and len(read(table)) >= 3):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert tables(tmp_path) == [table]
    rows = read(table)
    assert 3 <= len(rows) < 400
    assert all(Image.open(row["picture"]).load() for row in rows)
    with (table.with_suffix(".csv")).open() as file:
        assert len(file.readlines()) == len(rows) + 1
    assert not list(table.parent.rglob(".incomplete*"))


@pytest.mark.slow
def test_two_processes_count_each_image_once(tmp_path: Path, small_backbone: str, small_adapters: Path) -> None:
    """Of an odd number of images, of one batch and a half, of fewer images than processes."""
    datasets = {"five": ([40, 50, 60], [180, 200]), "three": ([40, 90], [200]), "one": ([], [200])}
    for name, (good, spots) in datasets.items():
        write_folder(tmp_path / "datasets" / name, good=good or [40], spots=spots)
        if not good:
            (tmp_path / "datasets" / name / "good" / "0.png").unlink()
            (tmp_path / "datasets" / name / "good").rmdir()
    script = Path(__file__).with_name("measure_in_two_processes.py")
    (tmp_path / "output").mkdir()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(script.parents[1])}
    command = [sys.executable, script, small_backbone, small_adapters, tmp_path / "datasets", tmp_path / "output"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    measure = runpy.run_path(str(script))["measure"]
    texts = [(tmp_path / "output" / f"{rank}.json").read_text(encoding="utf-8") for rank in range(2)]
    for name in datasets:
        root = tmp_path / "datasets" / name
        expected = measure(root, tmp_path / "single", str(small_backbone), str(small_adapters), devices=1)
        for text in texts:
            assert json.loads(text)[name] == pytest.approx(expected, abs=1e-6, nan_ok=True)


def test_a_precision_that_would_change_verdicts(tmp_path: Path, command: list[str]) -> None:
    write_image(tmp_path / "photographs" / "part.png", 10)
    result = anomalib(tmp_path, "predict", *command, "--data", "photographs", "--trainer.precision", "bf16-true")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    (error,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "bf16-true" in error
    assert "bf16-mixed" in error
