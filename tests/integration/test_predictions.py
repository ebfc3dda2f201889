# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""What a prediction leaves behind: a table beside the heatmaps, and what is said on the screen and in the log."""

import json
import logging
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch, ImageItem, InferenceBatch, MVTecAD, PredictDataset
from anomalib.engine import Engine
from anomalib.post_processing import MEBinPostProcessor
from PIL import Image
from torch.utils.data import DataLoader

from anomalib_fbclip import FBClip
from support.command_line import anomalib
from support.schema import read_schema

SIZES = {"a.png": (80, 60), "b.jpg": (40, 90), "c.png": (56, 56)}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of several sizes, by name in width and height."""
    folder = tmp_path_factory.mktemp("photographs")
    stream = np.random.default_rng(0)
    for name, (width, height) in SIZES.items():
        Image.fromarray(stream.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def arguments(small_backbone: str, small_adapters: Path) -> dict[str, object]:
    return {"backbone": small_backbone, "weights": small_adapters}


def make_engine(root: Path) -> Engine:
    return Engine(default_root_dir=root, devices=1, accelerator="cpu", enable_progress_bar=False)


def make_dataloader(dataset: object, batch_size: int) -> DataLoader:
    return DataLoader(dataset, batch_size=batch_size, collate_fn=ImageBatch.collate)


def read_table(root: Path) -> list[dict]:
    """Read the latest table below a folder."""
    path = max(root.rglob("predictions.jsonl"), key=lambda path: path.parent.name)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        jsonschema.validate(row, read_schema())
    return rows


def test_table(
    tmp_path: Path, arguments: dict[str, object], photographs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = FBClip(**arguments, pixel_threshold=0.5)
    predictions = make_engine(tmp_path).predict(model, data_path=photographs)
    rows = read_table(tmp_path)
    assert [Path(row["path"]).name for row in rows] == sorted(SIZES)
    for row, prediction in zip(rows, predictions, strict=True):
        assert row["score"] == pytest.approx(prediction.pred_score.item())
        assert row["verdict"] == ("anomalous" if prediction.pred_label else "normal")
        assert (row["threshold"], row["pixel_threshold"]) == (0.5, 0.5)
    (images,) = tmp_path.rglob("images")
    assert {"predictions.csv", "predictions.jsonl"} <= {path.name for path in images.parent.iterdir()}
    screen = capsys.readouterr().out
    for row in rows:
        assert f"{row['path']}: {row['verdict']} (score {row['score']:.3f}, threshold 0.5, " in screen
    assert "3 images: " in screen
    assert f"Table: {images.parent / 'predictions'}.csv" in screen
    assert f"Heatmaps: {images}" in screen


def test_regions_are_in_pixels_of_each_image(
    tmp_path: Path,
    arguments: dict[str, object],
    photographs: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Though images of several sizes are resized to make a batch."""
    anomaly_map = torch.full((3, 56, 56), 0.25)
    anomaly_map[:, 28:42, 7:21] = 0.75
    model = FBClip(**arguments)
    found = InferenceBatch(pred_score=torch.full((3,), 0.75), anomaly_map=anomaly_map)
    monkeypatch.setattr(model.model, "forward", lambda _: found)
    make_engine(tmp_path).predict(model, make_dataloader(PredictDataset(photographs), batch_size=3))
    regions = {Path(row["path"]).name: row["regions"] for row in read_table(tmp_path)}
    assert regions == {
        "a.png": [{"box": [10, 30, 30, 45], "area": 300}],
        "b.jpg": [{"box": [5, 45, 15, 68], "area": 225}],
        "c.png": [{"box": [7, 28, 21, 42], "area": 196}],
    }


def test_thresholds(tmp_path: Path, arguments: dict[str, object], photographs: Path) -> None:
    model = FBClip(**arguments, image_threshold=0.0, pixel_threshold=0.0)
    make_engine(tmp_path).predict(model, data_path=photographs)
    for row in read_table(tmp_path):
        width, height = SIZES[Path(row["path"]).name]
        assert (row["threshold"], row["pixel_threshold"], row["verdict"]) == (0.0, 0.0, "anomalous")
        assert row["threshold_source"] == row["pixel_threshold_source"] == "given"
        assert row["regions"] == [{"box": [0, 0, width, height], "area": width * height}]


def test_thresholds_are_of_the_scores_that_are_shown(
    tmp_path: Path,
    arguments: dict[str, object],
    mvtec: Path,
) -> None:
    """After the normalisation, where there are labels."""
    datamodule = MVTecAD(root=mvtec, category="bottle", eval_batch_size=4, num_workers=0)
    model = FBClip(**arguments)
    make_engine(tmp_path / "default").predict(model, datamodule=datamodule)
    assert model.post_processor.image_min.isfinite()
    scores = sorted(row["score"] for row in read_table(tmp_path / "default"))
    threshold = (scores[-1] + scores[-2]) / 2
    model = FBClip(**arguments, image_threshold=threshold)
    make_engine(tmp_path / "given").predict(model, datamodule=datamodule)
    rows = read_table(tmp_path / "given")
    assert sorted(row["score"] for row in rows) == pytest.approx(scores)
    assert [row["verdict"] for row in rows] == ["anomalous" if row["score"] > threshold else "normal" for row in rows]
    assert [row["threshold"] for row in rows] == [pytest.approx(threshold, abs=1e-6)] * 8
    assert [row["verdict"] for row in rows].count("anomalous") == 1


