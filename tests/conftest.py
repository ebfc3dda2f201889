# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Files that lie beside the repository and are not part of it."""

from pathlib import Path

import pytest

from support.images import write_mvtec_category
from support.small import write_adapters, write_backbone

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Photographs with masks: ``<category>/{train/good,test/<defect>,ground_truth/<defect>}``."""
    path = SHARED / "data" / "real"
    if not path.is_dir():
        pytest.skip(f"no real photographs: {path} does not exist")
    return path


@pytest.fixture(scope="session")
def golden() -> Path:
    """What the reference implementation computed."""
    path = SHARED / "golden"
    if not path.is_dir():
        pytest.skip(f"no numbers of the reference implementation: {path} does not exist")
    return path


@pytest.fixture(scope="session")
def small_backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="session")
def small_adapters(tmp_path_factory: pytest.TempPathFactory, small_backbone: str) -> Path:
    return write_adapters(tmp_path_factory.mktemp("adapters"), small_backbone)


@pytest.fixture
def published_adapters_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the small backbone pass for the one that the authors' adapters fit."""
    monkeypatch.setattr("anomalib_fbclip.weights.PUBLISHED_BACKBONES", ("fbclip-test-small",))


@pytest.fixture(scope="session")
def mvtec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two categories in MVTec AD's layout."""
    root = tmp_path_factory.mktemp("mvtec")
    write_mvtec_category(root, "bottle", seed=1)
    return write_mvtec_category(root, "cable", seed=2)
