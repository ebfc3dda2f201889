# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Photographs, a machine without OpenVINO, and an exported model."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from anomalib.engine import Engine
from PIL import Image

from anomalib_fbclip import FBClip


@pytest.fixture
def without_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let OpenVINO seem to be missing."""
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(
        "anomalib_fbclip.exported.runtimes.find_spec", lambda name: None if name == "openvino" else find_spec(name)
    )


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A folder with images of several sizes: grey, but for a light spot in every second."""
    folder = tmp_path / "photographs"
    (folder / "more").mkdir(parents=True)
    for index, name in enumerate(("1.jpg", "2.png", "more/1.jpg", "more/3.PNG")):
        pixels = np.full((40 + 10 * index, 60, 3), 60, dtype=np.uint8)
        if index % 2:
            pixels[10:25, 20:40] = 200
        Image.fromarray(pixels).save(folder / name, quality=95)
    return folder


@pytest.fixture(scope="session")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of fbclip-small, of one layer and view: what reads images and runs files sees no other difference."""
    folder = tmp_path_factory.mktemp("bundled")
    model = FBClip("fbclip-small", feature_layers=[8], views=["spatial"])
    return Path(Engine(default_root_dir=folder).export(model, "openvino", folder))
