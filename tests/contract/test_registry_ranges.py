"""Large layers over several connections, and what becomes of them when things go wrong."""

from __future__ import annotations

import asyncio
import sys
import threading
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from model_runner.errors import Conflict, DigestMismatch, DiskFull, RegistryUnreachable
from model_runner.registry import download, lines, spans
from model_runner.registry.parts import PartFiles, arrived
from model_runner.registry.prefix import Prefix
from model_runner.store import Store
from support.beat import Beat
from support.fault_proxy import FaultProxy, fault_proxy
from support.oci_push import make_artifact, noise, push, sha256
from support.oci_registry import RunningRegistry, make_authority, oci_registry
from support.pulling import Pulled, forget_logins, open_registry, pull, pulled
from support.registry_double import registry_double
from support.stores import files_below

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from model_runner.registry import Progress

MIB = 1024 * 1024
_SIZE = 16 * MIB
_LAYER = noise(_SIZE, seed=1)
_DIGEST = sha256(_LAYER)
_MODEL = make_artifact(_LAYER)
_OTHER = noise(3 * MIB, seed=2)
_OVERLAPPING = make_artifact(_LAYER, _OTHER)
_PART = MIB // 2

# What one connection carries; a pull over one alone takes 4 s.
_RATE = 4 * MIB

# Heads, manifests, configs; and for each connection that is cut, what was on its way.
_SLACK = 2 * MIB
_PULLER = Path(__file__).parents[1] / "support" / "puller.py"


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    with oci_registry(tmp_path_factory.mktemp("registry")) as running:
        push(running, "large/model", "v1", _MODEL)
        push(running, "large/overlapping", "v1", _OVERLAPPING)
        yield running


