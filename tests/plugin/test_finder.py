# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""When and what is registered, with stand-ins of a few lines for anomalib and for the model."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from environments import REPOSITORY

MODELS = """\
from anomalib.data import Folder
from anomalib.models.components import Base
__all__ = ["Padim"]
class Padim(Base): ...
"""
STAND_INS = {
    "anomalib/__init__.py": "",
    "anomalib/data.py": "__all__ = ['Folder']\nclass Folder: ...\n",
    "anomalib/models/__init__.py": MODELS,
    "anomalib/models/components.py": "from anomalib.data import Folder\nclass Base: ...\n",
    "anomalib/engine.py": "from anomalib.models import Padim\n",
    "anomalib_fbclip/data/auxiliary.py": "from anomalib.data import Folder\nclass AuxiliaryDataModule(Folder): ...\n",
    "anomalib_fbclip/data/meta_json.py": "from anomalib.data import Folder\nclass MetaJson(Folder): ...\n",
    "anomalib_fbclip/lightning/model.py": """\
from anomalib.models.components import Base
from anomalib_fbclip.data import MetaJson
class FBClip(Base): ...
""",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in STAND_INS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    for name in ("__init__.py", "plugin.py", "data/__init__.py"):
        shutil.copy(REPOSITORY / "anomalib_fbclip" / name, tmp_path / "anomalib_fbclip" / name)
    return tmp_path


def run(tree: Path, code: str, *options: str, autoload: str = "1") -> subprocess.CompletedProcess[str]:
    """Run code with the stand-ins and nothing else that is installed."""
    start = f"import sys; sys.path.insert(0, {str(tree)!r}); from anomalib_fbclip.plugin import install; install()\n"
    return subprocess.run(
        [sys.executable, "-I", "-S", *options, "-c", start + code],
        env={**os.environ, "ANOMALIB_FBCLIP_AUTOLOAD": autoload},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    "first",
    [
        "import anomalib.models",
        "import anomalib.data",
        "import anomalib.engine",
        "import anomalib.models.components",
        "from anomalib.models import FBClip",
        "from anomalib.data import AuxiliaryDataModule, MetaJson",
        "import anomalib_fbclip.data",
        "from anomalib_fbclip.data import MetaJson",
        "from anomalib_fbclip.data.meta_json import MetaJson",
        "import anomalib_fbclip.lightning.model",
        "from anomalib_fbclip import FBClip",
        "import importlib.util; importlib.util.find_spec('anomalib.models')",
        "install()",
        "import anomalib.models, importlib; importlib.reload(anomalib.models)",
    ],
)
def test_names_are_there_whatever_is_imported_first(tree: Path, first: str):
    code = f"""
{first}
import anomalib.data, anomalib.models
from anomalib.data import Folder
print(anomalib.models.FBClip, anomalib.data.AuxiliaryDataModule, anomalib.data.MetaJson)
print(*sorted(anomalib.data.__all__), *sorted(cls.__name__ for cls in Folder.__subclasses__()))
"""
    result = run(tree, code)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == (
        "<class 'anomalib_fbclip.lightning.model.FBClip'> "
        "<class 'anomalib_fbclip.data.auxiliary.AuxiliaryDataModule'> "
        "<class 'anomalib_fbclip.data.meta_json.MetaJson'>\n"
        "AuxiliaryDataModule Folder MetaJson AuxiliaryDataModule MetaJson\n"
    )


def test_installing_after_anomalib_was_imported(tree: Path):
    code = """
sys.meta_path[:2] = []
import anomalib.models
assert not hasattr(anomalib.models, "FBClip")
install()
print(anomalib.models.FBClip, anomalib.data.MetaJson)
"""
    assert run(tree, code).stdout == (
        "<class 'anomalib_fbclip.lightning.model.FBClip'> <class 'anomalib_fbclip.data.meta_json.MetaJson'>\n"
    )


def test_star_import_includes_the_name(tree: Path):
    assert run(tree, "from anomalib.models import *; print(Padim, FBClip)").stdout == (
        "<class 'anomalib.models.Padim'> <class 'anomalib_fbclip.lightning.model.FBClip'>\n"
    )


def test_anomalibs_modules_stay_as_they_are(tree: Path):
    code = """
import anomalib.models, inspect
assert "exec_module" not in vars(anomalib.models.__loader__)
print(inspect.getsource(anomalib.models), end="")
"""
    assert run(tree, code).stdout == MODELS


def test_switched_off(tree: Path):
    code = "import anomalib.models; print(hasattr(anomalib.models, 'FBClip'), 'anomalib_fbclip.data' in sys.modules)"
    assert run(tree, code).stdout == "True True\n"
    assert run(tree, code, autoload="0").stdout == "False False\n"


@pytest.mark.parametrize("first", ["", "import anomalib_fbclip.lightning.model\n"])
def test_stepping_back_for_anomalibs_own(tree: Path, first: str):
    (tree / "anomalib/models/__init__.py").write_text(f"{MODELS}class FBClip(Base): ...\n")
    code = "import anomalib.models; print(anomalib.models.FBClip, anomalib.models.__all__)"
    result = run(tree, first + code)
    assert (result.stdout, result.stderr) == ("<class 'anomalib.models.FBClip'> ['Padim']\n", "")
    assert run(tree, f"{code}; assert 'anomalib_fbclip.lightning.model' not in sys.modules").returncode == 0


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("import missing_library", "ModuleNotFoundError: No module named 'missing_library'"),
        ("from anomalib.data import Gone", "ImportError: cannot import name 'Gone' from 'anomalib.data'"),
        ("FBClip = 1 / 0", "ZeroDivisionError: division by zero"),
        ("class FBClip(:", "SyntaxError: invalid syntax"),
    ],
)
def test_a_broken_model_gives_one_line_and_the_others_work(tree: Path, source: str, cause: str):
    (tree / "anomalib_fbclip/lightning/model.py").write_text(source)
    code = "import anomalib.models; print(anomalib.models.Padim, anomalib.models.__all__, anomalib.data.MetaJson)"
    result = run(tree, code, "-W", "error")
    assert (result.returncode, result.stdout) == (
        0,
        "<class 'anomalib.models.Padim'> ['Padim'] <class 'anomalib_fbclip.data.meta_json.MetaJson'>\n",
    )
    assert result.stderr.startswith(
        f"anomalib-fbclip: FBClip cannot be used, because importing anomalib_fbclip.lightning.model failed: {cause}",
    )
    assert result.stderr.count("\n") == 1


