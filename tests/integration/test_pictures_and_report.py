# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Pictures of a prediction in the photograph's own size, and the report for those who ask for it."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch, ImageItem, MVTecAD
from anomalib.engine import Engine
from anomalib.visualization import ImageVisualizer
from PIL import Image
from torch.utils.data import DataLoader

from anomalib_fbclip import FBClip
from anomalib_fbclip.lightning.callbacks.report import FBClipReport, PhotographVisualizer
from anomalib_fbclip.results.pictures import draw_picture
from anomalib_fbclip.results.records import Record
from support.command_line import anomalib
from support.photographs import store_in_12_bits

SIZES = {"wide.png": (300, 120), "tall.jpg": (90, 200), "huge.png": (3000, 600)}


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Photographs of several sizes, by name in width and height."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    stream = np.random.default_rng(0)
    for name, (width, height) in SIZES.items():
        Image.fromarray(stream.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / name)
    return folder


@pytest.fixture
def arguments(small_backbone: str, small_adapters: Path) -> dict[str, object]:
    return {"backbone": small_backbone, "weights": small_adapters}


def make_engine(root: Path, *callbacks: object) -> Engine:
    return Engine(
        default_root_dir=root, devices=1, accelerator="cpu", enable_progress_bar=False, callbacks=list(callbacks)
    )


def pictures(root: Path) -> dict[str, Image.Image]:
    found = {}
    for path in root.rglob("v0/images/**/*.*"):
        with Image.open(path) as picture:
            found[f"{path.parent.name}/{path.name}"] = picture.convert("RGB")
    return found


def state_of(page: str) -> dict[str, object]:
    """What the page's script begins with."""
    (settings,) = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL)
    return json.loads(settings)


class TestPictures:
    def test_the_photographs_own_size(self, tmp_path: Path, arguments: dict, photographs: Path) -> None:
        make_engine(tmp_path).predict(FBClip(**arguments), data_path=photographs)
        sizes = {Path(name).name: picture.size for name, picture in pictures(tmp_path).items()}
        assert sizes == SIZES | {"huge.png": (2048, 410)}

    def test_what_is_drawn(self, tmp_path: Path, arguments: dict, photographs: Path) -> None:
        """As ``fbclip`` draws it, of what the table says."""
        (batch,) = make_engine(tmp_path).predict(FBClip(**arguments), data_path=photographs / "wide.png")
        (table,) = tmp_path.rglob("v0/predictions.jsonl")
        row = json.loads(table.read_text())
        expected = draw_picture(
            Image.open(photographs / "wide.png").convert("RGB"), batch.anomaly_map[0].numpy(), Record(**row)
        )
        (picture,) = pictures(tmp_path).values()
        assert np.array_equal(np.asarray(picture), np.asarray(expected))

    def test_a_photograph_that_is_stored_turned(self, tmp_path: Path, arguments: dict) -> None:
        """A run does not turn it, so neither does its picture."""
        photograph = tmp_path / "turned.jpg"
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (120, 60), "gray").save(photograph, exif=exif)
        report = FBClipReport()
        make_engine(tmp_path, report).predict(FBClip(**arguments), data_path=photograph)
        (picture,) = pictures(tmp_path).values()
        assert picture.size == (120, 60)
        (page,) = tmp_path.rglob("v0/report.html")
        assert 'width="120" height="60"' in page.read_text(encoding="utf-8")

    def test_images_in_memory(self, tmp_path: Path, arguments: dict) -> None:
        """They have no name under which a picture could be written."""
        images = [ImageItem(image=torch.rand(3, 30, 70)) for _ in range(2)]
        loader = DataLoader(images, batch_size=2, collate_fn=ImageBatch.collate)
        (batch,) = make_engine(tmp_path, FBClipReport()).predict(FBClip(**arguments), loader)
        assert len(batch.pred_score) == 2
        assert not pictures(tmp_path)
        assert not list(tmp_path.rglob("report.html"))

    @pytest.mark.parametrize("visualizer", [True, ImageVisualizer()], ids=["ours", "anomalib's"])
    def test_a_test_of_images_in_memory(self, tmp_path: Path, arguments: dict, visualizer: object) -> None:
        images = [
            ImageItem(image=torch.rand(3, 30, 70), gt_label=torch.tensor(index), gt_mask=torch.zeros(30, 70))
            for index in range(2)
        ]
        loader = DataLoader(images, batch_size=2, collate_fn=ImageBatch.collate)
        (metrics,) = make_engine(tmp_path).test(FBClip(**arguments, visualizer=visualizer), dataloaders=loader)
        assert "image_AUROC" in metrics
        assert not pictures(tmp_path)

    def test_anomalibs_visualizer(self, tmp_path: Path, arguments: dict, photographs: Path) -> None:
        visualizer = ImageVisualizer(fields=["image"], overlay_fields=[("image", ["anomaly_map"])], field_size=(64, 48))
        model = FBClip(**arguments, visualizer=visualizer)
        make_engine(tmp_path).predict(model, data_path=photographs)
        assert {picture.size for picture in pictures(tmp_path).values()} == {(128, 48)}

    def test_a_tests_pictures_show_the_ground_truth(self, tmp_path: Path, arguments: dict, mvtec: Path) -> None:
        data = MVTecAD(root=mvtec, category="bottle", num_workers=0)
        model = FBClip(**arguments)
        assert isinstance(model.visualizer, PhotographVisualizer)
        make_engine(tmp_path / "ours").test(model, datamodule=data)
        make_engine(tmp_path / "theirs").test(FBClip(**arguments, visualizer=ImageVisualizer()), datamodule=data)
        ours, theirs = (pictures(tmp_path / name) for name in ("ours", "theirs"))
        assert ours.keys() == theirs.keys()
        assert all(picture.height == 256 for picture in ours.values())
        assert all(np.array_equal(np.asarray(ours[name]), np.asarray(theirs[name])) for name in ours)


