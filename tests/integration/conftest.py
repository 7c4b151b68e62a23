"""Engines and servers for the tests that need the whole thing."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from support.server import add_model, running_server
from support.tiny_gguf import tiny_random

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.server import Server


def llama_server() -> str | None:
    """Where a llama-server is, if there is one."""
    return os.environ.get("LLAMA_SERVER_PATH") or shutil.which("llama-server")


@pytest.fixture(scope="session", params=["llama-server", "embedded"])
def engine_environment(request: pytest.FixtureRequest) -> dict[str, str]:
    """The environment that makes a server choose this engine."""
    if request.param == "llama-server":
        found = llama_server()
        if found is None:
            pytest.skip("no llama-server: set LLAMA_SERVER_PATH")
        return {"LLAMA_SERVER_PATH": found}
    pytest.importorskip("xllamacpp")
    # Without one on PATH and without LLAMA_SERVER_PATH the embedded engine is what is left.
    return {"LLAMA_SERVER_PATH": "", "PATH": "/nonexistent"}


@pytest.fixture(params=["llama-server", "embedded"])
def engine(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """The settings that select an engine."""
    if request.param == "llama-server":
        found = llama_server()
        if found is None:
            pytest.skip("no llama-server: set LLAMA_SERVER_PATH")
        return {"llama_server_path": found}
    pytest.importorskip("xllamacpp")
    monkeypatch.delenv("LLAMA_SERVER_PATH", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    return {"llama_server_path": None}


@pytest.fixture(scope="module")
def chat_server(
    tmp_path_factory: pytest.TempPathFactory, engine_environment: dict[str, str]
) -> Iterator[Server]:
    """A server with `ai/tiny-script`, for tests that leave it as they found it."""
    directory = tmp_path_factory.mktemp("server")
    add_model(directory, "ai/tiny-script")
    with running_server(directory, **engine_environment) as server:
        yield server


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A directory whose store holds `ai/tiny-script` and the endless `ai/tiny-random`."""
    add_model(tmp_path, "ai/tiny-script")
    add_model(tmp_path, "ai/tiny-random", tiny_random)
    return tmp_path


@pytest.fixture
def server(models: Path) -> Iterator[Server]:
    """A server of one's own, with both models, on whichever engine is found first."""
    with running_server(models) as running:
        yield running
