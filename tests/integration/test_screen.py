# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""What anomalib's commands show of FBClip: what a user needs, once; and of other models what they showed before."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from anomalib_fbclip import bundled
from anomalib_fbclip.plugin import names_model
from support.command_line import ANOMALIB, CONFIGS, anomalib, environment

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


def lines_of(result: subprocess.CompletedProcess[str]) -> list[str]:
    """Lines of standard error, but for the one that is true of the small model only."""
    lines = result.stderr.splitlines()
    random = [line for line in lines if line.startswith("warning: open_clip has no weights for backbone ")]
    assert len(random) <= 1
    return [line for line in lines if line not in random]


PARTS = (
    *("--data", "SyntheticParts", "--data.root", "parts", "--data.image_size", "64", "--data.num_workers", "0"),
    *("--data.test_images", "4", "--data.train_images", "1"),
)


def test_predict(tmp_path: Path, photographs: Path, small_backbone: str, small_adapters: Path) -> None:
    """In a process of its own, so that what is said on imports is seen, too."""
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
    assert guess.startswith("warning: The verdicts are a guess")
    assert "few_shot_source" in guess
    said, counted, table, heatmaps, bar = result.stdout.splitlines()
    assert said.startswith("photographs/part.png: ")
    assert counted.startswith("1 image: ")
    assert table.startswith("Table: ")
    assert heatmaps.startswith("Heatmaps: ")
    assert bar.startswith("Predicting ")


def test_fitted_thresholds(fbclip: Command) -> None:
    result = fbclip("test", *PARTS)
    assert result.returncode == 0, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if "threshold" in line]
    assert line.startswith("Image threshold 0.")
    assert " on the model's scale, shown as 0.5 (from labels). Pixel threshold 0." in line
    assert line.endswith("shown as 0.5 (from masks).")
    assert "Warning" not in result.stderr
    assert "ckpt_path" not in result.stdout + result.stderr
    assert "seconds" not in result.stderr
    assert "Throughput" not in result.stderr


def test_export(fbclip: Command) -> None:
    result = fbclip("export", "--export_type", "torch", "--export_root", "exported")
    assert result.returncode == 0, result.stderr
    assert lines_of(result) == ["Exported model to exported/weights/torch/model.pt"]


@pytest.mark.parametrize("export_type", ["onnx", "openvino"])
def test_export_with_good_photographs(tmp_path: Path, fbclip: Command, export_type: str) -> None:
    """Also what libraries say of the values that they meet."""
    (tmp_path / "photographs/part.png").rename(tmp_path / "photographs/0.png")
    Image.new("RGB", (80, 60), "white").save(tmp_path / "photographs/1.png")
    result = fbclip("export", "--export_type", export_type, "--model.few_shot_source", "photographs")
    assert result.returncode == 0, result.stderr
    said, *steps, exported = lines_of(result)
    assert said.startswith("Thresholds from 2 good photographs: ")
    assert all(step.endswith(" ...") for step in steps)
    assert exported.startswith("Exported model to ")


@pytest.mark.parametrize("option", [["--config", "configs/few_shot.yaml"], ["--config=configs/data/visa.yaml"]])
def test_a_config_of_the_package_that_is_not_here(tmp_path: Path, option: list[str]) -> None:
    """In one line, without what anomalib's own imports warn of."""
    command = [ANOMALIB, "predict", *option]
    result = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    name = option[-1].rpartition("configs/")[2].removesuffix(".yaml")
    assert f"fbclip configs {name} > {Path(name).name}.yaml" in line


def test_warnings_that_a_user_can_act_on(fbclip: Command) -> None:
    result = fbclip("predict", "--data", "photographs", "--model.weights", "null")
    assert result.returncode == 0, result.stderr
    warning = "warning: The adapters are untrained (weights=None): scores mean nothing until they are trained."
    assert result.stderr.splitlines().count(warning) == 1


