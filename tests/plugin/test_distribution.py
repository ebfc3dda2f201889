# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""What the distributions contain, and what installing leaves behind."""

import re
import tarfile
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

from environments import REPOSITORY, Environment, Requirement

METADATA = f"anomalib_fbclip-{version('anomalib-fbclip')}.dist-info"

LICENSES = {f"{METADATA}/licenses/{name}" for name in ("LICENSE", "NOTICE")}

BUNDLED = {
    f"anomalib_fbclip/weights/bundled/{name}"
    for name in ("fbclip-small.json", "clip.safetensors", "adapters.safetensors", "MODEL_CARD.md")
}


def test_wheel_holds_the_package_and_what_makes_it_known(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names} == {
        "anomalib_fbclip",
        "anomalib_fbclip.pth",
        "anomalib_fbclip.start",
        METADATA,
    }
    assert {"anomalib_fbclip/py.typed", "anomalib_fbclip/protocol/published.csv", *LICENSES} <= names
    sources = {path.relative_to(REPOSITORY).as_posix() for path in REPOSITORY.glob("anomalib_fbclip/**/*.py")}
    assert sources == {name for name in names if name.endswith(".py")}


def test_wheel_holds_the_configs(wheel: Path):
    archive = zipfile.ZipFile(wheel)
    configs = {
        path.relative_to(REPOSITORY).as_posix(): path.read_bytes() for path in REPOSITORY.glob("configs/**/*.yaml")
    }
    held = {name for name in archive.namelist() if name.endswith(".yaml")}
    assert {name: archive.read(name) for name in held} == {f"anomalib_fbclip/{name}": configs[name] for name in configs}


def test_links_of_the_package_page_are_absolute(wheel: Path):
    page = zipfile.ZipFile(wheel).read(f"{METADATA}/METADATA").decode()
    targets = re.findall(r"\]\((.*?)\)", page)
    assert len(targets) > 20
    assert not [target for target in targets if not target.startswith("https://")]


def test_installed_configs(installed: Environment):
    """From a wheel, where there is no checkout, and from an editable one."""
    result = installed.run("fbclip", "configs", "quickstart")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == (REPOSITORY / "configs" / "quickstart.yaml").read_text(encoding="utf-8")


def test_source_distribution_holds_tests_and_tools(distributions: Path):
    (source,) = distributions.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    assert {
        "LICENSE",
        "NOTICE",
        "README.md",
        "pyproject.toml",
        "tests/conftest.py",
        "tools/__init__.py",
        *BUNDLED,
    } <= names


def test_wheel_holds_the_bundled_model(wheel: Path):
    archive = zipfile.ZipFile(wheel)
    assert set(archive.namelist()) >= BUNDLED
    weights = [archive.getinfo(name).file_size for name in BUNDLED if name.endswith(".safetensors")]
    assert sum(weights) <= 20_000_000


def test_uninstalling_leaves_nothing_behind(environment: Environment, requirement: Requirement):
    before = environment.files()
    environment.install(*requirement)
    environment.python("import anomalib_fbclip.plugin")
    added = {path.name for path in environment.files() - before}
    assert {"anomalib_fbclip.pth", "anomalib_fbclip.start", "fbclip"} <= added
    environment.pip("uninstall", "--yes", "anomalib-fbclip")
    assert environment.files() == before


def contents(environment: Environment) -> dict[Path, bytes]:
    """Read what the package has installed, but for what pip and Python write themselves."""
    folder = environment.site_packages
    paths = [path for path in folder.glob("anomalib_fbclip*/**/*") if path.is_file() and path.suffix != ".pyc"]
    paths = [*folder.glob("anomalib_fbclip.*"), *paths]
    written_by_pip = {"RECORD", "direct_url.json"}
    return {path.relative_to(folder): path.read_bytes() for path in paths if path.name not in written_by_pip}


def test_the_source_distribution_installs_the_same(
    environment: Environment, installed_wheel: Environment, distributions: Path
):
    (source,) = distributions.glob("*.tar.gz")
    environment.install(source)
    assert contents(environment) == contents(installed_wheel)


@pytest.mark.slow
def test_quickstart_where_it_is_installed(environment: Environment, wheel: Path):
    environment.install(wheel)
    assert environment.run("fbclip", "example").returncode == 0
    result = environment.run("anomalib", "test", "--config", REPOSITORY / "configs" / "quickstart.yaml")
    assert result.returncode == 0, result.stderr
    assert "pixel_AUPRO" in result.stdout
    assert list(environment.root.glob("results/FBClip/hazelnut/latest/images/**/*.jpg"))
