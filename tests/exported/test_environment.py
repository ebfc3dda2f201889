# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""A machine on which nothing is installed but the wheel, and what the documentation says: no torch, no anomalib.

With OpenVINO, it is what the ``Dockerfile`` makes, but for the base image.
"""

import json
import re
import shutil
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from anomalib_fbclip.errors import OF_THE_LINE
from anomalib_fbclip.results.records import Record
from environments import REPOSITORY
from support.graphs import write_graph

EXPORT_PAGE = (REPOSITORY / "docs" / "export.md").read_text(encoding="utf-8")

IMPORTED = """
import sys
from anomalib_fbclip.__main__ import main
before = set(sys.modules)
code = main()
packages = {name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)
print(*sorted(packages), file=sys.stderr)
sys.exit(code)
"""

DOCUMENTED = re.search(r"^pip install ((?!--no-deps).+) && pip install --no-deps", EXPORT_PAGE, re.MULTILINE)[1]
"""What the documentation installs where there is no torch."""

DOCKERFILE = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")

LEFT_OUT = re.search(r"openvino/libs && rm -f (.+)$", DOCKERFILE, re.MULTILINE)[1].split()
"""Files of OpenVINO that the image does not have."""


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

    def run(self, *arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        return self._run(self.python, *arguments, **variables)

    def fbclip(self, *arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        return self._run(self.root / "bin" / "fbclip", *arguments, **variables)

    def _run(self, *command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.root,
            env={"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", **variables},
            capture_output=True,
            text=True,
            check=False,
        )

    def knows(self, module: str) -> bool:
        return self.run("-c", f"import {module}").returncode == 0


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, of the files that the Dockerfile takes."""
    folder, sources = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("sources")
    for names in re.findall(r"^COPY (?!--)(.+) /source\S*$", DOCKERFILE, re.MULTILINE):
        for name in names.split():
            (sources / name).symlink_to(REPOSITORY / name)
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder]
    subprocess.run(build, cwd=sources, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def openvino_machine(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Machine:
    machine = Machine(tmp_path_factory.mktemp("openvino"), wheel, with_dependencies(*DOCUMENTED.split()))
    (link,) = machine.root.glob("lib/python*/site-packages/openvino")
    source = link.resolve()
    link.unlink()
    shutil.copytree(source, link, ignore=shutil.ignore_patterns(*LEFT_OUT))
    return machine


@pytest.fixture(scope="module")
def onnx_runtime_machine(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Machine:
    pytest.importorskip("onnxruntime")
    packages = DOCUMENTED.replace("openvino", "onnxruntime").split()
    return Machine(tmp_path_factory.mktemp("onnxruntime"), wheel, with_dependencies(*packages))


@pytest.fixture(scope="module")
def bare_machine(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Machine:
    return Machine(tmp_path_factory.mktemp("bare"), wheel, with_dependencies("numpy", "pillow"))


def check_predictions(machine: Machine, model: Path, photographs: Path, runtime: str) -> None:
    output = machine.root / f"out of {model.parent.name} {model.name}"
    result = machine.run("-c", IMPORTED, photographs, "--model", model, "--output", output)
    assert result.returncode in {0, 1}, result.stderr
    assert runtime in result.stdout.splitlines()[0]
    rows = [json.loads(line) for line in (output / "v0" / "predictions.jsonl").read_text().splitlines()]
    assert len(rows) == 4
    assert result.returncode == any(row["verdict"] == "anomalous" for row in rows)
    assert all((machine.root / row["picture"]).is_file() for row in rows)
    assert (output / "v0" / "report.html").is_file()
    imported = set(result.stderr.split())
    assert {"PIL", "numpy", "jinja2", "rich"} <= imported
    assert not imported & {"anomalib", "cv2", "lightning", "onnx", "torch", "torchvision"}


def test_openvino(openvino_machine: Machine, tmp_path: Path, photographs: Path) -> None:
    for module in ("torch", "anomalib", "onnxruntime", "cv2"):
        assert not openvino_machine.knows(module)
    check_predictions(openvino_machine, write_graph(tmp_path / "model.xml"), photographs, "OpenVINO")
    check_predictions(openvino_machine, write_graph(tmp_path / "model.onnx"), photographs, "OpenVINO")


def test_the_image_has_what_the_documentation_installs() -> None:
    installed = re.findall(r"^RUN pip install .*--prefix /installed (.+)$", DOCKERFILE, re.MULTILINE)
    assert installed == [DOCUMENTED, "--no-deps /source"]
    tutorial = (REPOSITORY / "docs" / "tutorial.md").read_text(encoding="utf-8")
    assert f"\npip install {DOCUMENTED} {OF_THE_LINE['watchfiles']} && pip install --no-deps .\n" in tutorial


def check_line(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """One line, and never the exit code that means that a photograph is anomalous."""
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert all(word in line for word in words), line


def test_what_is_missing_is_named(bare_machine: Machine, tmp_path: Path, photographs: Path) -> None:
    result = bare_machine.fbclip(photographs, "--model", write_graph(tmp_path / "model.xml"))
    check_line(result, "pip install jinja2 rich")


def test_no_torch(openvino_machine: Machine, photographs: Path) -> None:
    check_line(openvino_machine.fbclip(photographs), "torch is missing: pip install anomalib-fbclip", "--model")


@pytest.mark.parametrize("arguments", [("--data", "MVTecAD"), ("compare", ".")])
def test_no_torch_for_the_protocol(openvino_machine: Machine, arguments: tuple[str, ...]) -> None:
    (openvino_machine.root / "results.csv").write_text("of a benchmark")
    result = openvino_machine.run("-m", "anomalib_fbclip.protocol", *arguments)
    check_line(result, "missing: pip install")


@pytest.mark.parametrize("statement", ["raise OSError('the disk is on fire')", "1 / 0", "raise KeyboardInterrupt"])
def test_a_library_that_is_broken(openvino_machine: Machine, tmp_path: Path, photographs: Path, statement: str) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "jinja2.py").write_text(statement)
    model = write_graph(tmp_path / "model.xml")
    result = openvino_machine.fbclip(photographs, "--model", model, PYTHONPATH=str(tmp_path / "broken"))
    assert result.returncode == (130 if "Interrupt" in statement else 2)
    assert len(result.stderr.splitlines()) == 1


def test_version(openvino_machine: Machine) -> None:
    result = openvino_machine.fbclip("--version")
    assert (result.returncode, result.stdout) == (0, f"fbclip {metadata.version('anomalib-fbclip')}\n")


def test_the_schema_of_the_table_is_there(openvino_machine: Machine) -> None:
    code = "from importlib.resources import files; print(files('anomalib_fbclip.results') / 'prediction.schema.json')"
    result = openvino_machine.run("-c", code)
    assert (result.returncode, result.stderr) == (0, "")
    schema = json.loads(Path(result.stdout.strip()).read_text(encoding="utf-8"))
    assert schema["required"] == list(Record._fields)


def test_onnx_runtime(onnx_runtime_machine: Machine, tmp_path: Path, photographs: Path) -> None:
    for module in ("torch", "anomalib", "openvino"):
        assert not onnx_runtime_machine.knows(module)
    check_predictions(onnx_runtime_machine, write_graph(tmp_path / "model.onnx"), photographs, "ONNX Runtime")
    xml = write_graph(tmp_path / "model.xml")
    check_line(onnx_runtime_machine.fbclip(photographs, "--model", xml), "pip install openvino")


def test_what_makes_the_model_known_to_anomalib_is_silent(openvino_machine: Machine) -> None:
    result = openvino_machine.run("-c", "import anomalib_fbclip, sys; print(anomalib_fbclip.__version__)")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"{metadata.version('anomalib-fbclip')}\n"


def test_a_line(wheel: Path, tmp_path: Path, photographs: Path) -> None:
    """A folder is watched until SIGTERM, and nothing of torch is imported or asked for."""
    machine = Machine(tmp_path / "machine", wheel, with_dependencies(*DOCUMENTED.split(), *OF_THE_LINE.values()))
    write_graph(tmp_path / "model.xml")
    command = [machine.python, "-c", IMPORTED, "watch", photographs, "--model", tmp_path / "model.xml"]
    command += ["--output", tmp_path / "results", "--webhook", "http://127.0.0.1:9/", "--mqtt", "mqtt://127.0.0.1:9/a"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        next(line for line in process.stdout if line.startswith("normal"))
        process.terminate()
        _, errors = process.communicate()
    assert process.returncode in {0, 1}, errors
    imported = set(errors.split())
    assert {"PIL", "numpy", "watchfiles", "httpx", "paho"} <= imported
    assert not imported & {"anomalib", "cv2", "lightning", "onnx", "torch", "torchvision"}


@pytest.mark.slow
def test_the_bundled_model(openvino_machine: Machine, bundled: Path, photographs: Path) -> None:
    check_predictions(openvino_machine, bundled, photographs, "OpenVINO")
