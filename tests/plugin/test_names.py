# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The model and the datamodules are found by name, with anomalib and the model as they are."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from environments import Environment

NAMES = """
import sys
from anomalib.data import AuxiliaryDataModule, MetaJson, get_datamodule
from anomalib.models import FBClip, get_model, list_models
import anomalib_fbclip
assert FBClip is anomalib_fbclip.FBClip
assert {"f_b_clip", "padim"} <= list_models()
assert not any("mixin" in name for name in list_models())

arguments = {"backbone": sys.argv[1], "weights": None}
for name in ("FBClip", "fbclip", "fb_clip", "f_b_clip"):
    assert type(get_model(name, **arguments)) is FBClip, name
for name in ("FBClip", "anomalib.models.FBClip"):
    assert type(get_model({"class_path": name, "init_args": arguments})) is FBClip, name
assert type(get_datamodule({"class_path": "MetaJson", "init_args": {"root": "nowhere"}})) is MetaJson
"""

COMMAND_LINE = """
from anomalib.cli import AnomalibCLI
model = ["--model", "FBClip", "--model.backbone", "ViT-B-32"]
data = ["--data", "AuxiliaryDataModule", "--data.sources", "MetaJson", "--data.sources.root", "nowhere"]
for subcommand in ("fit", "validate", "test", "train", "predict", "export"):
    try:
        AnomalibCLI([subcommand, *model, *data, "--print_config"])
    except SystemExit as exit:
        assert exit.code == 0, subcommand
"""

# Importing the libraries takes most of the time: each order gets a copy of a process that has done so.
ORDERS = """
import os, sys
import lightning.pytorch, open_clip, pandas, timm, torch, torchvision
assert not {name for name in sys.modules if name == "anomalib" or name.startswith("anomalib.")}
for first in sys.argv[1:]:
    if (child := os.fork()) == 0:
        __import__(first)
        import anomalib.data, anomalib.models, anomalib_fbclip
        named = [anomalib.models.FBClip, anomalib.data.AuxiliaryDataModule, anomalib.data.MetaJson]
        subclasses = [cls.__name__ for cls in anomalib.models.AnomalibModule.__subclasses__()]
        good = named[0] is anomalib_fbclip.FBClip and subclasses.count("FBClip") == 1
        os._exit(0 if good else 1)
    assert os.waitpid(child, 0)[1] == 0, first
"""


def test_python_and_every_subcommand_find_the_names(installed_wheel: Environment, small_backbone: str):
    configs = installed_wheel.python(NAMES + COMMAND_LINE, small_backbone)
    assert configs.count("class_path: anomalib_fbclip.FBClip\n") == 6
    assert configs.count("class_path: anomalib_fbclip.data.AuxiliaryDataModule\n") == 6
    assert configs.count("class_path: anomalib_fbclip.data.MetaJson\n") == 6


def test_names_are_there_whatever_is_imported_first(installed_wheel: Environment):
    installed_wheel.python(
        ORDERS,
        "anomalib.data",
        "anomalib.models.components",
        "anomalib.engine",
        "anomalib_fbclip.lightning.callbacks.report",
        "anomalib_fbclip.data",
        "anomalib_fbclip.export.graph",
        "anomalib_fbclip.lightning.model",
        "anomalib_fbclip.modeling.fbclip",
    )


@pytest.mark.parametrize("requirement", ["editable"], indirect=True)  # the quickstart runs from a wheel
def test_predicting_by_bare_name(installed: Environment, small_backbone: str, tmp_path: Path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "photograph.png")
    command = ["predict", "--model", "FBClip", "--model.backbone", small_backbone, "--model.weights", "null"]
    result = installed.run("anomalib", *command, "--data", tmp_path, "--default_root_dir", tmp_path / "results")
    assert result.returncode == 0, result.stderr
    assert list(tmp_path.glob("results/**/photograph.png"))


def test_without_the_autoload_the_model_has_its_whole_name(installed_wheel: Environment):
    command = ["test", "--model.help", "anomalib_fbclip.FBClip"]
    result = installed_wheel.run("anomalib", *command, ANOMALIB_FBCLIP_AUTOLOAD="0")
    assert result.returncode == 0, result.stderr
    assert "--model.backbone" in result.stdout


def test_running_the_package_is_fbclip(installed_wheel: Environment):
    results = [
        installed_wheel.run(*command, "--help") for command in (("fbclip",), ("python", "-m", "anomalib_fbclip"))
    ]
    assert [result.returncode for result in results] == [0, 0]
    assert results[0].stdout == results[1].stdout
    assert results[0].stdout.startswith("usage: fbclip ")


def test_a_broken_model_leaves_anomalib_working(environment: Environment, wheel: Path):
    environment.install(wheel)
    with (environment.site_packages / "anomalib_fbclip" / "lightning" / "model.py").open("a") as file:
        file.write("\nraise OSError('the disk is on fire')\n")
    result = environment.run("anomalib", "test", "--model.help", "Padim")
    assert result.returncode == 0, result.stderr
    assert "--model.n_features" in result.stdout
    (line,) = [line for line in result.stderr.splitlines() if "fbclip" in line]
    assert line == (
        "anomalib-fbclip: FBClip cannot be used, because importing anomalib_fbclip.lightning.model failed: "
        "OSError: the disk is on fire"
    )
