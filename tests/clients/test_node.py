"""The official SDKs of Node, each test of `node/*.test.mjs` as one of ours."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from support.suites import NODE, node_tests, run_node

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.suites import Outcome

TESTS = [pytest.param(file, name, id=f"{file.stem}: {name}") for file, name in node_tests()]


@pytest.fixture(scope="session")
def outcomes(suite_environment: dict[str, str]) -> Callable[[Path], dict[str, Outcome]]:
    """Runs a file once, however many of its tests are asked for."""
    if shutil.which("node") is None or not (NODE / "node_modules").exists():
        pytest.skip("no Node, or no SDKs: install Node, then `npm ci` in tests/clients/node")
    known: dict[Path, dict[str, Outcome]] = {}

    def run(file: Path) -> dict[str, Outcome]:
        if file not in known:
            known[file] = run_node(file, suite_environment)
        return known[file]

    return run


@pytest.mark.parametrize(("file", "name"), TESTS)
def test_node(outcomes, file, name):
    outcome = outcomes(file)[name]
    if outcome.failure is not None:
        pytest.fail(outcome.failure, pytrace=False)