class TestReport:
    def test_without_being_asked_for(self, tmp_path: Path, arguments: dict, photographs: Path) -> None:
        make_engine(tmp_path).predict(FBClip(**arguments), data_path=photographs)
        assert not list(tmp_path.rglob("report.html"))

    @pytest.mark.parametrize("how", ["argument", "config"])
    def test_on_the_command_line(
        self, tmp_path: Path, small_backbone: str, small_adapters: Path, photographs: Path, how: str
    ) -> None:
        (photographs / "broken.png").write_bytes(b"no image")
        (tmp_path / "mine.yaml").write_text("trainer: {callbacks: [{class_path: FBClipReport}]}\n")
        asked = {"argument": ("--trainer.callbacks", "FBClipReport"), "config": ("--config", "mine.yaml")}[how]
        model = ("--model", "FBClip", "--model.backbone", small_backbone, "--model.weights", str(small_adapters))
        result = anomalib(tmp_path, "predict", *model, "--data", "photographs", *asked)
        assert result.returncode == 2, result.stderr
        assert "Report: results/FBClip/v0/report.html" in result.stdout.splitlines()
        page = (tmp_path / "results/FBClip/v0/report.html").read_text(encoding="utf-8")
        assert all(name in page for name in (*SIZES, "broken.png"))
        command = state_of(page)["command"]
        assert shlex.split(command)[:4] == ["anomalib", "predict", "--model", "FBClip"]
        assert command.endswith("--model.image_threshold {threshold} --model.pixel_threshold {pixel_threshold}")

    def test_a_white_level(self, tmp_path: Path, small_backbone: str, small_adapters: Path, photographs: Path) -> None:
        """Photographs of 12 bits are those of 8, on the command line, too."""
        (photographs / "tall.jpg").unlink()
        (photographs / "huge.png").unlink()
        model = ("--model", "FBClip", "--model.backbone", small_backbone, "--model.weights", str(small_adapters))
        others = ("--data", "photographs", "--trainer.callbacks", "FBClipReport", "--model.white_level", "4095")
        found = []
        for run in range(2):
            result = anomalib(tmp_path, "predict", *model, *others)
            assert result.returncode == 0, result.stderr
            page = (tmp_path / f"results/FBClip/v{run}/report.html").read_text(encoding="utf-8")
            (row,) = (tmp_path / f"results/FBClip/v{run}/predictions.jsonl").read_text().splitlines()
            picture = (tmp_path / f"results/FBClip/v{run}/images/photographs/wide.png").read_bytes()
            found.append((re.findall(r"data:image/jpeg[^\"']*", page), json.loads(row)["score"], picture))
            store_in_12_bits(photographs)
        assert found[0][0]
        assert found[0] == found[1]

    def test_of_a_test(self, tmp_path: Path, arguments: dict, mvtec: Path) -> None:
        data = MVTecAD(root=mvtec, category="bottle", num_workers=0)
        model = FBClip(**arguments, image_threshold=0.3)
        engine = make_engine(tmp_path, FBClipReport())
        for _ in range(2):
            engine.test(model, datamodule=data)
        pages = sorted(tmp_path.rglob("v[01]/report.html"))
        assert [path.parent.name for path in pages] == ["v0", "v1"]
        first, second = (path.read_text(encoding="utf-8") for path in pages)
        assert state_of(first)["thresholds"]["image"] == pytest.approx(0.3)
        assert state_of(first)["command"].startswith("FBClip(..., image_threshold={threshold}")
        assert first.count("<img") == second.count("<img") > 0

    def test_a_run_without_a_report_names_none(self, tmp_path: Path, arguments: dict, photographs: Path) -> None:
        """Where no image could be predicted, the report of the run before is not that of this one."""
        (tmp_path / "damaged").mkdir()
        (tmp_path / "damaged" / "part.png").write_bytes(b"no image")
        report = FBClipReport()
        engine, model = make_engine(tmp_path, report), FBClip(**arguments)
        engine.predict(model, data_path=photographs)
        assert report.path is not None
        engine.predict(model, data_path=tmp_path / "damaged")
        assert report.path is None

    def test_with_good_photographs(self, tmp_path: Path, arguments: dict, photographs: Path) -> None:
        model = FBClip(**arguments, few_shot_source=photographs)
        make_engine(tmp_path, FBClipReport()).predict(model, data_path=photographs / "wide.png")
        (page,) = tmp_path.rglob("v0/report.html")
        text = page.read_text(encoding="utf-8")
        assert f"<dd>{len(SIZES)} of {photographs}</dd>" in text
        assert f"adapters trained on auxiliary ({arguments['weights']})</dd>" in text

    def test_of_a_checkpoint(
        self, tmp_path: Path, small_backbone: str, small_adapters: Path, photographs: Path
    ) -> None:
        engine = make_engine(tmp_path, FBClipReport())
        model = FBClip(backbone=small_backbone, weights=small_adapters)
        engine.predict(model, data_path=photographs)
        engine.trainer.save_checkpoint(tmp_path / "mine.ckpt")
        engine.predict(FBClip(backbone=small_backbone), data_path=photographs, ckpt_path=tmp_path / "mine.ckpt")
        page = (tmp_path / "FBClip/latest/report.html").read_text(encoding="utf-8")
        assert f"({tmp_path / 'mine.ckpt'})</dd>" in page
        assert "<dd>none</dd>" in page