@pytest.mark.parametrize(("given", "used"), [(None, 0.125), (0.875, 0.875)])
def test_thresholds_and_a_checkpoint(
    tmp_path: Path,
    arguments: dict[str, object],
    photographs: Path,
    given: float | None,
    used: float,
) -> None:
    """What is given now counts more than what was given when the checkpoint was made."""
    engine = make_engine(tmp_path / "before")
    engine.predict(FBClip(**arguments, image_threshold=0.125), data_path=photographs / "a.png")
    engine.trainer.save_checkpoint(tmp_path / "model.ckpt")
    model = FBClip(**arguments, image_threshold=given)
    make_engine(tmp_path / "after").predict(model, data_path=photographs / "a.png", ckpt_path=tmp_path / "model.ckpt")
    (row,) = read_table(tmp_path / "after")
    assert row["threshold"] == used


def test_thresholds_beside_another_post_processor(arguments: dict[str, object]) -> None:
    for post_processor in (False, MEBinPostProcessor()):
        with pytest.raises(ValueError, match="or a post-processor"):
            FBClip(**arguments, image_threshold=0.5, post_processor=post_processor)


def test_other_post_processors(tmp_path: Path, arguments: dict[str, object], photographs: Path) -> None:
    make_engine(tmp_path / "none").predict(FBClip(**arguments, post_processor=False), data_path=photographs)
    for row in read_table(tmp_path / "none"):
        assert 0 <= row["score"] <= 1
        assert {row[name] for name in ("verdict", "threshold", "pixel_threshold", "regions")} == {None}
    model = FBClip(**arguments, post_processor=MEBinPostProcessor(sample_rate=64))
    make_engine(tmp_path / "mebin").predict(model, data_path=photographs / "a.png")
    (row,) = read_table(tmp_path / "mebin")
    assert (row["threshold"], row["pixel_threshold"]) == (0.5, None)
    assert row["regions"] is not None


def test_images_in_memory(tmp_path: Path, arguments: dict[str, object], capsys: pytest.CaptureFixture[str]) -> None:
    images = [ImageItem(image=torch.rand(3, 30, 70)) for _ in range(3)]
    model = FBClip(**arguments, image_threshold=0.0, pixel_threshold=0.0)
    make_engine(tmp_path).predict(model, make_dataloader(images, batch_size=2))
    rows = read_table(tmp_path)
    assert [row["path"] for row in rows] == [None] * 3
    assert all(row["regions"] == [{"box": [0, 0, 70, 30], "area": 2100}] for row in rows)
    assert "Heatmaps" not in capsys.readouterr().out


def test_several_dataloaders_and_runs(tmp_path: Path, arguments: dict[str, object], photographs: Path) -> None:
    """Each prediction has a table of its own, in the order of the data."""
    engine, model = make_engine(tmp_path), FBClip(**arguments)
    engine.predict(model, data_path=photographs)
    assert [Path(row["path"]).name for row in read_table(tmp_path)] == sorted(SIZES)
    names = ["c.png", "a.png"]
    datasets = [PredictDataset(photographs / name) for name in names]
    engine.trainer.predict(model, [make_dataloader(dataset, batch_size=1) for dataset in datasets])
    assert [Path(row["path"]).name for row in read_table(tmp_path)] == names


def test_what_was_predicted_stays_when_a_prediction_fails(
    tmp_path: Path,
    arguments: dict[str, object],
    photographs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = FBClip(**arguments)
    predict = model.predict_step

    def fail_at_the_second(batch: ImageBatch, batch_idx: int) -> ImageBatch:
        if batch_idx:
            msg = "broken"
            raise RuntimeError(msg)
        return predict(batch, batch_idx)

    monkeypatch.setattr(model, "predict_step", fail_at_the_second)
    with pytest.raises(RuntimeError, match="broken"):
        make_engine(tmp_path).predict(model, data_path=photographs)
    (row,) = read_table(tmp_path)
    assert Path(row["path"]).name == "a.png"
    assert Path(row["picture"]).is_file()
    assert "Stopped." in capsys.readouterr().err


def test_what_is_in_use_is_logged_once(
    tmp_path: Path,
    arguments: dict[str, object],
    photographs: Path,
    mvtec: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="anomalib_fbclip")
    model = FBClip(**arguments)
    line = (
        f"FBClip: backbone fbclip-test-small with weights random; adapters trained on auxiliary "
        f"({arguments['weights']}); on cpu, in precision 32-true."
    )
    make_engine(tmp_path).predict(model, data_path=photographs)
    assert caplog.messages.count(line) == 1
    make_engine(tmp_path).test(model, datamodule=MVTecAD(root=mvtec, category="bottle", num_workers=0))
    assert caplog.messages.count(line) == 2


def test_the_answer_for_one_photograph(
    tmp_path: Path,
    small_backbone: str,
    small_adapters: Path,
    photographs: Path,
) -> None:
    """With a threshold and a visualizer of the user's, as typed on the command line."""
    result = anomalib(
        tmp_path,
        "predict",
        *("--model", "FBClip", "--model.backbone", small_backbone, "--model.weights", small_adapters),
        *("--model.image_threshold", "0", "--data", photographs / "a.png"),
        *("--model.visualizer", "ImageVisualizer", "--model.visualizer.output_dir", "heatmaps"),
        *("--model.visualizer.fields", "[anomaly_map]", "--model.visualizer.field_size", "[48, 32]"),
    )
    assert result.returncode == 0, result.stderr
    (row,) = read_table(tmp_path)
    assert f"{photographs / 'a.png'}: anomalous (score {row['score']:.3f}, threshold 0, " in result.stdout
    assert "Heatmaps: heatmaps" in result.stdout
    (heatmap,) = (tmp_path / "heatmaps").rglob("a.png")
    assert Image.open(heatmap).height == 32
    log = " ".join((result.stdout + result.stderr).split())
    assert "FBClip: backbone fbclip-test-small with weights random" in log
