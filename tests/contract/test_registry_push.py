"""Pushing models to a real registry, and to one that breaks."""

from __future__ import annotations

import asyncio
import json
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from model_runner.errors import (
    DigestMismatch,
    InvalidReference,
    ModelNotFound,
    RegistryError,
    RegistryUnauthorized,
    RegistryUnreachable,
    StoreError,
)
from model_runner.store import Store
from support.fault_proxy import fault_proxy
from support.oci_push import basic, make_artifact, noise, push, sha256, stored_artifact
from support.oci_registry import PASSWORD, USERNAME, RunningRegistry, make_authority, oci_registry
from support.pulling import forget_logins, open_registry, pull, push_model, pushed, put_into
from support.registry_double import registry_double
from support.stores import unpack_fixture
from support.token_server import token_server

if TYPE_CHECKING:
    from pathlib import Path

    from model_runner.registry import Progress

MIB = 1024 * 1024
_LAYER = noise(8 * MIB)
_MODEL = make_artifact(_LAYER, noise(70_000, seed=1), b"")
_SIGNED = "?state=a%2Fb%3D%3D&x=%7E+"


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    with oci_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(autouse=True)
def docker_config(monkeypatch, tmp_path) -> Path:
    return forget_logins(monkeypatch, tmp_path)


@pytest.fixture
def store(tmp_path) -> Store:
    return Store.open(tmp_path / "models")


def _log_in(docker_config: Path, address: str, password: str = PASSWORD) -> None:
    login = {"username": USERNAME, "password": password}
    docker_config.write_text(json.dumps({"auths": {address: login}}))


def _assert_there(tmp_path: Path, reference: str, model_id: str) -> None:
    """Another store pulls it, and has the same bytes."""
    other = Store.open(tmp_path / "other")
    assert pull(other, reference).model.id == model_id
    artifact = stored_artifact(other.root, model_id)
    assert sha256(artifact.manifest) == model_id
    assert all(sha256(blob) == digest for digest, blob in artifact.blobs.items())


def test_what_docker_packaged_arrives_byte_for_byte(
    registry: RunningRegistry, tmp_path: Path
) -> None:
    store = Store.open(unpack_fixture(tmp_path))
    for model in store.list():
        reference = f"{registry.http_address}/docker/m{model.id[7:15]}:v1"
        store.add_tag(model.id, reference)
        push_model(store, reference)
        _assert_there(tmp_path, reference, model.id)


def test_the_stream_of_progress(registry: RunningRegistry, store: Store) -> None:
    reference = f"{registry.http_address}/progress/model:v1"
    put_into(store, _MODEL, reference)

    *progress, success = push_model(store, reference)

    assert (success.type, success.message) == ("success", "Model pushed successfully")
    assert {message.mode for message in [*progress, success]} == {"push"}
    for digest, size in zip(_MODEL.layers, (8 * MIB, 70_000, 0), strict=True):
        own = [message for message in progress if message.layer_id == digest]
        assert {(message.total, message.layer_size) for message in own} == {(size, size)}
        assert own[-1].layer_current == size
        assert all(
            message.message == f"Uploaded: {message.layer_current / MIB:.2f} MB" for message in own
        )
    assert {message.layer_id for message in progress} == set(_MODEL.layers)


def test_what_is_there_is_not_sent_again(registry: RunningRegistry, store: Store) -> None:
    reference = f"{registry.http_address}/again/model:v1"
    put_into(store, _MODEL, reference, f"{registry.http_address}/again/model:v2")
    push_model(store, reference)

    async def main() -> int:
        sent = 0

        async def count(request: web.Request) -> web.Response | None:
            nonlocal sent
            sent += len(await request.read())
            return None

        async with registry_double(_MODEL, count) as double, open_registry(store) as client:
            store.add_tag(_MODEL.id, f"{double.address}/again/model:v2")
            messages = await pushed(client, f"{double.address}/again/model:v2")
        done = {message.layer_id: message.layer_current for message in messages[:-1]}
        assert done == dict(zip(_MODEL.layers, (8 * MIB, 70_000, 0), strict=True))
        return sent

    assert asyncio.run(main()) == 0


