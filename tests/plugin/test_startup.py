# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""What happens when Python starts in an environment with the package."""

import shutil
from importlib.metadata import version

from environments import Environment

WAITING = "print([finder.target for finder in sys.meta_path if type(finder).__module__ == 'anomalib_fbclip.plugin'])"
FOR_ALL = "['anomalib.models', 'anomalib.data']\n"


def test_python_starts_waiting_for_anomalib(installed: Environment):
    assert installed.python(f"import sys; {WAITING}") == FOR_ALL


def test_an_environment_variable_switches_it_off(installed: Environment):
    assert installed.python(f"import sys; {WAITING}", ANOMALIB_FBCLIP_AUTOLOAD="0") == "[]\n"


def test_spawned_workers_wait_for_anomalib(installed: Environment):
    code = (
        "import multiprocessing\n"
        "with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        f"    pool.apply(exec, ({f'import sys; {WAITING}; sys.stdout.flush()'!r},))\n"
    )
    assert installed.python(code) == FOR_ALL


def test_nothing_heavy_is_imported(installed: Environment):
    modules = set(installed.python("import sys, anomalib_fbclip; print(*sys.modules)").split())
    assert "anomalib_fbclip.plugin" in modules
    assert not modules & {"anomalib", "torch", "numpy", "lightning", "open_clip", "typing", "logging", "importlib.abc"}


def test_public_names_are_listed_before_they_are_imported(installed: Environment):
    code = "import anomalib_fbclip, sys; print(*dir(anomalib_fbclip)); assert 'torch' not in sys.modules"
    assert {"FBClip", "FBClipModel", "__version__"} <= set(installed.python(code).split())
    assert (
        installed.python("import anomalib_fbclip; print(anomalib_fbclip.__version__)")
        == f"{version('anomalib-fbclip')}\n"
    )


def test_a_name_that_does_not_exist(installed: Environment):
    result = installed.run("python", "-c", "from anomalib_fbclip import FBClap")
    assert result.returncode == 1
    assert "cannot import name 'FBClap' from 'anomalib_fbclip'" in result.stderr


def test_start_file_does_the_same(installed_wheel: Environment):
    # As PEP 829 has it from Python 3.15 on: "module:callable", called without arguments.
    code = (
        "import importlib, pathlib, sys\n"
        "start_file = pathlib.Path(sys.argv[1])\n"
        "sys.path.insert(0, str(start_file.parent))\n"
        "module, callable = start_file.read_text().strip().split(':')\n"
        "getattr(importlib.import_module(module), callable)()\n"
    )
    start_file = installed_wheel.site_packages / "anomalib_fbclip.start"
    result = installed_wheel.run("python", "-S", "-c", code + WAITING, start_file)
    assert (result.returncode, result.stdout) == (0, FOR_ALL), result.stderr


def test_a_package_that_is_gone_is_said_in_one_line(installed_wheel: Environment, environment: Environment):
    # As after moving the folder of an editable install. An empty package hides one of this Python's own.
    shutil.copy(installed_wheel.site_packages / "anomalib_fbclip.pth", environment.site_packages)
    (environment.site_packages / "anomalib_fbclip").mkdir()
    (environment.site_packages / "anomalib_fbclip" / "__init__.py").touch()
    result = environment.run("python", "-c", "print('works')")
    assert (result.returncode, result.stdout) == (0, "works\n")
    cause = "ModuleNotFoundError(\"No module named 'anomalib_fbclip.plugin'\")"
    # A set, because Python may read the file twice in a virtual environment.
    assert set(result.stderr.splitlines()) == {f"anomalib-fbclip is broken, reinstall or uninstall it: {cause}"}
