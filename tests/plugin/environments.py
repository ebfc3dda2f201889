# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Virtual environments in which the package is installed as a user installs it."""

import os
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

Requirement = tuple[str | Path, ...]


@dataclass(frozen=True)
class Environment:
    """A virtual environment that has this one's packages, though none of what they run when Python starts."""

    root: Path

    @classmethod
    def create(cls, root: Path, *requirement: str | Path) -> "Environment":
        """Make an environment, with anomalib's console script, and install the requirement, if any."""
        venv.create(root)
        environment = cls(root)
        # Only paths: the `.pth` files in there are not processed. They come last, after what is installed here.
        paths = [path for path in sys.path if Path(path).name in {"site-packages", "dist-packages"}]
        (environment.site_packages / "zz_dependencies.pth").write_text("\n".join(paths))
        script = environment.scripts / "anomalib"
        python = environment.scripts / "python"
        script.write_text(f"#!{python}\nimport sys\nfrom anomalib.cli.cli import main\nsys.exit(main())\n")
        script.chmod(0o755)
        if requirement:
            environment.install(*requirement)
        return environment

    @property
    def scripts(self) -> Path:
        """The folder with the commands."""
        return self.root / "bin"

    @property
    def site_packages(self) -> Path:
        """The folder with what is installed here."""
        return next(self.root.glob("lib/python*/site-packages"))

    def files(self) -> set[Path]:
        """Everything in the environment."""
        return {path for path in self.root.rglob("*") if path.is_file()}

    def run(self, command: str, *args: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run one of the environment's commands in its folder, away from the repository."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "ANOMALIB_"))}
        return subprocess.run(
            [self.scripts / command, *args],
            cwd=self.root,
            env={**inherited, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def python(self, code: str, *args: str | Path, **variables: str) -> str:
        """Run Python code, which has to succeed, and return what it prints."""
        result = self.run("python", "-c", code, *args, **variables)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def install(self, *requirement: str | Path) -> None:
        """Install the package, whether or not it is among this Python's packages too."""
        self.pip("install", "--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed", *requirement)

    def pip(self, *args: str | Path) -> None:
        """Run this Python's pip on the environment: installing another there takes longer than the tests."""
        pip = [sys.executable, "-m", "pip", "--python", self.scripts / "python", "--quiet", *args]
        result = subprocess.run(pip, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
