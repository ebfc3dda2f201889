# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Paths of version 0.1.0 that users can have typed still work, with a warning that names the new path."""

import importlib
import sys
from pathlib import Path

import pytest
from anomalib.metrics import Evaluator
from jsonargparse import ArgumentParser

from anomalib_fbclip.evaluation.evaluator import RankingEvaluator
from anomalib_fbclip.moved import MOVED
from support.command_line import run

# Names of each old path.
NAMES = {
    "adaptive_threshold": "best_threshold",
    "alignment": "TextAlignment",
    "anomaly_map": "AnomalyMapGenerator",
    "backbone": "ClipBackbone, create_clip, patch_grid, resolve_backbone, usual_pretrained",
    "comparison": "main",
    "disentanglement": "VIEWS, ForegroundBackgroundAttention, SoftForegroundMask, create_views",
    "disentanglement.attention": "AttentionWeights, ForegroundBackgroundAttention",
    "disentanglement.foreground_mask": "SoftForegroundMask",
    "disentanglement.suppression": "BackgroundSuppression",
    "disentanglement.views": "IdentityView, SemanticView, SpatialView",
    "evaluator": "PixelAUPRO, RankingEvaluator",
    "explanation": "Explanation, explain",
    "factory": "LAYER_WEIGHTS, create_model",
    "loss": "FBClipLoss",
    "nano": "ADAPTERS_FILE, CLIP_FILE, NAME",
    "nano.evaluate": "main",
    "nano.train": "train",
    "nano.weights": "read_clip, save_clip",
    "post_processing": "ThresholdPostProcessor",
    "pre_processing": "AntialiasedPreProcessor",
    "precision": "check_precision, full_precision",
    "prediction_table": "PredictionTable",
    "procedural": "CATEGORIES, draw_sample",
    "prompt_learner": "PromptLearner",
    "text_fusion": "GlobalStrategy, TextFusion",
    "torch_model": "Answer, FBClipModel",
    "weights": "WeightsUnavailableError, fetch_published",
}


@pytest.fixture(autouse=True)
def _not_imported_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    for path in MOVED:
        monkeypatch.delitem(sys.modules, f"anomalib_fbclip.{path}", raising=False)


@pytest.mark.filterwarnings("ignore:anomalib_fbclip.(disentanglement|nano) has moved:FutureWarning")  # the packages
@pytest.mark.parametrize("path", NAMES)
def test_old_paths(path: str) -> None:
    new_path = f"anomalib_fbclip.{MOVED[path][0]}"
    names: dict[str, object] = {}
    with pytest.warns(FutureWarning, match=rf"^anomalib_fbclip\.{path} has moved to {new_path}\b") as caught:
        exec(f"from anomalib_fbclip.{path} import {NAMES[path]}", names)
    new_modules = [importlib.import_module(f"anomalib_fbclip.{module}") for module in MOVED[path]]
    new_objects = [value for module in new_modules for value in vars(module).values()]
    for name in NAMES[path].split(", "):
        assert any(value is names[name] for value in new_objects), name
    assert {Path(warning.filename).name for warning in caught} == {"<string>"}, "the line that is to be changed"


def test_every_old_path_is_tested() -> None:
    assert NAMES.keys() == MOVED.keys()


@pytest.mark.filterwarnings("ignore:anomalib_fbclip.nano has moved:FutureWarning")
@pytest.mark.parametrize("path", ["anomalib_fbclip.evaluators", "anomalib_fbclip.nano.gone"])
def test_what_was_never_there(path: str) -> None:
    with pytest.raises(ModuleNotFoundError, match=f"No module named '{path}'"):
        importlib.import_module(path)


def test_a_class_path() -> None:
    """As in a config file of anomalib."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--evaluator", type=Evaluator)
    with pytest.warns(FutureWarning, match=r"moved to anomalib_fbclip\.evaluation\.evaluator"):
        config = parser.parse_object({"evaluator": {"class_path": "anomalib_fbclip.evaluator.RankingEvaluator"}})
    assert type(parser.instantiate_classes(config).evaluator) is RankingEvaluator


@pytest.mark.parametrize("path", ["comparison", "nano.evaluate", "nano.train"])
def test_programs(tmp_path: Path, path: str) -> None:
    """The program is the new one, and says so; a warning names it."""
    new_path = f"anomalib_fbclip.{MOVED[path][0]}"
    old, new = (
        run(tmp_path, sys.executable, "-m", module, "--help") for module in (f"anomalib_fbclip.{path}", new_path)
    )
    assert (old.returncode, new.returncode) == (0, 0)
    assert old.stdout.startswith("usage: ")
    assert old.stdout == new.stdout
    assert f"FutureWarning: anomalib_fbclip.{path} has moved to {new_path}." in old.stderr
    assert "has moved" not in new.stderr
