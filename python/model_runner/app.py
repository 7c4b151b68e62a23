"""The composition root of `serve`: builds the parts, starts them in order, stops them again.

Start: private directory, store, engine, control socket, data plane, scheduler, control server.
Stop: data plane (drains), scheduler (stops engines), control server, private directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import shlex
import shutil
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from model_runner import __version__, allocator, engines, names
from model_runner.api import Services, create_app
from model_runner.api.server import ControlServer
from model_runner.config import DEFAULT_HOST, DEFAULT_PORT
from model_runner.errors import InvalidRequest, ModelRunnerError
from model_runner.lifecycle import Scheduler, runtime_directory
from model_runner.listening import cannot_listen
from model_runner.media import Media
from model_runner.registry import Registry
from model_runner.state import Bounds, Database, Responses
from model_runner.store import Store
from model_runner.telemetry import Exporter, Sources

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from model_runner import _core
    from model_runner.config import Settings
    from model_runner.engines import Engine
    from model_runner.lifecycle import Route

log = logging.getLogger(__name__)

_CONTROL_THREADS = 32
_MAX_CONNECTIONS = 16384
# Open files that are no clients': models, logs, engines, databases, registries.
_OWN_FILES = 256
_CERTIFICATE_LOOK = 2.0


class Plane:
    """The data plane, which takes the scheduler's routes for its own."""

    def __init__(self, inner: _core.DataPlane, authority: Path | None = None) -> None:
        self._inner = inner
        self.authority = authority
        """What clients have to trust to use https, if the certificate is one of ours."""
        self.snapshot = inner.snapshot
        self.retire = inner.retire
        self.stop = inner.stop

    @property
    def addresses(self) -> list[str]:
        """Where it listens: `http://127.0.0.1:12434`, `https://…`, `unix:///run/x.sock`."""
        return self._inner.addresses

    @property
    def certificate_problem(self) -> str | None:
        """Why the certificate that is on disk now is not used; the one before still is."""
        return self._inner.certificate_problem

    def publish(self, routes: Sequence[Route]) -> None:
        """Replace the whole route table."""
        from model_runner import _core

        self._inner.publish(
            [
                _core.Route(
                    runner_id=route.runner_id,
                    socket_path=route.socket_path,
                    api_key=route.api_key,
                    slots=route.slots,
                    context_size=route.context_size,
                    context_limit=route.context_limit,
                    capabilities=route.capabilities,
                    has_stops=route.has_stops,
                    backend=route.backend,
                    model=route.model,
                    model_id=route.model_id,
                    mode=route.mode,
                    names=route.names,
                )
                for route in routes
            ]
        )


if TYPE_CHECKING:
    StartPlane = Callable[[Settings, Path, Sequence[str]], Plane]
    OnReady = Callable[[Plane, Store, Engine], None]


def serve(settings: Settings) -> int:
    """Run the server until a signal ends it.

    Returns:
        The exit code of the process.

    Raises:
        ModelRunnerError: It could not be started.
    """
    set_up_logging(settings.log_level)
    raise_file_limit()
    return asyncio.run(run(settings))