def test_blobs_are_mounted_from_where_the_registry_has_them(
    registry: RunningRegistry, store: Store, tmp_path: Path
) -> None:
    known = f"{registry.http_address}/mount/known:v1"
    fresh = f"{registry.http_address}/mount/fresh:v1"
    push(registry, "mount/known", "v1", _MODEL)
    put_into(store, _MODEL, known, fresh)

    async def main() -> None:
        async with fault_proxy(registry.port) as proxy:
            # The names lead to the registry itself; the proxy counts by another port's name.
            store.add_tag(_MODEL.id, f"{proxy.address}/mount/known:v1")
            store.add_tag(_MODEL.id, f"{proxy.address}/mount/other:v1")
            async with open_registry(store) as client:
                await pushed(client, f"{proxy.address}/mount/other:v1")
            assert proxy.received < MIB

    asyncio.run(main())
    push_model(store, fresh)
    _assert_there(tmp_path, fresh, _MODEL.id)


def test_a_pin_is_pushed_under_its_tag_or_alone(registry: RunningRegistry, store: Store) -> None:
    name = f"{registry.http_address}/pinned/model"
    put_into(store, _MODEL, f"{name}:old")

    push_model(store, f"{name}:new@{_MODEL.id}")
    assert pull(store, f"{name}:new").model.id == _MODEL.id
    push_model(store, f"{name}@{_MODEL.id}")
    assert pull(store, f"{name}@{_MODEL.id}").model.id == _MODEL.id


def test_https_basic_and_a_wrong_password(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, docker_config: Path
) -> None:
    authority = make_authority(tmp_path / "tls")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
    with oci_registry(tmp_path / "registry", authority=authority, htpasswd=True) as registry:
        reference = f"{registry.address}/private/model:v1"
        put_into(store, _MODEL, reference)
        for password in (None, "wrong"):
            if password:
                _log_in(docker_config, registry.address, password)
            with pytest.raises(RegistryUnauthorized, match=f"docker login {registry.address}"):
                push_model(store, reference)
        _log_in(docker_config, registry.address)
        push_model(store, reference)
        _assert_there(tmp_path, reference, _MODEL.id)


@pytest.mark.parametrize("may_push", [True, False])
def test_tokens_are_asked_for_to_write(
    store: Store, tmp_path: Path, docker_config: Path, may_push: bool
) -> None:
    async def main() -> list[str]:
        async with token_server(tmp_path / "tokens") as tokens:
            if not may_push:
                tokens.actions = {"pull"}
            with ExitStack() as stack:
                running = oci_registry(tmp_path / "registry", token=tokens.auth)
                registry = await asyncio.to_thread(stack.enter_context, running)
                address = registry.http_address
                await asyncio.to_thread(_log_in, docker_config, address)
                names = [f"{address}/private/{name}:v1" for name in ("one", "two")]
                await asyncio.to_thread(put_into, store, _MODEL, *names)
                async with open_registry(store) as client:
                    if not may_push:
                        with pytest.raises(RegistryUnauthorized, match=USERNAME):
                            await pushed(client, names[0])
                        return tokens.questions
                    for name in names:
                        await pushed(client, name)
                assert (await asyncio.to_thread(pull, store, names[1])).model.id == _MODEL.id
                return tokens.questions

    questions = asyncio.run(main())
    assert questions[0] == f"GET {USERNAME} repository:private/one:pull,push"
    if may_push:
        # One login a repository, and one to mount from the first into the second.
        mount = "repository:private/two:pull,push repository:private/one:pull"
        assert f"GET {USERNAME} {mount}" in questions
        assert len(questions) <= 5


def test_a_mirror_cannot_be_written(
    registry: RunningRegistry, store: Store, tmp_path: Path
) -> None:
    with oci_registry(tmp_path / "mirror", mirror_of=registry) as mirror:
        reference = f"{mirror.http_address}/read/only:v1"
        put_into(store, _MODEL, reference)
        with pytest.raises(RegistryError, match="can only be read"):
            push_model(store, reference)