MISTAKES: dict[str, tuple[list[str], str]] = {
    "unknown argument": (["--model.backbon", "x"], "--model.backbon is no argument. Did you mean --model.backbone?"),
    "unlike any argument": (["--model.xyzzy", "x"], "--model.xyzzy is no argument. See --model.help."),
    "unknown argument of the trainer": (["--trainer.xyzzy", "1"], "Unrecognized arguments: --trainer.xyzzy 1"),
    "negative number": (["--model.k_shot", "-1"], "--model.k_shot: -1 does not conform to restriction v>=0"),
    "word for a number": (["--model.image_threshold", "high"], "--model.image_threshold: Expected a float, not high"),
    "word for a whole number": (["--trainer.max_epochs", "many"], "--trainer.max_epochs: Expected an int"),
    "threshold above 1": (["--model.image_threshold", "3"], "image_threshold must be in 0..1, as the scores are"),
    "unknown map": (["--model.few_shot_maps", "[foo]"], "Expected a Literal['references', 'text'], not foo"),
    "unknown view": (["--model.views", "[foo]"], "Views ['foo'] can't be used: choose"),
    "unknown backbone": (["--model.backbone", "ViT-foo"], "Unknown backbone 'ViT-foo'"),
    "no network": (
        ["--model.backbone", "ViT-B-32", "--model.weights", "null"],
        f".cache/clip/ViT-B-32.pt'. Or give a file as 'pretrained'. --model.backbone {bundled.NAME} needs no network.",
    ),
    "no weights": (["--model.weights", "mine.safetensors"], "Adapter weights 'mine.safetensors' do not exist."),
    "no data": (["--data", "nowhere"], "Path does not exist: "),
    "no checkpoint": (["--ckpt_path", "nowhere.ckpt"], "Checkpoint file not found: "),
    "no such precision": (["--trainer.precision", "bf16-true"], "take bf16-mixed, or --model.backbone_precision"),
}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("model: {class_path: FBClip, init_args: {backbon: x}}", "--model.backbon is no argument. Did you mean"),
        ("model: {class_path: FBClip}\nxyzzy: 1", "Subcommand 'predict' does not accept option 'xyzzy'"),
        ("model: {class_path: FBClip, init_args: [", "while parsing a flow "),
    ],
)
def test_a_mistake_in_a_config(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "mine.yaml").write_text(content)
    result = anomalib(tmp_path, "predict", "--config", "mine.yaml", "--data", "photographs")
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


@pytest.mark.parametrize("mistake", MISTAKES)
def test_an_error_is_one_line(mistake: str, fbclip: Command) -> None:
    arguments, message = MISTAKES[mistake]
    result = fbclip("predict", "--data", "photographs", *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = lines_of(result)
    assert line.startswith("error: ")
    assert message in line


def test_no_datamodule(fbclip: Command) -> None:
    result = fbclip("test", "--data", "photographs")
    assert result.returncode == 2
    assert result.stderr == "error: --data photographs is neither the name of a class nor a config file.\n"


def test_an_unknown_category(fbclip: Command) -> None:
    result = fbclip("test", "--data", "SyntheticParts", "--data.category", "xyzzy")
    assert result.returncode == 2
    (line,) = lines_of(result)
    assert line.startswith("error: SyntheticParts has no category 'xyzzy'.")


def test_where_an_error_comes_from(tmp_path: Path, photographs: Path) -> None:
    command = [ANOMALIB, "predict", "--model", "FBClip", "--model.views", "[foo]", "--data", photographs]
    debug = environment() | {"JSONARGPARSE_DEBUG": "1"}
    result = subprocess.run(command, cwd=tmp_path, env=debug, capture_output=True, text=True, check=False)
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


@pytest.mark.parametrize(
    "arguments",
    [
        "predict --model FBClip --data x",
        "predict --model=FBClip --data=x",
        "fit --model anomalib.models.FBClip",
        "test --model.class_path anomalib_fbclip.FBClip",
        "test --model.help FBClip",
        f"test --config {CONFIGS / 'quickstart.yaml'}",
        f"test --config={CONFIGS / 'quickstart.yaml'} --model.init_args.seed 1",
    ],
)
def test_commands_for_the_model(arguments: str) -> None:
    assert names_model(arguments.split())


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "predict",
        "--help",
        "predict --model Padim --data results/FBClip",
        "predict --model Padim --ckpt_path results/FBClip/model.ckpt",
        f"test --model Padim --config {CONFIGS / 'quickstart.yaml'}",
        f"test --config {CONFIGS / 'data' / 'visa.yaml'}",
        "test --config nowhere.yaml",
        f"benchmark --config {CONFIGS / 'benchmark' / 'folder_fbclip.yaml'}",
        "install --option FBClip",
    ],
)
def test_commands_for_other_models(arguments: str) -> None:
    assert not names_model(arguments.split())
