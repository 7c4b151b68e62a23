"""Logging in to a real registry: Basic, and Bearer with a token server."""

from __future__ import annotations

import asyncio
import base64
import json
import stat
from contextlib import ExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from model_runner.errors import RegistryUnauthorized
from model_runner.store import Store
from support.oci_push import basic, make_artifact, noise, push
from support.oci_registry import PASSWORD, USERNAME, RunningRegistry, oci_registry
from support.pulling import forget_logins, open_registry, pull, pulled
from support.token_server import IDENTITY_TOKEN, TokenServer, token_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

_MODEL = make_artifact(noise(20_000), noise(10_000, seed=1))


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """It wants a user and a password."""
    with oci_registry(tmp_path_factory.mktemp("registry"), htpasswd=True) as running:
        push(running, "private/model", "v1", _MODEL, authorization=basic(USERNAME, PASSWORD))
        yield running


@pytest.fixture(autouse=True)
def docker_config(monkeypatch, tmp_path) -> Path:
    return forget_logins(monkeypatch, tmp_path)


@pytest.fixture
def store(tmp_path) -> Store:
    return Store.open(tmp_path / "models")


def _log_in(config: Path, address: str, password: str = PASSWORD) -> None:
    """What `docker login` writes where there is no credential helper."""
    auth = base64.b64encode(f"{USERNAME}:{password}".encode()).decode()
    config.write_text(json.dumps({"auths": {address: {"auth": auth}}}))


def _install_helper(
    directory: Path, monkeypatch: pytest.MonkeyPatch, username: str, secret: str
) -> Path:
    """A credential helper that knows one login; the file where it notes what it was asked."""
    asked = directory / "asked"
    answer = json.dumps({"ServerURL": "any", "Username": username, "Secret": secret})
    helper = directory / "docker-credential-test"
    helper.write_text(f"#!/bin/sh\n{{ echo $1; cat; }} >{asked}\necho '{answer}'\n")
    helper.chmod(helper.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(directory), prepend=":")
    return asked


def test_basic_with_the_login_of_docker(
    registry: RunningRegistry, store: Store, docker_config: Path
) -> None:
    _log_in(docker_config, registry.http_address)

    assert pull(store, f"{registry.http_address}/private/model:v1").model.id == _MODEL.id