def test_a_connection_that_is_cut_is_no_end(
    registry: RunningRegistry, store: Store, tmp_path: Path
) -> None:
    async def main() -> str:
        async with fault_proxy(registry.port) as proxy:
            proxy.upward_cuts = [3 * MIB, 2 * MIB]
            reference = f"{proxy.address}/cut/model:v1"
            await asyncio.to_thread(put_into, store, _MODEL, reference)
            async with open_registry(store) as client:
                await pushed(client, reference)
            assert proxy.upward_cuts == []
            return f"{registry.http_address}/cut/model:v1"

    _assert_there(tmp_path, asyncio.run(main()), _MODEL.id)


def test_a_connection_that_is_always_cut(registry: RunningRegistry, store: Store) -> None:
    async def main() -> None:
        async with fault_proxy(registry.port) as proxy:
            proxy.upward_cuts = [MIB // 2] * 1000
            reference = f"{proxy.address}/cut/for-ever:v1"
            await asyncio.to_thread(put_into, store, _MODEL, reference)
            async with open_registry(store) as client:
                with pytest.raises(RegistryUnreachable):
                    await pushed(client, reference)

    asyncio.run(main())


class _Uploads:
    """Takes uploads as a registry does that keeps what has arrived, in chunks or not.

    Attributes:
        keeps: Whether it tells how far an upload has got.
        cut: Whether the first long body is cut after 3 MiB.
        bodies: Method and bytes of each body that came.
    """

    def __init__(self, *, keeps: bool, cut: bool = True) -> None:
        self.keeps = keeps
        self.cut = cut
        self.cut_after = 3 * MIB
        self.claims_more = 0
        self.bodies: list[tuple[str, int]] = []
        self._uploads: list[bytearray] = []

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        if request.method == "HEAD":
            return web.Response(status=404)
        if request.method == "POST":
            self._uploads.append(bytearray())
            # Absolute, and with a query that must come back as it is.
            there = f"http://{request.host}/v2/up/{len(self._uploads) - 1}{_SIGNED}"
            return web.Response(status=202, headers={"Location": there})
        if "/up/" not in request.path:
            return web.Response(status=201, headers={"Docker-Content-Digest": "?"})
        assert _SIGNED in request.raw_path
        data = self._uploads[int(request.path.rpartition("/")[2])]
        if request.method == "GET":
            if not self.keeps:
                return web.Response(status=404)
            received = {
                "Location": request.raw_path,
                "Range": f"0-{len(data) - 1 + self.claims_more}",
            }
            return web.Response(status=204, headers=received)
        return await self._take(request, data)

    async def _take(self, request: web.Request, data: bytearray) -> web.Response:
        before = len(data)
        async for piece in request.content.iter_any():
            data += piece
            if self.cut and len(data) >= self.cut_after:
                self.cut = False
                self.bodies.append((request.method, len(data)))
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
        self.bodies.append((request.method, len(data) - before))
        if request.method == "PATCH":
            assert request.headers["Content-Range"] == f"{before}-{8 * MIB - 1}"
            return web.Response(status=202, headers={"Location": request.raw_path})
        found = sha256(bytes(data))
        if found != request.query["digest"]:
            return web.Response(status=400)
        return web.Response(status=201, headers={"Docker-Content-Digest": found})


@pytest.mark.parametrize("keeps", [True, False])
def test_an_upload_goes_on_where_the_registry_has_got(store: Store, keeps: bool) -> None:
    uploads = _Uploads(keeps=keeps)
    _push_to(uploads, store)
    (first, arrived), *rest = uploads.bodies
    assert first == "PUT"
    if keeps:
        assert rest[:2] == [("PATCH", 8 * MIB - arrived), ("PUT", 0)]
    else:
        assert rest[0] == ("PUT", 8 * MIB)


def test_an_upload_of_which_all_has_arrived_is_only_closed(store: Store) -> None:
    uploads = _Uploads(keeps=True)
    uploads.cut_after = 8 * MIB
    _push_to(uploads, store)
    assert uploads.bodies[:2] == [("PUT", 8 * MIB), ("PUT", 0)]


def test_an_upload_of_which_more_has_arrived_than_there_is_begins_anew(store: Store) -> None:
    uploads = _Uploads(keeps=True)
    uploads.claims_more = 9 * MIB
    _push_to(uploads, store)
    assert uploads.bodies[1] == ("PUT", 8 * MIB)


def _push_to(uploads: _Uploads, store: Store) -> None:
    model = make_artifact(_LAYER)

    async def answer(request: web.Request) -> web.StreamResponse | None:
        if "/manifests/" in request.path:
            return web.Response(status=201, headers={"Docker-Content-Digest": model.id})
        return await uploads(request)

    async def main() -> None:
        async with registry_double(model, answer) as double:
            reference = f"{double.address}/resumed/model:v1"
            await asyncio.to_thread(put_into, store, model, reference)
            async with open_registry(store) as client:
                await pushed(client, reference)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("part", "status", "error", "text"),
    [
        ("/uploads/", 403, RegistryUnauthorized, "docker login"),
        ("/uploads/", 405, RegistryError, "can only be read"),
        ("/uploads/", 503, RegistryUnreachable, "answers 503"),
        ("/up/", 413, RegistryError, "takes nothing that large"),
        ("/up/", 507, RegistryUnreachable, "answers 507"),
        ("/manifests/", 400, RegistryError, "answers 400"),
        ("/manifests/", 404, RegistryError, "answers 404"),
    ],
)
def test_refusals_say_why(
    store: Store, part: str, status: int, error: type[Exception], text: str
) -> None:
    uploads = _Uploads(keeps=False, cut=False)

    async def refuse(request: web.Request) -> web.StreamResponse | None:
        if part in request.path and request.method != "HEAD":
            return web.Response(status=status)
        return await uploads(request)

    async def main() -> None:
        async with registry_double(_MODEL, refuse) as double:
            reference = f"{double.address}/refused/model:v1"
            await asyncio.to_thread(put_into, store, _MODEL, reference)
            async with open_registry(store) as client:
                with pytest.raises(error, match=text):
                    await pushed(client, reference)

    asyncio.run(main())


