# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""What anomalib's commands show of FBClip: what a user needs, once; and of other models what they showed before."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from anomalib_fbclip.weights import bundled
from support.command_line import ANOMALIB, anomalib, environment

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    Image.new("RGB", (80, 60), "gray").save(folder / "part.png")
    return folder


@pytest.fixture
def fbclip(tmp_path: Path, photographs: Path, small_backbone: str, small_adapters: Path) -> Command:
    """Runs a command of anomalib for a small model."""

    def run_command(subcommand: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        model = ("--model", "FBClip", "--model.backbone", small_backbone, "--model.weights", small_adapters)
        return anomalib(tmp_path, subcommand, *model, *arguments)

    return run_command


NOT_OF_A_RUN = ("FutureWarning: ", "  ", "warning: open_clip has no weights for backbone ", "Loading CLIP ")
"""Lines of what anomalib's own imports warn of, and two about the backbone."""


def lines_of(result: subprocess.CompletedProcess[str]) -> list[str]:
    """Lines of standard error that are about the run."""
    lines = result.stderr.splitlines()
    about_backbone = [line for line in lines if line.startswith(NOT_OF_A_RUN)]
    assert len(set(about_backbone)) == len(about_backbone)
    return [line for line in lines if line not in about_backbone and NOT_OF_A_RUN[0] not in line]


def test_predict(tmp_path: Path, photographs: Path, small_backbone: str, small_adapters: Path) -> None:
    """In a process of its own, where anomalib's own imports have just warned."""
    model = ("--model", "FBClip", "--model.backbone", small_backbone, "--model.weights", small_adapters)
    result = subprocess.run(
        [ANOMALIB, "predict", *model, "--data", photographs, "--trainer.accelerator", "cpu"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    line, guess = lines_of(result)
    assert line.startswith("FBClip: backbone fbclip-test-small with weights random; adapters trained on ")
    assert guess.startswith("warning: The verdicts are unreliable")
    assert "few_shot_source" in guess
    said, counted, table, heatmaps, bar = result.stdout.splitlines()
    assert said.startswith("photographs/part.png: ")
    assert counted.startswith("1 image: ")
    assert table.startswith("Table: ")
    assert heatmaps.startswith("Heatmaps: ")
    assert bar.startswith("Predicting ")


def test_fitted_thresholds(fbclip: Command, mvtec: Path) -> None:
    result = fbclip(
        "test", "--data", "MVTecAD", "--data.root", mvtec, "--data.category", "cable", "--data.num_workers", "0"
    )
    assert result.returncode == 0, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if "threshold" in line]
    assert line.startswith("Image threshold 0.5 (from labels; 0.")
    assert "Pixel threshold 0.5 (from masks; 0." in line
    assert line.endswith("before normalization).")
    assert "Warning" not in result.stderr
    assert "ckpt_path" not in result.stdout + result.stderr
    assert "fewest wrong  0." in result.stdout
    assert "Table: results" in result.stdout
    assert "seconds" not in result.stderr
    assert "Throughput" not in result.stderr


def test_export(fbclip: Command) -> None:
    result = fbclip("export", "--export_type", "torch", "--export_root", "exported")
    assert result.returncode == 0, result.stderr
    assert lines_of(result) == ["Exported model to exported/weights/torch/model.pt"]


def test_export_with_good_photographs(tmp_path: Path, fbclip: Command) -> None:
    """Also what libraries say of the values that they meet."""
    (tmp_path / "photographs/part.png").rename(tmp_path / "photographs/0.png")
    Image.new("RGB", (80, 60), "white").save(tmp_path / "photographs/1.png")
    light = ("--model.views", "[spatial]")  # the one of whose values a library may say something
    result = fbclip("export", "--export_type", "openvino", "--model.few_shot_source", "photographs", *light)
    assert result.returncode == 0, result.stderr
    said, *steps, exported = lines_of(result)
    assert "Compared with 2 good photographs: " in said
    assert all(step.endswith(" ...") for step in steps)
    assert exported.startswith("Exported model to ")


def test_warnings_that_a_user_can_act_on(fbclip: Command) -> None:
    result = fbclip("predict", "--data", "photographs", "--model.weights", "null")
    assert result.returncode == 0, result.stderr
    warning = "warning: The adapters are untrained (weights=None): scores mean nothing until they are trained."
    assert result.stderr.splitlines().count(warning) == 1


MISTAKES: dict[str, tuple[list[str], str]] = {
    "unknown argument": (["--model.backbon", "x"], "'backbon'"),
    "unknown argument of the trainer": (["--trainer.xyzzy", "1"], "--trainer.xyzzy"),
    "negative number": (["--model.k_shot", "-1"], "k_shot"),
    "word for a number": (["--model.image_threshold", "high"], "image_threshold"),
    "threshold above 1": (["--model.image_threshold", "3"], "image_threshold"),
    "unknown map": (["--model.few_shot_maps", "[foo]"], "few_shot_maps"),
    "unknown view": (["--model.views", "[foo]"], "Views ['foo']"),
    "unknown backbone": (["--model.backbone", "ViT-foo"], "'ViT-foo'"),
    "no network": (["--model.backbone", "ViT-B-32", "--model.weights", "null"], f"--model.backbone {bundled.NAME}"),
    "no weights": (["--model.weights", "mine.safetensors"], "'mine.safetensors'"),
    "no data": (["--data", "nowhere"], "nowhere"),
    "no checkpoint": (["--ckpt_path", "nowhere.ckpt"], "nowhere.ckpt"),
    "no such precision": (["--trainer.precision", "bf16-true"], "bf16-mixed"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake(mistake: str, fbclip: Command) -> None:
    """Without a traceback."""
    arguments, culprit = MISTAKES[mistake]
    result = fbclip("predict", "--data", "photographs", *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert "Traceback" not in result.stderr
    _, _, error = result.stderr.rpartition("error: ")
    assert culprit in error


def test_a_value_that_the_model_refuses(fbclip: Command) -> None:
    result = fbclip("predict", "--data", "photographs", "--model.tiles", "0")
    assert result.stderr.splitlines()[-1].startswith("error: Tiles 0 are")


@pytest.mark.parametrize(
    ("content", "culprit"),
    [
        ("model: {class_path: FBClip, init_args: {backbon: x}}", "'backbon'"),
        ("model: {class_path: FBClip}\nxyzzy: 1", "'xyzzy'"),
        ("model: {class_path: FBClip, init_args: [", "parsing"),
    ],
)
def test_a_mistake_in_a_config(tmp_path: Path, content: str, culprit: str) -> None:
    (tmp_path / "mine.yaml").write_text(content)
    result = anomalib(tmp_path, "predict", "--config", "mine.yaml", "--data", "photographs")
    assert result.returncode == 2
    _, _, error = result.stderr.rpartition("error: ")
    assert culprit in error


@pytest.mark.parametrize(
    ("data", "culprit"),
    [
        (["photographs"], "photographs"),
        (["AuxiliaryDataModule", "--data.sources", "MVTecAD", "--data.val_split_ratio", "2"], "val_split_ratio must"),
    ],
)
def test_a_mistake_about_the_data(data: list[str], culprit: str, fbclip: Command) -> None:
    result = fbclip("test", "--data", *data)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    _, _, error = result.stderr.rpartition("error: ")
    assert culprit in error


def test_where_an_error_comes_from(fbclip: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JSONARGPARSE_DEBUG", "1")
    result = fbclip("predict", "--model.views", "[foo]", "--data", "photographs")
    assert result.returncode == 1
    assert "Traceback" in result.stderr


def test_other_models_are_as_they_were(tmp_path: Path) -> None:
    """With this package and without it, the screen of a mistake is the same."""
    command = [ANOMALIB, "test", "--model", "Padim", "--model.xyzzy", "1", "--data", "Folder", "--data.name", "parts"]
    screens = [
        subprocess.run(
            command,
            cwd=tmp_path,
            env=environment() | {"ANOMALIB_FBCLIP_AUTOLOAD": autoload},
            capture_output=True,
            text=True,
            check=False,
        )
        for autoload in "10"
    ]
    assert screens[0].stderr == screens[1].stderr
    assert "Does not validate against any of the Union subtypes" in screens[0].stderr
    assert "FutureWarning" in screens[0].stderr
    assert screens[0].returncode == screens[1].returncode == 2