@pytest.fixture(autouse=True)
def _no_logins(monkeypatch, tmp_path):
    forget_logins(monkeypatch, tmp_path)


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    monkeypatch.setattr(download, "_MIN_PART", _PART)
    monkeypatch.setattr(download, "_MAX_PART", _PART)
    monkeypatch.setattr(download, "_WORTH_SHARING", MIB)
    monkeypatch.setattr(download, "_LOOK_EVERY", 0.05)
    monkeypatch.setattr(spans, "_MIN_SPLIT", _PART // 4)
    monkeypatch.setattr(lines, "_GAIN", 0.0)


@pytest.fixture
def store(tmp_path) -> Store:
    return Store.open(tmp_path / "models")


def _prefix(store: Store) -> Path:
    return store.blobs.incomplete_path(_DIGEST)


def _parts(store: Store) -> dict[int, int]:
    return PartFiles(_prefix(store)).found()


def _assert_arrived(store: Store) -> None:
    assert sha256(store.blobs.path(_DIGEST).read_bytes()) == _DIGEST
    assert not list(store.root.rglob("*.incomplete"))


def _assert_kept(store: Store) -> int:
    """What is on disk is right, byte for byte; how much it is."""
    # Digests, for pytest would compare megabytes line by line to show where they differ.
    prefix = _prefix(store).read_bytes()
    assert sha256(prefix) == sha256(_LAYER[: len(prefix)])
    for start in _parts(store):
        part = PartFiles(_prefix(store)).path(start).read_bytes()
        assert sha256(part) == sha256(_LAYER[start : start + len(part)])
    return arrived(store.blobs, _DIGEST)


async def _pull_through(proxy: FaultProxy, store: Store) -> Pulled:
    async with open_registry(store) as client:
        return await pulled(client, f"{proxy.address}/large/model:v1")


def _with_proxy(
    registry: RunningRegistry, story: Callable[[FaultProxy], Awaitable[None]]
) -> FaultProxy:
    async def main() -> FaultProxy:
        async with fault_proxy(registry.port) as proxy:
            proxy.rate = _RATE
            await story(proxy)
            return proxy

    return asyncio.run(main())


def test_a_slow_registry_is_asked_over_several_connections(
    registry: RunningRegistry, store: Store
) -> None:
    async def story(proxy: FaultProxy) -> None:
        kept = []

        def report(_: Progress) -> None:
            if _prefix(store).exists():
                kept.append(_assert_kept(store))

        async with open_registry(store) as client:
            await client.pull(f"{proxy.address}/large/model:v1", report=report)
        assert len(kept) > 3

    proxy = _with_proxy(registry, story)

    assert proxy.most >= 4
    assert proxy.delivered < _SIZE + _SLACK
    _assert_arrived(store)


def test_a_large_layer_over_tls(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = make_authority(tmp_path / "tls")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
    with oci_registry(tmp_path / "registry", authority=authority) as registry:
        push(registry, "large/model", "v1", _MODEL)
        _prefix(store).write_bytes(_LAYER[:12345])
        pull(store, f"{registry.address}/large/model:v1")
    _assert_arrived(store)


def test_one_connection_if_no_more_are_wanted(
    registry: RunningRegistry, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_RUNNER_PULL_CONNECTIONS", "1")

    async def story(proxy: FaultProxy) -> None:
        proxy.rate = 16 * MIB
        await _pull_through(proxy, store)

    # One for the manifest and the config, one for the layer.
    assert _with_proxy(registry, story).most <= 2
    _assert_arrived(store)


def test_connections_that_are_sent_home_leave_what_they_have(
    registry: RunningRegistry, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As several that bring no more than one are."""
    monkeypatch.setattr(lines, "_GAIN", 1e9)
    monkeypatch.setattr(download, "_LOOK_EVERY", 0.15)

    async def story(proxy: FaultProxy) -> None:
        await _pull_through(proxy, store)

    proxy = _with_proxy(registry, story)

    assert proxy.most >= 4
    assert proxy.delivered < _SIZE + _SLACK
    _assert_arrived(store)


@pytest.mark.parametrize("share", [10, 50, 99])
def test_a_network_that_breaks_costs_no_more_than_a_part(
    registry: RunningRegistry, store: Store, share: int
) -> None:
    async def story(proxy: FaultProxy) -> None:
        # From then on every connection ends before its next byte.
        proxy.cuts = [_SIZE * share // 100] + [0] * 1000
        with pytest.raises(RegistryUnreachable, match="what has arrived is kept"):
            await _pull_through(proxy, store)
        assert _assert_kept(store) > _SIZE * share // 100 - _PART
        proxy.cuts = []
        await _pull_through(proxy, store)

    assert _with_proxy(registry, story).delivered < _SIZE + _PART + _SLACK
    _assert_arrived(store)


@pytest.mark.parametrize("times", [1, 3])
def test_a_killed_process_leaves_what_the_next_goes_on_from(
    registry: RunningRegistry, store: Store, times: int
) -> None:
    async def story(proxy: FaultProxy) -> None:
        for turn in range(times):
            enough = _SIZE * (turn + 1) // (times + 1)
            async with _puller(store, f"{proxy.address}/large/model:v1") as process:
                await _seen(process, enough)
            assert _assert_kept(store) > enough - _PART
        assert _parts(store)
        await _pull_through(proxy, store)

    assert _with_proxy(registry, story).delivered < _SIZE + times * (_PART + _SLACK)
    _assert_arrived(store)


@asynccontextmanager
async def _puller(store: Store, reference: str) -> AsyncIterator[Process]:
    """A process that pulls; killed at the end, if it is still there."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(_PULLER), str(store.root), reference, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def _seen(process: Process, current: int) -> None:
    """Wait until it says that more than so many bytes are here."""
    assert process.stdout is not None
    async for line in process.stdout:
        if int(line) > current:
            return
    pytest.fail("the pull ended early")


def test_two_processes_that_pull_overlapping_models_share_the_download(
    registry: RunningRegistry, store: Store
) -> None:
    async def story(proxy: FaultProxy) -> None:
        names = ["large/model:v1", "large/model:v1", "large/overlapping:v1"]
        async with AsyncExitStack() as stack:
            processes = [
                await stack.enter_async_context(_puller(store, f"{proxy.address}/{name}"))
                for name in names
            ]
            outputs = await asyncio.gather(*(process.communicate() for process in processes))
        expected = [_MODEL.id, _MODEL.id, _OVERLAPPING.id]
        assert [output.split()[-1].decode() for output, _ in outputs] == expected
        for output, _ in outputs:
            assert max(int(line) for line in output.split()[:-1]) == _SIZE

    assert _with_proxy(registry, story).delivered < _SIZE + len(_OTHER) + _SLACK
    _assert_arrived(store)
    assert {model.id for model in store.list()} == {_MODEL.id, _OVERLAPPING.id}


def test_a_killed_process_is_followed_by_the_one_that_waits(
    registry: RunningRegistry, store: Store
) -> None:
    async def story(proxy: FaultProxy) -> None:
        reference = f"{proxy.address}/large/model:v1"
        proxy.rate = MIB // 4
        async with _puller(store, reference) as first:
            await _seen(first, 0)
            async with _puller(store, reference) as second:
                await _seen(second, 0)
                proxy.rate = 2 * MIB
                await _seen(second, _SIZE // 2)
                first.kill()
                output, _ = await second.communicate()
        assert output.split()[-1].decode() == _MODEL.id

    assert _with_proxy(registry, story).delivered < _SIZE + _PART + _SLACK
    _assert_arrived(store)


def test_a_bit_that_turns_over_on_the_wire(registry: RunningRegistry, store: Store) -> None:
    """Who got it in parts asks once more, over one connection."""

    async def story(proxy: FaultProxy) -> None:
        proxy.flip_at = _SIZE // 2
        await _pull_through(proxy, store)
        assert proxy.flip_at is None

    assert _with_proxy(registry, story).delivered > _SIZE * 2
    _assert_arrived(store)


def test_a_bit_that_turns_over_in_every_answer(registry: RunningRegistry, store: Store) -> None:
    async def story(proxy: FaultProxy) -> None:
        proxy.rate = None
        proxy.flip_at = _SIZE // 2
        with pytest.raises(DigestMismatch, match=_DIGEST):
            await _pull_through(proxy, store)
        assert not store.blobs.has(_DIGEST)
        assert store.list() == []
        await _pull_through(proxy, store)

    _with_proxy(registry, story)
    _assert_arrived(store)


@pytest.mark.parametrize("where", ["prefix", "part"])
def test_a_bit_that_turned_over_on_disk(
    registry: RunningRegistry, store: Store, where: str
) -> None:
    parts = PartFiles(_prefix(store))
    _prefix(store).write_bytes(_LAYER[: 2 * MIB])
    parts.append(8 * MIB, [_LAYER[8 * MIB : 9 * MIB]])
    file = _prefix(store) if where == "prefix" else parts.path(8 * MIB)
    content = bytearray(file.read_bytes())
    content[12345] ^= 4
    file.write_bytes(content)

    pull(store, f"{registry.http_address}/large/model:v1")

    _assert_arrived(store)


def test_parts_of_all_kinds_are_used_or_thrown_away(
    registry: RunningRegistry, store: Store
) -> None:
    """Within the prefix, over its end, touching, overlapping, the last, and beyond the end."""
    parts = PartFiles(_prefix(store))
    _prefix(store).write_bytes(_LAYER[: 3 * MIB])
    pieces = [(1, 2), (2, 5), (5, 6), (8, 10), (9, 11), (15, 16)]
    for start, end in pieces:
        parts.append(start * MIB, [_LAYER[start * MIB : end * MIB]])
    parts.append(_SIZE + 5, [b"beyond"])

    async def story(proxy: FaultProxy) -> None:
        await _pull_through(proxy, store)

    missing = 16 - 6 - 3 - 1
    assert _with_proxy(registry, story).delivered < missing * MIB + _SLACK
    _assert_arrived(store)


@pytest.mark.parametrize(
    "answer", ["200", "416", "403", "429", "another place", "no place", "another size", "cut"]
)
def test_a_registry_that_serves_no_parts(store: Store, answer: str) -> None:
    """All the same the layer arrives, once, over the connection that there is."""
    rest = asyncio.Event()
    whole = 0

    async def odd(request: web.Request) -> web.StreamResponse | None:
        nonlocal whole
        if _DIGEST not in request.path:
            return None
        if "Range" not in request.headers or answer == "200":
            whole += "Range" not in request.headers
            return await _slowly(request, rest)
        rest.set()
        if answer == "cut":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        return _lie(answer)

    async def main() -> None:
        async with registry_double(_MODEL, odd) as double, open_registry(store) as client:
            await pulled(client, f"{double.address}/large/model:v1")

    asyncio.run(main())
    assert whole == 1
    _assert_arrived(store)


async def _slowly(request: web.Request, rest: asyncio.Event) -> web.StreamResponse:
    """The whole layer; the second half only once somebody has asked for a part."""
    response = web.StreamResponse(headers={"Content-Length": str(_SIZE)})
    await response.prepare(request)
    if "Range" in request.headers:
        rest.set()
    await response.write(_LAYER[: _SIZE // 2])
    await rest.wait()
    await response.write(_LAYER[_SIZE // 2 :])
    return response


def _lie(answer: str) -> web.Response:
    places = {"another place": "bytes 7-99999/16777216", "another size": "bytes 0-1/2"}
    if answer in {"416", "403", "429"}:
        return web.Response(status=int(answer), headers={"Retry-After": "0"})
    place = {"Content-Range": places[answer]} if answer in places else {}
    return web.Response(status=206, body=_LAYER[7:100_000], headers=place)


def test_a_body_without_end(store: Store) -> None:
    async def endless(request: web.Request) -> web.StreamResponse | None:
        if _DIGEST not in request.path:
            return None
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(noise(MIB, seed=7))

    async def main() -> None:
        async with registry_double(_MODEL, endless) as double, open_registry(store) as client:
            with pytest.raises(DigestMismatch):
                await pulled(client, f"{double.address}/large/model:v1")

    asyncio.run(main())
    assert store.list() == []
    assert arrived(store.blobs, _DIGEST) == 0


def test_a_connection_that_lags_is_made_anew(
    registry: RunningRegistry, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One part comes with 256 bytes a look, which is no stall: it alone would take minutes."""
    monkeypatch.setattr(lines, "_SLOW_LOOKS", 3)
    lagging = 0
    looks = Beat()
    look = lines.Judge.look

    def strike_and_look(judge: lines.Judge, legs: Sequence[lines.Leg]) -> lines.Look:
        looks.strike()
        return look(judge, legs)

    monkeypatch.setattr(lines.Judge, "look", strike_and_look)

    async def lag(request: web.Request) -> web.StreamResponse | None:
        nonlocal lagging
        if _DIGEST not in request.path:
            return None
        wanted = request.http_range
        body = _LAYER[wanted.start or 0 : wanted.stop]
        response = web.StreamResponse(status=206 if wanted.start else 200)
        if wanted.start:
            place = f"bytes {wanted.start}-{wanted.start + len(body) - 1}/{_SIZE}"
            response.headers["Content-Range"] = place
        await response.prepare(request)
        crawls = wanted.start and wanted.start > 4 * MIB and not lagging
        lagging += bool(crawls)
        step = 256 if crawls else MIB // 8
        for offset in range(0, len(body), step):
            await response.write(body[offset : offset + step])
            if offset + step < len(body):
                await looks.next()
        return response

    async def main() -> None:
        async with registry_double(_MODEL, lag) as double, open_registry(store) as client:
            await asyncio.wait_for(pulled(client, f"{double.address}/large/model:v1"), 30)

    asyncio.run(main())
    assert lagging == 1
    _assert_arrived(store)


def test_a_disk_that_fills_up_while_parts_arrive(
    registry: RunningRegistry, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = PartFiles.append

    def append(self: PartFiles, start: int, pieces: Sequence[bytes]) -> None:
        if start > 8 * MIB:
            raise DiskFull("no room")
        original(self, start, pieces)

    async def story(proxy: FaultProxy) -> None:
        with monkeypatch.context() as context:
            context.setattr(PartFiles, "append", append)
            with pytest.raises(DiskFull):
                await _pull_through(proxy, store)
        assert _assert_kept(store) > 4 * MIB
        await _pull_through(proxy, store)

    assert _with_proxy(registry, story).delivered < _SIZE + 6 * _PART + _SLACK
    _assert_arrived(store)


def test_the_last_who_leaves_stops_all_connections(registry: RunningRegistry, store: Store) -> None:
    async def story(proxy: FaultProxy) -> None:
        half = asyncio.Event()

        def report(message: Progress) -> None:
            if message.layer_current > _SIZE // 2:
                half.set()

        async with open_registry(store) as client:
            reference = f"{proxy.address}/large/model:v1"
            tasks = [asyncio.create_task(client.pull(reference, report=report)) for _ in range(2)]
            await half.wait()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            before = _assert_kept(store)
            assert before > _SIZE // 2
            proxy.rate = None
            await pulled(client, reference)

    assert _with_proxy(registry, story).delivered < _SIZE + _SLACK
    _assert_arrived(store)


def test_a_forced_purge_stops_all_connections(registry: RunningRegistry, store: Store) -> None:
    async def story(proxy: FaultProxy) -> None:
        half = asyncio.Event()

        def report(message: Progress) -> None:
            if message.layer_current > _SIZE // 2:
                half.set()

        async with open_registry(store) as client:
            reference = f"{proxy.address}/large/model:v1"
            task = asyncio.create_task(client.pull(reference, report=report))
            await half.wait()
            assert _parts(store)
            await asyncio.to_thread(Store.open(store.root).purge, force=True)
            assert files_below(store.root / "blobs") == set()
            with pytest.raises(Conflict, match="somebody has forced a purge"):
                await task
            assert files_below(store.root / "blobs") == set()
            await pulled(client, reference)

    _with_proxy(registry, story)
    _assert_arrived(store)


def test_who_leaves_while_parts_are_merged_leaves_no_gap(
    registry: RunningRegistry, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits for the merge is not written, so what follows it must not be, either."""
    original, original_ended = Prefix.merge, download.ended
    cancelled = threading.Event()

    async def ended(*tasks: asyncio.Task[None]) -> None:
        for task in tasks:
            task.cancel()
        # By then all of them know.
        asyncio.get_running_loop().call_soon(cancelled.set)
        await original_ended(*tasks)

    async def story(proxy: FaultProxy) -> None:
        loop = asyncio.get_running_loop()
        async with open_registry(store) as client:
            reference = f"{proxy.address}/large/model:v1"
            task = asyncio.create_task(client.pull(reference, report=lambda _: None))

            def merge(self: Prefix, part: Path, start: int, end: int) -> None:
                if not cancelled.is_set():
                    # Meanwhile more arrives on all connections, unless they are far ahead.
                    more = asyncio.wait_for(proxy.has_delivered(4 * _PART), 1)
                    with suppress(asyncio.TimeoutError):
                        asyncio.run_coroutine_threadsafe(more, loop).result()
                    loop.call_soon_threadsafe(task.cancel)
                    cancelled.wait()
                original(self, part, start, end)

            with monkeypatch.context() as context:
                context.setattr(Prefix, "merge", merge)
                context.setattr(download, "ended", ended)
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert _assert_kept(store) > _PART
            await pulled(client, reference)

    # All that a connection had on its way while it was stopped.
    assert _with_proxy(registry, story).delivered < _SIZE + 6 * _PART + _SLACK
    _assert_arrived(store)


def test_progress_comes_ten_times_a_second_and_never_goes_back(
    registry: RunningRegistry, store: Store
) -> None:
    async def story(proxy: FaultProxy) -> None:
        times: list[float] = []
        currents: list[int] = []
        loop = asyncio.get_running_loop()

        def report(message: Progress) -> None:
            if message.layer_id == _DIGEST:
                times.append(loop.time())
                currents.append(message.layer_current)

        async with open_registry(store) as client:
            await client.pull(f"{proxy.address}/large/model:v1", report=report)
        assert currents == sorted(currents)
        assert currents[-1] == _SIZE
        # The last one, that the layer is complete, waits for nothing.
        assert min(later - sooner for sooner, later in pairwise(times[:-1])) >= 0.099

    _with_proxy(registry, story)
