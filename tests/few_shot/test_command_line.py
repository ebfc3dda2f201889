# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Few-shot on anomalib's command line, and what it says of photographs that can't be used."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomalib_fbclip import FBClip
from support.command_line import ANOMALIB, anomalib, run
from support.photographs import write_png


@pytest.fixture
def model(small_backbone: str, small_adapters: Path) -> tuple[str | Path, ...]:
    return ("--model", "FBClip", "--model.backbone", small_backbone, "--model.weights", small_adapters)


@pytest.fixture
def data(mvtec: Path) -> tuple[str | Path, ...]:
    return ("--data", "MVTecAD", "--data.root", mvtec, "--data.category", "cable", "--data.num_workers", "0")


def read_table(root: Path) -> list[dict]:
    (path,) = root.rglob("predictions.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_predict(tmp_path: Path, model: tuple, good: Path, photographs: Path) -> None:
    result = anomalib(tmp_path, "predict", *model, "--model.few_shot_source", good, "--data", photographs)
    assert result.returncode == 0, result.stderr
    text = " ".join((result.stdout + result.stderr).split())
    assert "Compared with 5 good photographs: about" in text
    assert {row["threshold_source"] for row in read_table(tmp_path)} == {"good photographs"}


def test_test_with_k_shot(tmp_path: Path, model: tuple, data: tuple) -> None:
    result = anomalib(tmp_path, "test", *model, *data, "--model.k_shot", "2")
    assert result.returncode == 0, result.stderr
    assert "image_AUROC" in result.stdout
    assert "Compared with 2 good photographs" in " ".join((result.stdout + result.stderr).split())


def test_yaml(tmp_path: Path, small_backbone: str, small_adapters: Path, good: Path, photographs: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        f"""
model:
  class_path: FBClip
  init_args:
    backbone: {small_backbone}
    weights: {small_adapters}
    few_shot_source: {good}
    k_shot: 3
    reference_rotations: 2
    few_shot_maps: [references]
"""
    )
    result = anomalib(tmp_path, "predict", "--config", "config.yaml", "--data", photographs)
    assert result.returncode == 0, result.stderr
    assert "Compared with 3 good photographs" in " ".join((result.stdout + result.stderr).split())


def test_benchmark(tmp_path: Path, small_backbone: str, small_adapters: Path, mvtec: Path) -> None:
    (tmp_path / "benchmark.yaml").write_text(
        f"""
accelerator: cpu
benchmark:
  seed: 42
  model:
    class_path: FBClip
    init_args:
      backbone: {small_backbone}
      weights: {small_adapters}
      k_shot:
        grid: [0, 2]
  data:
    class_path: MVTecAD
    init_args:
      root: {mvtec}
      category: bottle
      num_workers: 0
"""
    )
    result = run(tmp_path, ANOMALIB, "benchmark", "--config", "benchmark.yaml")
    assert result.returncode == 0, result.stderr
    (table,) = tmp_path.glob("runs/benchmark/*/results.csv")
    assert len(table.read_text().splitlines()) == 3


def add_truncated(folder: Path) -> Path:
    content = (folder / "0.png").read_bytes()
    (folder / "torn.png").write_bytes(content[: len(content) // 2])
    return folder / "torn.png"


def add_text(folder: Path) -> Path:
    (folder / "text.png").write_text("no image")
    return folder / "text.png"


def add_tiny(folder: Path) -> Path:
    Image.new("RGB", (9, 60)).save(folder / "tiny.png")
    return folder / "tiny.png"


class TestBadInput:
    """One line, and exit code 2."""

    @staticmethod
    def check(result: subprocess.CompletedProcess[str], *parts: str) -> None:
        assert result.returncode == 2, result.stdout + result.stderr
        assert "Traceback" not in result.stdout + result.stderr
        (error,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        for part in parts:
            assert part in error

    @pytest.mark.parametrize("add", [add_truncated, add_text, add_tiny])
    def test_a_file(
        self, tmp_path: Path, model: tuple, good: Path, photographs: Path, add: Callable[[Path], Path]
    ) -> None:
        path = add(Path(shutil.copytree(good, tmp_path / "good")))
        self.check(
            anomalib(tmp_path, "predict", *model, "--model.few_shot_source", "good", "--data", photographs), path.name
        )

    def test_no_such_folder(self, tmp_path: Path, model: tuple, photographs: Path) -> None:
        result = anomalib(tmp_path, "predict", *model, "--model.few_shot_source", "nothing", "--data", photographs)
        self.check(result, "few_shot_source nothing does not exist")

    def test_an_empty_folder(self, tmp_path: Path, model: tuple, photographs: Path) -> None:
        (tmp_path / "empty").mkdir()
        result = anomalib(tmp_path, "predict", *model, "--model.few_shot_source", "empty", "--data", photographs)
        self.check(result, "few_shot_source empty has no good photographs")

    def test_too_few(self, tmp_path: Path, model: tuple, good: Path, photographs: Path) -> None:
        arguments = ("--model.few_shot_source", good, "--model.k_shot", "6")
        self.check(anomalib(tmp_path, "predict", *model, *arguments, "--data", photographs), "has 5", "k_shot is 6")

    def test_too_few_in_the_training_split(self, tmp_path: Path, model: tuple, data: tuple) -> None:
        result = anomalib(tmp_path, "test", *model, *data, "--model.k_shot", "5")
        self.check(result, "training split of MVTecAD has 4", "k_shot is 5")

    def test_k_shot_without_training_data(self, tmp_path: Path, model: tuple, photographs: Path) -> None:
        result = anomalib(tmp_path, "predict", *model, "--model.k_shot", "2", "--data", photographs)
        self.check(result, "k_shot alone", "few_shot_source")

    @pytest.mark.parametrize(
        ("option", "value"),
        [("k_shot", "-1"), ("reference_rotations", "0"), ("few_shot_maps", "[text, depth]")],
    )
    def test_an_argument(self, tmp_path: Path, model: tuple, photographs: Path, option: str, value: str) -> None:
        result = anomalib(tmp_path, "predict", *model, f"--model.{option}", value, "--data", photographs)
        assert result.returncode == 2, result.stdout + result.stderr
        assert "Traceback" not in result.stdout + result.stderr
        assert option in result.stderr

    @pytest.mark.parametrize(
        "arguments",
        [{"k_shot": -1}, {"reference_rotations": 0}, {"few_shot_maps": ["depth"]}, {"few_shot_maps": []}],
    )
    def test_an_argument_in_a_program(self, small_backbone: str, small_adapters: Path, arguments: dict) -> None:
        with pytest.raises(ValueError, match="can't be used") as raised:
            FBClip(small_backbone, weights=small_adapters, **arguments)
        assert "\n" not in str(raised.value)
        assert next(iter(arguments)) in str(raised.value)

    @pytest.mark.parametrize("kind", ["torch", "onnx", "openvino"])
    def test_an_export_with_k_shot_alone(self, tmp_path: Path, model: tuple, kind: str) -> None:
        result = anomalib(tmp_path, "export", *model, "--model.k_shot", "2", "--export_type", kind)
        assert result.returncode != 0
        assert "k_shot alone" in result.stderr.splitlines()[-1]
        assert "few_shot_source" in result.stderr.splitlines()[-1]
        assert not list(tmp_path.rglob("model.*"))


def write_modes(folder: Path) -> Path:
    """Photographs of one part in other sizes, modes and depths."""
    folder.mkdir()
    stream = np.random.default_rng(0)
    for index, size in enumerate([(60, 90), (80, 50), (56, 56)]):
        pixels = stream.integers(100, 140, size, dtype=np.uint8)
        image = Image.fromarray(pixels)
        image.save(folder / f"gray{index}.png")
        image.convert("RGBA").save(folder / f"alpha{index}.png")
        image.convert("P").save(folder / f"palette{index}.png")
        write_png(folder / f"deep{index}.png", pixels.astype(np.uint16)[..., None] * 257)
    return folder


def test_other_sizes_and_modes(
    small_backbone: str, small_adapters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All show the same.
    monkeypatch.setattr("anomalib_fbclip.data.reference_set.leave_out_copies", lambda found, _: found)
    model = FBClip(small_backbone, weights=small_adapters, reference_rotations=1)
    model.use_references(sorted(write_modes(tmp_path / "modes").iterdir()))
    assert model.model.decision.k_shot == 12
    # Among the others, each finds itself.
    assert model.model.decision.merge.spreads["references"].mean < 1e-5


@pytest.mark.slow
def test_two_processes_have_the_table_of_one(
    tmp_path: Path, small_backbone: str, small_adapters: Path, good: Path
) -> None:
    """One table of all, in the order of the data; one process gets more images than the other."""
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for index in range(7):
        Image.new("RGB", (60 + index, 70), (30 * index, 120, 120)).save(photographs / f"{index}.png")
    script = Path(__file__).with_name("predict_in_two_processes.py")
    scores = {}
    for devices in ("1", "2"):
        arguments = (devices, small_backbone, small_adapters, good, photographs, tmp_path / devices)
        result = run(tmp_path, sys.executable, script, *arguments)
        assert result.returncode == 0, result.stderr
        said = " ".join((result.stdout + result.stderr).split())
        assert said.count("Compared with 5 good photographs") == said.count("7 images: ") == 1
        scores[devices] = {Path(row["path"]).name: row["score"] for row in read_table(tmp_path / devices)}
        assert list(scores[devices]) == [f"{index}.png" for index in range(7)]
    assert scores["2"] == pytest.approx(scores["1"], abs=1e-6)
