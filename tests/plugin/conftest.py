# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The distributions, and environments with the package installed from them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from environments import REPOSITORY, Environment, Requirement


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution and, built from it, the wheel."""
    folder = tmp_path_factory.mktemp("distributions")
    build = [sys.executable, "-m", "hatchling", "build", "--directory", folder]
    subprocess.run([*build, "--target", "sdist"], cwd=REPOSITORY, check=True, capture_output=True)
    (source,) = folder.glob("*.tar.gz")
    unpacked = folder / source.name.removesuffix(".tar.gz")
    shutil.unpack_archive(source, folder, filter="data")
    subprocess.run([*build, "--target", "wheel"], cwd=unpacked, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def wheel(distributions: Path) -> Path:
    (path,) = distributions.glob("*.whl")
    return path


@pytest.fixture(scope="session", params=["wheel", "editable"])
def requirement(request: pytest.FixtureRequest, wheel: Path) -> Requirement:
    """What ``pip install`` is given."""
    return {"wheel": (wheel,), "editable": ("--editable", REPOSITORY)}[request.param]


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory, requirement: Requirement) -> Environment:
    """An environment with the package, either way, to be left as it is."""
    return Environment.create(tmp_path_factory.mktemp("installed"), *requirement)


@pytest.fixture(scope="session")
def installed_wheel(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Environment:
    """An environment with the package from the wheel, to be left as it is."""
    return Environment.create(tmp_path_factory.mktemp("installed_wheel"), wheel)


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """An environment without the package."""
    return Environment.create(tmp_path / "environment")