@pytest.mark.parametrize("part", ["/up/", "/manifests/"])
def test_a_registry_that_says_it_got_something_else(store: Store, part: str) -> None:
    uploads = _Uploads(keeps=False, cut=False)

    async def lie(request: web.Request) -> web.StreamResponse | None:
        if part in request.path and request.method == "PUT":
            async for _ in request.content.iter_any():  # `read` refuses more than 1 MiB
                pass
            return web.Response(status=201, headers={"Docker-Content-Digest": sha256(b"else")})
        return await uploads(request)

    async def main() -> None:
        async with registry_double(_MODEL, lie) as double:
            reference = f"{double.address}/lying/model:v1"
            await asyncio.to_thread(put_into, store, _MODEL, reference)
            async with open_registry(store) as client:
                with pytest.raises(DigestMismatch):
                    await pushed(client, reference)

    asyncio.run(main())


def test_an_upload_is_not_sent_with_the_login_to_another_host(
    store: Store, docker_config: Path
) -> None:
    async def main() -> None:
        async with registry_double(_MODEL, _Uploads(keeps=False)) as thief:

            async def elsewhere(request: web.Request) -> web.StreamResponse:
                if request.headers.get("Authorization") != basic(USERNAME, PASSWORD):
                    return web.Response(status=401, headers={"WWW-Authenticate": "Basic"})
                if request.method == "HEAD":
                    return web.Response(status=404)
                there = {
                    "Location": f"http://127.0.0.1:{thief.port}/v2/up/1?state=a%2Fb%3D%3D&x=%7E+"
                }
                return web.Response(status=202, headers=there)

            async with registry_double(_MODEL, elsewhere) as double:
                await asyncio.to_thread(_log_in, docker_config, double.address)
                reference = f"{double.address}/stolen/model:v1"
                await asyncio.to_thread(put_into, store, _MODEL, reference)
                async with open_registry(store) as client:
                    with pytest.raises(RegistryError):
                        await pushed(client, reference)
            assert thief.requests
            assert all("Authorization" not in request.headers for request in thief.requests)

    asyncio.run(main())


