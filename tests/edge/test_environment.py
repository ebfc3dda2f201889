# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""A machine on which nothing is installed but the wheel, and a library to run the model with."""

import json
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from anomalib_fbclip.contract.records import Record
from environments import REPOSITORY
from support.graphs import write_graph

IMPORTED = """
import runpy, sys
before = set(sys.modules)
try:
    runpy.run_module("anomalib_fbclip.edge", run_name="__main__", alter_sys=True)
except SystemExit as end:
    assert end.code == 0, end.code
packages = {name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)
print(*sorted(packages), file=sys.stderr)
"""


def with_dependencies(*names: str) -> set[str]:
    """List distributions, and what they require."""
    found: set[str] = set()
    waiting = [canonicalize_name(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            requirements = map(Requirement, metadata.requires(name) or [])
            waiting += [
                canonicalize_name(requirement.name)
                for requirement in requirements
                if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            ]
    return found


class Machine:
    """A virtual environment with the wheel and some of this environment's packages, which are linked into it."""

    def __init__(self, root: Path, wheel: Path, packages: set[str]) -> None:
        venv.create(root)
        self.root = root
        self.python = root / "bin" / "python"
        (site_packages,) = root.glob("lib/python*/site-packages")
        for package in packages:
            distribution = metadata.distribution(package)
            tops = {Path(file).parts[0] for file in distribution.files or []} - {"..", "__pycache__"}
            for top in tops:
                link = site_packages / top
                if not link.exists():
                    link.symlink_to(Path(str(distribution.locate_file(top))))
        pip = [sys.executable, "-m", "pip", "--python", self.python, "install", "--quiet", "--no-deps", "--no-index"]
        subprocess.run([*pip, wheel], check=True, stdin=subprocess.DEVNULL)

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.python, *arguments],
            cwd=self.root,
            env={"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )

    def knows(self, module: str) -> bool:
        return self.run("-c", f"import {module}").returncode == 0


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder]
    subprocess.run(build, cwd=REPOSITORY, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def openvino_machine(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Machine:
    return Machine(tmp_path_factory.mktemp("openvino"), wheel, with_dependencies("openvino", "pillow"))


@pytest.fixture(scope="module")
def onnx_runtime_machine(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Machine:
    pytest.importorskip("onnxruntime")
    return Machine(tmp_path_factory.mktemp("onnxruntime"), wheel, with_dependencies("onnxruntime", "pillow"))


def check_predictions(machine: Machine, model: Path, photographs: Path, runtime: str) -> None:
    output = machine.root / f"out of {model.parent.name} {model.name}"
    result = machine.run("-c", IMPORTED, model, photographs, "--output", output)
    assert result.returncode == 0, result.stderr
    assert runtime in result.stdout.splitlines()[0]
    lines = [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == 4
    assert all((machine.root / line["picture"]).is_file() for line in lines)
    imported = set(result.stderr.split())
    assert {"anomalib_fbclip", "PIL", "numpy"} <= imported
    assert not imported & {"anomalib", "cv2", "lightning", "onnx", "torch", "torchvision"}


def test_openvino(openvino_machine: Machine, tmp_path: Path, photographs: Path) -> None:
    for module in ("torch", "anomalib", "onnxruntime", "cv2"):
        assert not openvino_machine.knows(module)
    check_predictions(openvino_machine, write_graph(tmp_path / "model.xml"), photographs, "OpenVINO")
    check_predictions(openvino_machine, write_graph(tmp_path / "model.onnx"), photographs, "OpenVINO")


def test_the_schema_of_the_table_is_there(openvino_machine: Machine) -> None:
    code = "from anomalib_fbclip.contract.records import read_schema; print(*read_schema()['required'])"
    result = openvino_machine.run("-c", code)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.split() == list(Record._fields)


def test_onnx_runtime(onnx_runtime_machine: Machine, tmp_path: Path, photographs: Path) -> None:
    for module in ("torch", "anomalib", "openvino"):
        assert not onnx_runtime_machine.knows(module)
    check_predictions(onnx_runtime_machine, write_graph(tmp_path / "model.onnx"), photographs, "ONNX Runtime")
    xml = write_graph(tmp_path / "model.xml")
    result = onnx_runtime_machine.run("-m", "anomalib_fbclip.edge", xml, photographs, "--output", "other")
    assert result.returncode == 2
    assert result.stderr.endswith("needs a library to run it: pip install openvino\n")


def test_what_makes_the_model_known_to_anomalib_is_silent(openvino_machine: Machine) -> None:
    result = openvino_machine.run("-c", "import anomalib_fbclip, sys; print(anomalib_fbclip.__version__)")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"{metadata.version('anomalib-fbclip')}\n"


@pytest.mark.slow
def test_the_bundled_model(openvino_machine: Machine, bundled: Path, photographs: Path) -> None:
    check_predictions(openvino_machine, bundled, photographs, "OpenVINO")
