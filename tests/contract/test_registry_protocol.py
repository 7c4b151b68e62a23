"""Answers that registries in the world give and docker-registry does not, from a double."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from model_runner.errors import (
    DigestMismatch,
    RegistryError,
    RegistryUnauthorized,
    RegistryUnreachable,
    RemoteModelNotFound,
    UnsupportedModel,
)
from model_runner.store import Store
from support.oci_push import basic, make_artifact, noise, sha256
from support.pulling import Pulled, forget_logins, open_registry, pulled
from support.registry_double import RegistryDouble, registry_double

if TYPE_CHECKING:
    from pathlib import Path

    from support.registry_double import Handler

_LAYER = noise(100_000)
_MODEL = make_artifact(_LAYER)
_BLOB = f"/blobs/{sha256(_LAYER)}"


@pytest.fixture(autouse=True)
def docker_config(monkeypatch, tmp_path) -> Path:
    return forget_logins(monkeypatch, tmp_path)


@pytest.fixture
def store(tmp_path) -> Store:
    return Store.open(tmp_path / "models")


def _pull(store: Store, intercept: Handler | None) -> tuple[Pulled, RegistryDouble]:
    """Pull from a registry of which `intercept` answers a part."""

    async def main() -> tuple[Pulled, RegistryDouble]:
        async with registry_double(_MODEL, intercept) as double, open_registry(store) as client:
            return await pulled(client, f"{double.address}/odd/model:v1"), double

    return asyncio.run(main())


def _log_in(docker_config: Path, double: RegistryDouble) -> None:
    login = {"username": "user", "password": "secret"}
    docker_config.write_text(json.dumps({"auths": {double.address: login}}))


def _assert_arrived(store: Store, result: Pulled) -> None:
    assert result.model.id == _MODEL.id
    assert store.blobs.path(sha256(_LAYER)).read_bytes() == _LAYER


def test_a_registry_without_head(store: Store) -> None:
    async def no_head(request: web.Request) -> web.Response | None:
        return web.Response(status=405) if request.method == "HEAD" else None

    result, double = _pull(store, no_head)

    _assert_arrived(store, result)
    assert len(double.asked("GET", "/manifests/v1")) == 1


def test_a_registry_that_tells_no_digest(store: Store) -> None:
    async def no_digest(request: web.Request) -> web.Response | None:
        return web.Response(body=_MODEL.manifest) if "/manifests/" in request.path else None

    _assert_arrived(store, _pull(store, no_digest)[0])


@pytest.mark.parametrize("part", ["/manifests/sha256:", "/blobs/"])
def test_a_manifest_or_config_with_other_bytes(store: Store, part: str) -> None:
    async def changed(request: web.Request) -> web.Response | None:
        return web.Response(body=b"{}") if part in request.path else None

    with pytest.raises(DigestMismatch):
        _pull(store, changed)
    assert store.list() == []


def test_a_layer_that_is_longer_than_named(store: Store) -> None:
    async def longer(request: web.Request) -> web.Response | None:
        return web.Response(body=_LAYER + b"more") if _BLOB in request.path else None

    with pytest.raises(DigestMismatch):
        _pull(store, longer)
    assert not store.blobs.has(sha256(_LAYER))


@pytest.mark.parametrize("answer", ["all of it", "416", "another part", "a part without a place"])
def test_a_registry_that_cannot_resume_starts_over(store: Store, answer: str) -> None:
    store.blobs.incomplete_path(sha256(_LAYER)).write_bytes(_LAYER[:50_000])

    async def odd(request: web.Request) -> web.Response | None:
        if _BLOB not in request.path or "Range" not in request.headers:
            return None
        if answer == "all of it":
            return web.Response(body=_LAYER)
        if answer == "416":
            return web.Response(status=416)
        place = {"Content-Range": "bytes 7-99999/100000"} if answer == "another part" else {}
        return web.Response(status=206, body=_LAYER[7:], headers=place)

    result, double = _pull(store, odd)

    _assert_arrived(store, result)
    assert double.asked("GET", _BLOB)[0].headers["Range"] == "bytes=50000-"


def test_a_redirect_takes_the_range_along_and_leaves_the_login_behind(
    store: Store, docker_config: Path
) -> None:
    store.blobs.incomplete_path(sha256(_LAYER)).write_bytes(_LAYER[:60_000])

    async def main() -> None:
        async with registry_double(_MODEL) as storage:
            signed = f"http://127.0.0.1:{storage.port}{_BLOB}?signature=a%2Fb%3D&x=%7E"

            async def redirect(request: web.Request) -> web.Response | None:
                if request.headers.get("Authorization") != basic("user", "secret"):
                    return web.Response(status=401, headers={"WWW-Authenticate": "Basic"})
                if _BLOB in request.path:
                    return web.Response(status=307, headers={"Location": signed})
                return None

            async with (
                registry_double(_MODEL, redirect) as double,
                open_registry(store) as client,
            ):
                _log_in(docker_config, double)
                _assert_arrived(store, await pulled(client, f"{double.address}/odd/model:v1"))
            (request,) = storage.requests
            assert request.headers["Range"] == "bytes=60000-"
            assert "Authorization" not in request.headers
            assert request.raw_path.endswith("?signature=a%2Fb%3D&x=%7E")

    asyncio.run(main())


def test_a_401_from_where_a_redirect_leads_is_not_answered(
    store: Store, docker_config: Path
) -> None:
    async def main() -> None:
        async def greedy(request: web.Request) -> web.Response:
            return web.Response(status=401, headers={"WWW-Authenticate": "Basic"})

        async with registry_double(_MODEL, greedy) as thief:

            async def redirect(request: web.Request) -> web.Response:
                there = {"Location": f"http://127.0.0.1:{thief.port}{request.path}"}
                return web.Response(status=302, headers=there)

            async with (
                registry_double(_MODEL, redirect) as double,
                open_registry(store) as client,
            ):
                _log_in(docker_config, double)
                with pytest.raises(RegistryUnauthorized):
                    await pulled(client, f"{double.address}/odd/model:v1")
            assert all("Authorization" not in request.headers for request in thief.requests)

    asyncio.run(main())


def test_redirects_in_a_circle(store: Store) -> None:
    async def circle(request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": request.path})

    with pytest.raises(RegistryError, match="more than 10 times"):
        _pull(store, circle)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_registry_that_recovers(store: Store, status: int) -> None:
    async def busy(request: web.Request) -> web.Response | None:
        failures.append(request.path)
        return web.Response(status=status) if failures.count(request.path) < 3 else None

    failures: list[str] = []

    _assert_arrived(store, _pull(store, busy)[0])


def test_a_registry_that_does_not_recover(store: Store) -> None:
    async def broken(request: web.Request) -> web.Response:
        requests.append(request)
        return web.Response(status=503)

    requests: list[web.Request] = []
    with pytest.raises(RegistryUnreachable, match="answers 503"):
        _pull(store, broken)
    assert len(requests) == 3


def test_a_registry_that_forbids_in_its_own_words(store: Store) -> None:
    async def forbid(request: web.Request) -> web.Response | None:
        error = {"errors": [{"code": "DENIED", "message": "not for you"}]}
        return None if request.method == "HEAD" else web.json_response(error, status=403)

    with pytest.raises(RegistryUnauthorized, match=r"not for you \(DENIED\)"):
        _pull(store, forbid)


def test_a_layer_that_the_registry_has_lost(store: Store) -> None:
    async def lost(request: web.Request) -> web.Response | None:
        return web.Response(status=404) if _BLOB in request.path else None

    with pytest.raises(RemoteModelNotFound, match=sha256(_LAYER)):
        _pull(store, lost)
    assert store.list() == []


@pytest.mark.parametrize(
    "manifest",
    [b"<html>", b"[]", b"{}", b'{"manifests": [1]}', b'{"schemaVersion": 1, "fsLayers": []}'],
)
def test_a_manifest_that_is_none(store: Store, manifest: bytes) -> None:
    async def main() -> None:
        odd = replace(_MODEL, manifest=manifest)
        async with registry_double(odd) as double, open_registry(store) as client:
            await pulled(client, f"{double.address}/odd/model:v1")

    with pytest.raises(UnsupportedModel):
        asyncio.run(main())


def test_a_compressed_layer_is_refused_before_it_is_fetched(store: Store) -> None:
    fields = json.loads(_MODEL.manifest)
    fields["layers"][0]["mediaType"] = "application/vnd.cncf.model.weight.v1.tar+gzip"

    async def main() -> None:
        odd = replace(_MODEL, manifest=json.dumps(fields).encode())
        async with registry_double(odd) as double, open_registry(store) as client:
            await pulled(client, f"{double.address}/odd/model:v1")

    with pytest.raises(UnsupportedModel, match="compressed"):
        asyncio.run(main())


def test_a_file_that_a_model_has_twice_is_fetched_once(store: Store) -> None:
    twice = make_artifact(_LAYER, _LAYER)

    async def main() -> None:
        async with registry_double(twice) as double, open_registry(store) as client:
            result = await pulled(client, f"{double.address}/odd/model:v1")
            assert result.model.id == twice.id
            assert {message.total for message in result.messages[:-1]} == {len(_LAYER)}
            assert len(double.asked("GET", _BLOB)) == 1

    asyncio.run(main())
