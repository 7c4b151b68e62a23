"""llama.cpp as an engine: the command line and the environment of one `llama-server`.

Each flag below is there for a measured reason; those that a build lacks are left out.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from model_runner.engines import discovery, environment
from model_runner.engines.base import EngineStatus, LaunchPlan
from model_runner.engines.probe import Probe
from model_runner.errors import EngineNotInstalled

if TYPE_CHECKING:
    from model_runner.config import Settings
    from model_runner.engines.base import LaunchRequest
    from model_runner.engines.probe import Build

# The server's pool of HTTP threads does not grow during a burst of connections: with its default of
# slots + 4, ten streams opened at once freeze `/health`. 64 threads cost about 1 MB.
_HTTP_THREADS = 64
# An embedding or reranking input must fit into one physical batch, 512 tokens by default. Larger
# batches cost compute buffers, so the batch grows with the context only up to here.
_EMBEDDING_BATCH = 2048


class LlamaCpp:
    """The engine `llama.cpp`, wherever its server was found."""

    name = "llama.cpp"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._probe = Probe()

    def status(self) -> EngineStatus:
        """Whether a server was found and runs."""
        configured = self._settings.llama_server_path
        try:
            command = discovery.find(configured)
        except EngineNotInstalled as error:
            return EngineStatus("Error" if configured else "Not Installed", error.message)
        try:
            build = self._probe.build(command)
        except EngineNotInstalled as error:
            return EngineStatus("Error", error.message)
        return EngineStatus("Running", f"{self.name} {build.version}")

    def disk_usage(self) -> int:
        """Bytes of the server's own files; 0 if there is none."""
        configured = self._settings.llama_server_path
        try:
            return discovery.disk_usage(discovery.find(configured), configured)
        except (EngineNotInstalled, OSError):
            return 0

    def plan(self, request: LaunchRequest) -> LaunchPlan:
        """The command line of one runner.

        Raises:
            EngineNotInstalled: There is no usable server.
        """
        command = discovery.find(self._settings.llama_server_path)
        build = self._probe.build(command)
        arguments = _Arguments(build)
        _add_server(arguments, request)
        _add_memory(arguments, request, self._settings)
        _add_model(arguments, request)
        for spellings, value in request.parameters.flags(request.mode):
            arguments.add(*spellings, value=value)
        variables = {**environment.scrubbed(request.config_home), **dict(command.variables)}
        # Not `--api-key`: every user of the machine can read the command line of every process.
        variables["LLAMA_API_KEY"] = request.api_key
        return LaunchPlan([*command.argv, *arguments.argv], variables)


class _Arguments:
    """A command line that grows by flags that the build has."""

    def __init__(self, build: Build) -> None:
        self.build = build
        self.argv: list[str] = []

    def need(self, flag: str, value: object) -> None:
        """Add a flag that every build has."""
        self.argv += [flag, str(value)]

    def add(self, *spellings: str, value: object = None) -> bool:
        """Add the first spelling that the build knows; say whether there was one."""
        for flag in spellings:
            if flag in self.build.flags:
                self.argv += [flag] if value is None else [flag, str(value)]
                return True
        return False


def _add_server(arguments: _Arguments, request: LaunchRequest) -> None:
    arguments.need("-m", request.model_path)
    arguments.need("--alias", request.alias)
    # A path is taken for a Unix socket only if it ends in `.sock`.
    arguments.need("--host", request.socket_path)
    arguments.add("--threads-http", value=_HTTP_THREADS)
    arguments.add("--metrics")
    arguments.add("--no-ui", "--no-webui")
    arguments.add("--log-jsonl")
    arguments.add("-lv", value=3)
    # The model is in our store. This keeps the engine from downloading models, and from nothing
    # else: one with a projector still fetches an image that a request names by its URL.
    arguments.add("--offline")


def _add_memory(arguments: _Arguments, request: LaunchRequest, settings: Settings) -> None:
    arguments.need("-np", request.slots)
    # A shared pool of context lets one greedy request end all others with a 500 once it is full.
    arguments.add("--no-kv-unified")
    arguments.need("-c", request.slots * request.context_size)
    threads = settings.engine_threads or request.parameters.threads or default_threads()
    arguments.need("-t", threads)
    arguments.add("--cache-ram", value=settings.prompt_cache_mib)
    if not arguments.build.has_devices:
        # Fitting a model into device memory reads its header twice; without a device that is for
        # nothing, and doubles the start-up time of a small model.
        arguments.add("--fit", value="off")
    elif "--fit" not in arguments.build.flags and "num_gpu" not in request.parameters.numbers:
        # Builds that cannot fit by themselves leave every layer on the CPU unless told otherwise.
        arguments.add("-ngl", value=999)


def _add_model(arguments: _Arguments, request: LaunchRequest) -> None:
    if request.projector is not None:
        arguments.add("--mmproj", value=request.projector)
    for adapter in request.adapters:
        arguments.need("--lora", adapter)
    if request.mode == "completion":
        arguments.add("--jinja")
        if request.chat_template is not None:
            arguments.add("--chat-template-file", value=request.chat_template)
        return
    arguments.add("--embeddings", "--embedding")
    batch = min(request.context_size, _EMBEDDING_BATCH)
    arguments.add("-b", value=batch)
    arguments.add("-ub", value=batch)
    if request.mode == "reranking":
        arguments.add("--reranking", "--rerank")
    elif not request.own_pooling:
        # A generative model has pooling "none", with which /v1/embeddings answers 400.
        arguments.add("--pooling", value="mean")


def default_threads() -> int:
    """Physical cores less one, at least 1, of those that this process may use.

    The engine's threads spin at barriers: one per core, on a host that does anything else as well,
    made generation 15 to 90 times slower.
    """
    cores = _physical_cores()
    if hasattr(os, "sched_getaffinity"):
        cores = min(cores, len(os.sched_getaffinity(0)))
    return max(1, cores - 1)


def _physical_cores(cpuinfo: Path = Path("/proc/cpuinfo")) -> int:
    """Cores without their hyper-threads, as far as the kernel tells; else logical ones."""
    try:
        blocks = cpuinfo.read_text(encoding="utf-8", errors="replace").split("\n\n")
    except OSError:
        return os.cpu_count() or 1
    cores: set[tuple[str, str]] = set()
    for block in blocks:
        fields = dict(line.split(":", 1) for line in block.splitlines() if ":" in line)
        values = {name.strip(): value.strip() for name, value in fields.items()}
        if "core id" in values:  # absent on arm64, where every processor is a core
            cores.add((values.get("physical id", "0"), values["core id"]))
    return len(cores) or os.cpu_count() or 1