def test_what_was_made_before_a_failure_is_not_listed(tree: Path):
    code = "from anomalib.models import Base, Folder; print(*Base.__subclasses__(), *Folder.__subclasses__())"
    auxiliary = "<class 'anomalib_fbclip.data.auxiliary.AuxiliaryDataModule'>"
    meta_json = "<class 'anomalib_fbclip.data.meta_json.MetaJson'>"
    with (tree / "anomalib_fbclip/lightning/model.py").open("a") as file:
        file.write("FBClip.gone")
    assert run(tree, code).stdout == f"<class 'anomalib.models.Padim'> {auxiliary} {meta_json}\n"
    with (tree / "anomalib_fbclip/data/meta_json.py").open("a") as file:
        file.write("MetaJson.gone")
    result = run(tree, code)
    assert result.stdout == f"<class 'anomalib.models.Padim'> {auxiliary}\n"
    assert result.stderr.count("cannot be used") == result.stderr.count("\n") == 2


def test_importing_a_broken_model_raises(tree: Path):
    (tree / "anomalib_fbclip/lightning/model.py").write_text("import missing_library")
    result = run(tree, "from anomalib_fbclip import FBClip")
    assert result.returncode == 1
    assert result.stderr.endswith("ModuleNotFoundError: No module named 'missing_library'\n")
    assert "cannot be used" not in result.stderr


def test_an_error_of_anomalib_is_its_own_and_can_be_retried(tree: Path):
    code = f"""
import pathlib
models = pathlib.Path({str(tree)!r}, "anomalib/models/__init__.py")
good = models.read_text()
models.write_text("raise RuntimeError('not today')")
try:
    import anomalib.models
except RuntimeError as error:
    print(error)
models.write_text(good)
import anomalib.models
print(anomalib.models.FBClip)
"""
    result = run(tree, code, "-B")
    assert (result.stdout, result.stderr) == (
        "not today\n<class 'anomalib_fbclip.lightning.model.FBClip'>\n",
        "",
    )


def test_importing_from_two_threads(tree: Path):
    # Each thread holds the lock of the module that the other one wants next.
    for name in ("anomalib/models/__init__.py", "anomalib_fbclip/lightning/model.py"):
        (tree / name).write_text(f"import time\ntime.sleep(0.3)\n{STAND_INS[name]}")
    code = """
import importlib, threading
names = ["anomalib.models", "anomalib_fbclip.lightning.model"]
threads = [threading.Thread(target=importlib.import_module, args=(name,)) for name in names]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
import anomalib.models
print(anomalib.models.FBClip, len(anomalib.models.Base.__subclasses__()))
"""
    result = run(tree, code)
    assert (result.stdout, result.stderr) == ("<class 'anomalib_fbclip.lightning.model.FBClip'> 2\n", "")