@pytest.mark.parametrize("kind", ["credsStore", "credHelpers"])
def test_basic_with_a_credential_helper(
    registry: RunningRegistry,
    store: Store,
    docker_config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    asked = _install_helper(tmp_path, monkeypatch, USERNAME, PASSWORD)
    helper = "test" if kind == "credsStore" else {registry.http_address: "test"}
    docker_config.write_text(json.dumps({kind: helper}))

    assert pull(store, f"{registry.http_address}/private/model:v1").model.id == _MODEL.id
    assert asked.read_text().split() == ["get", registry.http_address]


def test_no_login(registry: RunningRegistry, store: Store) -> None:
    with pytest.raises(RegistryUnauthorized) as refusal:
        pull(store, f"{registry.http_address}/private/model:v1")

    assert refusal.value.status == 401
    assert f"docker login {registry.http_address}" in str(refusal.value)


def test_a_wrong_password(registry: RunningRegistry, store: Store, docker_config: Path) -> None:
    _log_in(docker_config, registry.http_address, "wrong")

    with pytest.raises(RegistryUnauthorized) as refusal:
        pull(store, f"{registry.http_address}/private/model:v1")

    assert f"refused the login of `{USERNAME}`" in str(refusal.value)
    assert f"docker login {registry.http_address}" in str(refusal.value)
    assert "wrong" not in str(refusal.value)
    assert store.list() == []


def test_the_login_for_docker_hub_is_shown_to_nobody_else(
    registry: RunningRegistry, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_USERNAME", USERNAME)
    monkeypatch.setenv("DOCKER_PASSWORD", PASSWORD)

    with pytest.raises(RegistryUnauthorized, match="wants a user and a password"):
        pull(store, f"{registry.http_address}/private/model:v1")


def test_a_new_login_counts_without_a_restart(
    registry: RunningRegistry, store: Store, docker_config: Path
) -> None:
    reference = f"{registry.http_address}/private/model:v1"

    async def main() -> str:
        async with open_registry(store) as client:
            with pytest.raises(RegistryUnauthorized):
                await pulled(client, reference)
            await asyncio.to_thread(_log_in, docker_config, registry.http_address)
            return (await pulled(client, reference)).model.id

    assert asyncio.run(main()) == _MODEL.id


@asynccontextmanager
async def _token_registry(
    directory: Path, repository: str
) -> AsyncIterator[tuple[RunningRegistry, TokenServer]]:
    """A registry with a token server, and the model in a repository of it."""
    async with token_server(directory / "tokens") as tokens:
        with ExitStack() as stack:
            running = oci_registry(directory / "registry", token=tokens.auth)
            registry = await asyncio.to_thread(stack.enter_context, running)
            authorization = f"Bearer {tokens.sign(repository, 'pull', 'push')}"
            await asyncio.to_thread(
                push, registry, repository, "v1", _MODEL, authorization=authorization
            )
            yield registry, tokens


def test_bearer_for_everybody_asks_for_one_token(store: Store, tmp_path: Path) -> None:
    async def main() -> list[str]:
        async with _token_registry(tmp_path, "public/model") as (registry, tokens):
            async with open_registry(store) as client:
                result = await pulled(client, f"{registry.http_address}/public/model:v1")
            assert result.model.id == _MODEL.id
            return tokens.questions

    assert asyncio.run(main()) == ["GET anonymous repository:public/model:pull"]


@pytest.mark.parametrize("knows_get", [True, False])
def test_bearer_with_a_password(
    store: Store, tmp_path: Path, docker_config: Path, knows_get: bool
) -> None:
    async def main() -> list[str]:
        async with _token_registry(tmp_path, "private/model") as (registry, tokens):
            tokens.knows_get = knows_get
            await asyncio.to_thread(_log_in, docker_config, registry.http_address)
            async with open_registry(store) as client:
                result = await pulled(client, f"{registry.http_address}/private/model:v1")
            assert result.model.id == _MODEL.id
            return tokens.questions

    asked_by = f"GET {USERNAME}" if knows_get else "POST password"
    assert asyncio.run(main()) == [f"{asked_by} repository:private/model:pull"]


def test_bearer_with_an_identity_token_of_a_helper(
    store: Store, tmp_path: Path, docker_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _install_helper(tmp_path, monkeypatch, "<token>", IDENTITY_TOKEN)
    docker_config.write_text('{"credsStore": "test"}')

    async def main() -> list[str]:
        async with _token_registry(tmp_path, "private/model") as (registry, tokens):
            async with open_registry(store) as client:
                result = await pulled(client, f"{registry.http_address}/private/model:v1")
            assert result.model.id == _MODEL.id
            return tokens.questions

    assert asyncio.run(main()) == ["POST refresh_token repository:private/model:pull"]


@pytest.mark.parametrize("ready_made", [True, False])
def test_bearer_with_a_token_of_the_request(store: Store, tmp_path: Path, ready_made: bool) -> None:
    """It may be one to trade for a token, or one that opens the door itself."""

    async def main() -> list[str]:
        async with _token_registry(tmp_path, "private/model") as (registry, tokens):
            given = tokens.sign("private/model", "pull") if ready_made else IDENTITY_TOKEN
            reference = f"{registry.http_address}/private/model:v1"
            async with open_registry(store) as client:
                with pytest.raises(RegistryUnauthorized):
                    await pulled(client, reference)
                result = await pulled(client, reference, given)
            assert result.model.id == _MODEL.id
            return tokens.questions

    asyncio.run(main())


@pytest.mark.parametrize("login", [True, False])
def test_bearer_refused(store: Store, tmp_path: Path, docker_config: Path, login: bool) -> None:
    """With a wrong password by the token server, without one by the registry."""

    async def main() -> str:
        async with _token_registry(tmp_path, "private/model") as (registry, _):
            address = registry.http_address
            if login:
                await asyncio.to_thread(_log_in, docker_config, address, "wrong")
            async with open_registry(store) as client:
                with pytest.raises(RegistryUnauthorized) as refusal:
                    await pulled(client, f"{address}/private/model:v1")
            assert f"docker login {address}" in str(refusal.value)
            return str(refusal.value)

    message = asyncio.run(main())
    assert ("refused the login" if login else "wants a login") in message
