"""Packages of PyPI that the benchmark needs, each in an environment of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

from processes import BenchError


def root() -> Path:
    """Where the environments are kept from one run to the next."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "model-runner-bench"


@dataclass(frozen=True, slots=True)
class Package:
    """One package at one version."""

    name: str
    version: str
    extra: str = ""

    @property
    def directory(self) -> Path:
        """Its environment, one for each Python that made one."""
        python = f"py{sys.version_info.major}.{sys.version_info.minor}"
        return root() / f"{self.name}-{self.version}-{python}"

    @property
    def _complete(self) -> Path:
        return self.directory / ".complete"

    def present(self) -> bool:
        """Whether it can be run without being fetched first."""
        return self._complete.exists()

    def program(self, name: str) -> Path:
        """One of its commands."""
        return self.directory / "bin" / name

    def install(self) -> None:
        """Fetch it, unless it is here.

        Raises:
            BenchError: There is no wheel of it for this platform and Python, or no network.
        """
        if self.present():
            return
        requirement = f"{self.name}{self.extra}=={self.version}"
        print(f"fetching {requirement} into {self.directory} …", file=sys.stderr)
        shutil.rmtree(self.directory, ignore_errors=True)
        venv.create(self.directory, with_pip=True)
        pip: list[str | Path] = [self.program("python"), "-m", "pip", "install", "--quiet"]
        # Nothing is compiled here: what has no wheel is left out.
        options = ["--disable-pip-version-check", "--only-binary", ":all:"]
        done = subprocess.run(
            [*pip, *options, requirement], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            shutil.rmtree(self.directory, ignore_errors=True)
            reason = (done.stderr.strip() or "pip failed").splitlines()[-1]
            raise BenchError(f"{requirement} cannot be installed here: {reason}")
        self._complete.touch()
