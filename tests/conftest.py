# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Files that lie beside the repository and are not part of it, small models, and what tests leave to each other."""

import ctypes
import os
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from hypothesis import settings

from support.images import write_mvtec_category
from support.small import write_adapters, write_backbone

settings.register_profile("untimed", deadline=None)  # no test is about how long something takes
settings.load_profile("untimed")

# What tests build and install has the version of what they run, whatever was committed since.
os.environ["SETUPTOOLS_SCM_PRETEND_VERSION"] = version("anomalib-fbclip")

SHARED = Path(__file__).resolve().parents[2] / "shared"

SS_DISABLE = 2
"""Flag of sigaltstack(2): signals are handled on the stack of whoever gets them."""


class SignalStack(ctypes.Structure):
    """Linux's ``stack_t``."""

    _fields_ = (("pointer", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Have signals handled on the usual stack: OpenVINO 2026.4 leaves one that is gone, and the next signal is fatal.

    Each Core that loads the CPU plugin sets a signal stack of its own, and at its end frees it and puts back the one
    that it had found. When two Cores end in the order in which they began, the second puts back the freed one of the
    first. The next signal with a handler of Python then ends the process by a segmentation fault. torch's dataloaders
    set such a handler for SIGCHLD, and so it was where the next child ended. The smallest case::

        first, second = openvino.Core(), openvino.Core()
        for core in (first, second):
            core.get_property("CPU", "FULL_DEVICE_NAME")
        del core, first
        del second
        signal.signal(signal.SIGCHLD, lambda *_: None)
        subprocess.run(["true"])
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).sigaltstack(ctypes.byref(SignalStack(flags=SS_DISABLE)), None)


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
    monkeypatch.setattr("anomalib_fbclip.weights.source.PUBLISHED_BACKBONES", ("fbclip-test-small",))


@pytest.fixture(scope="session")
def mvtec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two categories in MVTec AD's layout."""
    root = tmp_path_factory.mktemp("mvtec")
    write_mvtec_category(root, "bottle", seed=1)
    return write_mvtec_category(root, "cable", seed=2)


@pytest.fixture
def full_disk() -> Iterator[None]:
    """A disk that is full after 4 KB: a limit on the size of files takes its place. Libraries raise the same errors."""
    import resource  # Windows has none

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
