# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from anomalib.data import MVTecAD
from anomalib.engine import Engine

from anomalib_fbclip import FBClip
from anomalib_fbclip.lightning.trainer_run import TrainerRun

REFUSED = {"16-true": "16-mixed", "bf16-true": "bf16-mixed", "64-true": "32-true"}
"""Precisions of the trainer that can't be used, and what the message says to take."""


@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed"])
def test_precisions_that_can_be_used(precision: str) -> None:
    TrainerRun(SimpleNamespace(precision=precision)).check_precision()


@pytest.mark.parametrize("precision", REFUSED)
def test_precisions_that_can_not(precision: str) -> None:
    with pytest.raises(ValueError, match=rf"^Trainer precision '{precision}' .* {REFUSED[precision]}") as caught:
        TrainerRun(SimpleNamespace(precision=precision)).check_precision()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("precision", "run"),
    [("16-true", "fit"), ("bf16-true", "validate"), ("bf16-true", "test"), ("64-true", "predict")],
)
def test_the_engine_refuses_them_before_it_converts_the_model(
    small_backbone: str, small_adapters: Path, mvtec: Path, tmp_path: Path, precision: str, run: str
) -> None:
    parts = MVTecAD(mvtec, "bottle", num_workers=0)
    model = FBClip(small_backbone, weights=small_adapters)
    engine = Engine(accelerator="cpu", default_root_dir=tmp_path, logger=False, precision=precision)
    with pytest.raises(ValueError, match=f"take .*{REFUSED[precision]}"):
        getattr(engine, run)(model, datamodule=parts)
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}
    assert {tensor.dtype for tensor in model.post_processor.buffers()} == {torch.float32}
