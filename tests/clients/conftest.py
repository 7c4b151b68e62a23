"""One server with all models, for the SDKs of every dialect."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from support.client_models import CHATTERBOX, MODELS
from support.server import add_model, running_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.server import Server

# So that no SDK finds a developer's own accounts, or sends or fetches anything of its own accord.
_SETTINGS = {
    "LANGSMITH_TRACING": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
}
_ACCOUNTS = ("OPENAI_", "ANTHROPIC_", "OLLAMA_", "LANGCHAIN_", "LANGSMITH_", "LITELLM_")


@pytest.fixture(scope="session", autouse=True)
def _no_accounts() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith(_ACCOUNTS) or name.lower().endswith("_proxy"):
                patch.delenv(name)
        for name, value in _SETTINGS.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that has every model of MODELS, and room to keep them all loaded."""
    directory = tmp_path_factory.mktemp("clients")
    for name, make in MODELS.items():
        add_model(directory, name, make)
    with running_server(directory, MODEL_RUNNER_MAX_RUNNERS="16") as running:
        # So that a request with a short timeout is ended in mid-generation, not in mid-load.
        running.chat(CHATTERBOX, max_tokens=1)
        yield running


@pytest.fixture(scope="session")
def suite_environment(server: Server) -> dict[str, str]:
    """What a suite in a process of its own is told."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", *_SETTINGS) if name in os.environ}
    return {**kept, "MODEL_RUNNER_URL": server.url}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Packages of others may warn of each other; of what we do they may not."""
    for item in items:
        if "clients" in item.path.parts:
            item.add_marker(pytest.mark.filterwarnings("ignore::DeprecationWarning"))
            item.add_marker(pytest.mark.filterwarnings("ignore::ResourceWarning"))


def pytest_report_header() -> str:
    """Name the Node that the suites run with."""
    return f"node: {shutil.which('node') or 'missing'}"
