"""Suites that run in a process of their own: Node's, and Python's that need other packages."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping

_ROOT = Path(__file__).parents[2]
_CLIENTS = _ROOT / "tests" / "clients"
NODE = _CLIENTS / "node"
APART = _CLIENTS / "apart"

# Packages that ours cannot live with, installed by `make test`.
LITELLM = _ROOT / ".cache" / "litellm"

_NODE_TEST = re.compile(r'^test\("([^"]+)"', re.MULTILINE)
_PYTHON_TEST = re.compile(r"^def (test_\w+)", re.MULTILINE)
_DEADLINE = 100.0

_Key = TypeVar("_Key")


@dataclass(frozen=True)
class Outcome:
    """What became of a test.

    Attributes:
        failure: What it says of its failure; None if it passed.
    """

    failure: str | None


def node_tests() -> list[tuple[Path, str]]:
    """The files of Node's suites, with the names of their tests."""
    return _tests(sorted(NODE.glob("*.test.mjs")), _NODE_TEST)


def apart_tests() -> list[tuple[Path, str]]:
    """The files of Python's suites, with the names of their tests."""
    return _tests(sorted(APART.glob("*.py")), _PYTHON_TEST)


def run_node(file: Path, environment: Mapping[str, str]) -> dict[str, Outcome]:
    """Run a suite of Node's."""
    reporter = NODE / "reporter.mjs"
    done = _run("node", f"--test-reporter={reporter}", str(file), environment=environment)
    outcomes = {}
    for line in done.stdout.splitlines():
        # An SDK may print what it warns of.
        if line.startswith('{"name":'):
            event = json.loads(line)
            outcomes[event["name"]] = Outcome(event["failure"])
    return _complete(outcomes, done)


def run_apart(environment: Mapping[str, str], directory: Path) -> dict[tuple[str, str], Outcome]:
    """Run all of Python's suites with the packages of LITELLM before ours; by file and test.

    All at once, for to import LiteLLM alone takes 5 s.
    """
    report = directory / "apart.xml"
    path = f"{LITELLM}:{_ROOT / 'tests'}"
    done = _run(
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null"),
        *(f"--rootdir={APART}", f"--junitxml={report}", *map(str, sorted(APART.glob("*.py")))),
        environment={**environment, "PYTHONPATH": path},
    )
    if not report.exists():
        raise AssertionError(done.stdout + done.stderr)
    outcomes = {}
    for case in ElementTree.parse(report).iter("testcase"):
        failures = [child.text or "" for child in case if child.tag in {"failure", "error"}]
        file = case.attrib["classname"].rpartition(".")[2]
        outcomes[file, case.attrib["name"]] = Outcome("\n".join(failures) or None)
    return _complete(outcomes, done)


def _tests(files: list[Path], pattern: re.Pattern[str]) -> list[tuple[Path, str]]:
    return [(file, name) for file in files for name in pattern.findall(file.read_text())]


def _run(*command: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env=dict(environment),
        cwd=NODE,
        capture_output=True,
        text=True,
        timeout=_DEADLINE,
        check=False,
    )


def _complete(
    outcomes: dict[_Key, Outcome], done: subprocess.CompletedProcess[str]
) -> dict[_Key, Outcome]:
    """A suite that did not get as far as its tests has failed as a whole."""
    if not outcomes:
        raise AssertionError(
            f"no test ran (exit code {done.returncode}):\n{done.stdout}{done.stderr}"
        )
    return outcomes
