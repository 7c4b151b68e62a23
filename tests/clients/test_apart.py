"""SDKs whose dependencies exclude ours, each test of `apart/*.py` as one of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.suites import LITELLM, apart_tests, run_apart

if TYPE_CHECKING:
    from support.suites import Outcome

TESTS = [pytest.param(file, name, id=f"{file.stem}: {name}") for file, name in apart_tests()]


@pytest.fixture(scope="session")
def outcomes(
    suite_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], Outcome]:
    """What became of all of them."""
    if not LITELLM.exists():
        pytest.skip(f"no LiteLLM in {LITELLM}: `make test` installs it")
    return run_apart(suite_environment, tmp_path_factory.mktemp("apart"))


@pytest.mark.parametrize(("file", "name"), TESTS)
def test_apart(outcomes, file, name):
    outcome = outcomes[file.stem, name]
    if outcome.failure is not None:
        pytest.fail(outcome.failure, pytrace=False)