async def run(
    settings: Settings,
    *,
    start_plane: StartPlane | None = None,
    on_ready: OnReady | None = None,
) -> int:
    """Start everything, wait for a signal, stop everything.

    Args:
        settings: What the user asked for.
        start_plane: Starts the data plane; by default the one written in Rust.
        on_ready: Told when requests are served; by default a few lines on standard output.

    Raises:
        ModelRunnerError: Something could not be started; what had been is stopped.
    """
    # Threads of the control plane wait for disks and locks; asyncio's own are as few as the cores.
    asyncio.get_running_loop().set_default_executor(
        ThreadPoolExecutor(_CONTROL_THREADS, thread_name_prefix="control")
    )
    stopping = Stopping()
    async with contextlib.AsyncExitStack() as parts, contextlib.AsyncExitStack() as front:
        stopping.watch()
        parts.callback(stopping.unwatch)
        base = await lay_foundation(settings, parts)
        plane = (start_plane or start_data_plane)(settings, base.control_socket, [base.engine.name])
        # `front` is left before `parts`: clients are let go before what they need is stopped.
        front.push_async_callback(stopping.drain, plane, settings.stop_grace)
        if settings.tls_enabled:
            watch = asyncio.create_task(watch_certificate(plane))
            parts.callback(watch.cancel)
        scheduler = Scheduler(
            store=base.store,
            engine=base.engine,
            plane=plane,
            settings=settings,
            runtime_dir=base.runtime_dir,
        )
        parts.push_async_callback(scheduler.stop)
        await parts.enter_async_context(
            allocator.after_bursts(lambda: plane.snapshot().open_connections)
        )
        stopping.abandon = lambda: abandon(scheduler, base.runtime_dir)
        await scheduler.start()
        await base.server.start(create_app(offer(settings, base, scheduler, plane)))
        await asyncio.to_thread(on_ready or announce, plane, base.store, base.engine)
        return await stopping.wait(base.server)


@dataclass(frozen=True, slots=True)
class Foundation:
    """What exists before the data plane: nothing of it acts by itself."""

    runtime_dir: Path
    store: Store
    engine: Engine
    registry: Registry
    media: Media
    responses: Responses
    server: ControlServer

    @property
    def control_socket(self) -> Path:
        """Where the data plane finds the control plane."""
        return self.runtime_dir / runtime_directory.CONTROL_SOCKET


async def lay_foundation(settings: Settings, parts: contextlib.AsyncExitStack) -> Foundation:
    """Open the store, find the engine, and make the private directory with the control socket.

    Args:
        settings: What the user asked for.
        parts: Takes what must be closed in the end.
    """
    runtime_dir = await asyncio.to_thread(runtime_directory.make)
    parts.callback(shutil.rmtree, runtime_dir, ignore_errors=True)
    store = await asyncio.to_thread(
        Store.open,
        settings.models_path,
        default_registry=settings.default_registry,
        scratch=settings.state_dir / "bundles",
    )
    engine = await asyncio.to_thread(engines.discover, settings)
    registry = Registry(store, settings)
    parts.push_async_callback(registry.close)
    media = Media(settings)
    parts.push_async_callback(media.close)
    bounds = Bounds(settings.responses_ttl, settings.responses_count, settings.responses_bytes)
    responses = Responses(Database(settings.state_dir), bounds)
    parts.push_async_callback(responses.close)
    responses.start()
    # From here on whoever connects waits until the server is started, instead of being refused.
    server = ControlServer(runtime_dir / runtime_directory.CONTROL_SOCKET)
    parts.push_async_callback(server.stop)
    return Foundation(runtime_dir, store, engine, registry, media, responses, server)


def offer(settings: Settings, base: Foundation, scheduler: Scheduler, plane: Plane) -> Services:
    """What the HTTP API works on."""
    sources = Sources(snapshot=plane.snapshot, runners=scheduler.runners, totals=scheduler.totals)
    return Services(
        settings=settings,
        store=base.store,
        registry=base.registry,
        scheduler=scheduler,
        engine=base.engine,
        media=base.media,
        responses=base.responses,
        exporter=None if settings.disable_metrics else Exporter(sources),
    )