def test_cancelling_ends_the_upload(store: Store) -> None:
    async def main() -> None:
        arrived, ended = asyncio.Event(), asyncio.Event()

        async def slow(request: web.Request) -> web.StreamResponse | None:
            if request.method == "HEAD":
                return web.Response(status=404)
            if request.method == "POST":
                return web.Response(status=202, headers={"Location": "/v2/up/1"})
            try:
                async for _ in request.content.iter_any():
                    arrived.set()
                    await asyncio.sleep(0.01)
            finally:
                ended.set()
            return web.Response(status=201)

        async with registry_double(_MODEL, slow) as double, open_registry(store) as client:
            reference = f"{double.address}/cancelled/model:v1"
            await asyncio.to_thread(put_into, store, _MODEL, reference)
            task = asyncio.ensure_future(pushed(client, reference))
            await arrived.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.wait_for(ended.wait(), 10)

    asyncio.run(main())


def test_a_registry_that_takes_nothing_any_more(store: Store) -> None:
    async def main() -> None:
        over = asyncio.Event()

        async def deaf(request: web.Request) -> web.StreamResponse | None:
            if request.method == "HEAD":
                return web.Response(status=404)
            if request.method == "POST":
                return web.Response(status=202, headers={"Location": "/v2/up/1"})
            if request.method == "GET":
                return web.Response(status=404)
            # More than the buffers of the sockets hold would have to be read.
            await over.wait()
            return None

        big = make_artifact(_LAYER + _LAYER)
        async with registry_double(big, deaf) as double, open_registry(store) as client:
            reference = f"{double.address}/deaf/model:v1"
            await asyncio.to_thread(put_into, store, big, reference)
            with pytest.raises(RegistryUnreachable):
                await pushed(client, reference)
            over.set()

    asyncio.run(main())


def test_what_cannot_be_pushed(registry: RunningRegistry, store: Store) -> None:
    reference = f"{registry.http_address}/damaged/model:v1"
    put_into(store, _MODEL, reference)
    with pytest.raises(ModelNotFound):
        push_model(store, f"{registry.http_address}/damaged/model:v2")
    store.blobs.path(_MODEL.layers[0]).write_bytes(b"torn")
    with pytest.raises(StoreError, match="missing or torn"):
        push_model(store, reference)


@pytest.mark.parametrize("spelled", [_MODEL.id, _MODEL.id[7:], _MODEL.id[7:19]])
def test_an_id_says_not_where_to_push_to(store: Store, spelled: str) -> None:
    model = put_into(store, _MODEL)
    with pytest.raises(InvalidReference, match="does not say where to push to") as refusal:
        push_model(store, spelled)
    assert f"`model-runner tag {spelled} REGISTRY/NAME:TAG`" in (refusal.value.hint or "")
    store.add_tag(model.id, "localhost:1/named/model:v1")
    with pytest.raises(InvalidReference) as refusal:
        push_model(store, spelled)
    assert "push it by its name (`localhost:1/named/model:v1`)" in (refusal.value.hint or "")
    store.delete(model.id)
    with pytest.raises(ModelNotFound):
        push_model(store, spelled)


def test_two_tags_of_one_model_arrive_both(registry: RunningRegistry, store: Store) -> None:
    names = [f"{registry.http_address}/both/model:{tag}" for tag in ("a", "b")]
    put_into(store, _MODEL, *names)

    async def main() -> list[list[Progress]]:
        async with open_registry(store) as client:
            return list(await asyncio.gather(*(pushed(client, name) for name in names)))

    assert all(messages[-1].type == "success" for messages in asyncio.run(main()))
    assert {pull(store, name).model.id for name in names} == {_MODEL.id}