class Stopping:
    """From the first signal, which drains, to the second, which ends the process on the spot."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        self._watched = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as `nohup` leaves it
            self._watched.append(signal.SIGHUP)
        self.abandon: Callable[[], None] = lambda: None
        """What must be done before the process ends on the spot."""

    def watch(self) -> None:
        """Handle SIGINT, SIGTERM and the SIGHUP of a closed terminal from now on."""
        loop = asyncio.get_running_loop()
        for number in self._watched:
            loop.add_signal_handler(number, self._signalled, number)

    def unwatch(self) -> None:
        """Handle no more signals."""
        loop = asyncio.get_running_loop()
        for number in self._watched:
            loop.remove_signal_handler(number)

    def _signalled(self, number: signal.Signals) -> None:
        if self._asked.is_set():
            log.warning("stopping at once")
            self.abandon()
            os._exit(128 + number)
        log.info("stopping: requests in flight may end; a second signal ends them at once")
        self._asked.set()

    async def wait(self, server: ControlServer) -> int:
        """Wait for a signal; the exit code, which is 1 if the control server ended before any."""
        asked = asyncio.create_task(self._asked.wait())
        closed = asyncio.create_task(server.wait_closed())
        await asyncio.wait({asked, closed}, return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        closed.cancel()
        if self._asked.is_set():
            return 0
        log.error("the control plane's server ended unexpectedly")
        return 1

    async def drain(self, plane: Plane, grace: float) -> None:
        """Stop the data plane; requests get the grace only if the stop was asked for."""
        finished = await asyncio.to_thread(plane.stop, grace if self._asked.is_set() else 0.0)
        if not finished:
            log.warning("requests were cut off after %g seconds", grace)


def abandon(scheduler: Scheduler, runtime_dir: Path) -> None:
    """Kill the engines and remove the private directory, without waiting for anything."""
    for runner in scheduler.runners():
        if runner.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(runner.pid, signal.SIGKILL)
    shutil.rmtree(runtime_dir, ignore_errors=True)


def start_data_plane(settings: Settings, control_socket: Path, backends: Sequence[str]) -> Plane:
    """Start the data plane.

    Raises:
        ModelRunnerError: It cannot listen where it was told to.
    """
    from model_runner import _core

    made = settings.tls_enabled and not settings.tls_cert and not settings.tls_key
    check_tls(settings)
    config = _core.Config(
        control_socket=str(control_socket),
        host=settings.host,
        port=settings.tcp_port,
        socket=str(settings.socket) if settings.socket else None,
        threads=settings.data_plane_threads or min(os.cpu_count() or 1, 8),
        backends=backends,
        body_limit=settings.body_limit,
        queue_limit=settings.queue_limit,
        heartbeat=settings.heartbeat,
        origins=settings.origin_list,
        record_count=settings.record_count if settings.recorder == "on" else 0,
        record_bytes=settings.record_bytes,
        record_redaction=settings.record_redaction,
        head_limit=settings.head_limit,
        max_connections=settings.max_connections or usual_connections(),
        idle_timeout=settings.idle_timeout,
        head_timeout=settings.head_timeout,
        body_timeout=settings.body_timeout,
        write_timeout=settings.write_timeout,
        tls_port=settings.tls_port if settings.tls_enabled else None,
        tls_certificate=str(settings.tls_cert) if settings.tls_cert else None,
        tls_key=str(settings.tls_key) if settings.tls_key else None,
        tls_directory=str(settings.certificate_directory) if made else None,
        tls_names=[socket.gethostname(), settings.host],
    )
    try:
        plane = _core.DataPlane.start(config)
    except OSError as error:
        raise cannot_listen(settings, error) from error
    except ValueError as error:
        raise ModelRunnerError(str(error)) from error
    return Plane(plane, settings.certificate_directory / "ca.crt" if made else None)


def check_tls(settings: Settings) -> None:
    """Refuse settings of TLS that do not fit together.

    Raises:
        InvalidRequest: A certificate without a key, a key without a certificate, or neither.
    """
    if not settings.tls_enabled:
        return
    if bool(settings.tls_cert) != bool(settings.tls_key):
        given, other = ("CERT", "KEY") if settings.tls_cert else ("KEY", "CERT")
        raise InvalidRequest(
            f"MODEL_RUNNER_TLS_{given} is set, MODEL_RUNNER_TLS_{other} is not",
            hint="set both, or neither to have a certificate made",
        )
    if not settings.tls_cert and not settings.tls_auto_cert:
        raise InvalidRequest(
            "TLS is enabled, but there is no certificate, and none may be made",
            hint="set MODEL_RUNNER_TLS_CERT and MODEL_RUNNER_TLS_KEY, or unset "
            "MODEL_RUNNER_TLS_AUTO_CERT",
        )


def usual_connections() -> int:
    """How many clients may be connected: each may need a connection to an engine as well."""
    if sys.platform == "win32":
        return _MAX_CONNECTIONS
    import resource

    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return _MAX_CONNECTIONS
    return max(min(_MAX_CONNECTIONS, (files - _OWN_FILES) // 2), 16)


async def watch_certificate(plane: Plane) -> None:
    """Log when a changed certificate cannot be used, and when it can again."""
    known = None
    while True:
        await asyncio.sleep(_CERTIFICATE_LOOK)
        problem = plane.certificate_problem
        if problem and problem != known:
            log.error("the certificate on disk is not used, the one before still is: %s", problem)
        elif known and not problem:
            log.info("the certificate on disk is used again")
        known = problem


def announce(plane: Plane, store: Store, engine: Engine) -> None:
    """Say on standard output where the server is, what it has, and what to try first."""
    addresses = plane.addresses
    models = store.list()
    lines = [f"model-runner {__version__} is listening on {address}" for address in addresses]
    count = "1 model" if len(models) == 1 else f"{len(models)} models"
    lines.append(f"  models     {store.root} ({count})")
    status = engine.status()
    found = status.details if status.state == "Running" else f"{engine.name}: {status}"
    lines.append(f"  engine     {found}")
    if plane.authority:
        lines.append(f"  trust      export MODEL_RUNNER_TLS_CA_CERT={plane.authority}")
        lines.append(f"             curl --cacert {plane.authority} …")
    tag = next((model.tags[0] for model in models if model.tags), "ai/smollm2")
    lines += _suggestions(addresses[0], names.display(tag, default_registry=store.default_registry))
    print("\n".join(lines), flush=True)  # the one thing that goes to standard output
    for address in addresses:
        if is_exposed(address):
            log.warning(
                "anyone who can reach %s can use this server and delete its models: it asks for no "
                "key (`--host 127.0.0.1` keeps it to this machine)",
                address,
            )


def _suggestions(address: str, model: str) -> list[str]:
    """What to try, as it can be typed in another terminal."""
    program = _program()
    usual = f"http://{DEFAULT_HOST}:{DEFAULT_PORT}"
    where = "" if address == usual else f"MODEL_RUNNER_HOST={address} "
    socket = f"--unix-socket {address.removeprefix('unix://')} http://localhost"
    url = socket if address.startswith("unix:") else address
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'
    return [
        f"  try        {where}{program} run {model} 'Hello!'",
        f"             curl {url}/v1/chat/completions -d '{body}'",
        "  stop       Ctrl-C",
    ]


def _program() -> str:
    """How this program can be started again."""
    started = Path(sys.argv[0])
    if shutil.which("model-runner"):
        return "model-runner"
    if started.name == "__main__.py":  # `python -m` puts the module's file there
        return f"{shlex.quote(sys.executable)} -m model_runner.cli"
    return shlex.quote(str(started))


def is_exposed(address: str) -> bool:
    """Whether other machines can reach `http://host:port`."""
    if not address.startswith("http"):
        return False
    host = address.partition("://")[2].rpartition(":")[0].strip("[]")
    if host == "localhost":
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True


def set_up_logging(level: str) -> None:
    """Plain lines on standard error; other people's libraries only speak up from WARNING on."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        force=True,
    )
    logging.getLogger("model_runner").setLevel(level.upper())


def raise_file_limit() -> None:
    """Allow as many open files as the system lets us: each client and each engine needs some."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # macOS names a limit that it then refuses
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
