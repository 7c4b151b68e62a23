"""What the program knows about an inference engine: a name, a state, and how to launch it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from model_runner.engines.parameters import Parameters

if TYPE_CHECKING:
    from pathlib import Path

NO_PARAMETERS = Parameters()

MODES = ("completion", "embedding", "reranking")


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """Whether an engine can be launched.

    Attributes:
        state: As `GET /engines/status` words it.
        details: The version of a usable engine, or what is wrong with it.
    """

    state: Literal["Running", "Error", "Not Installed"]
    details: str = ""

    def __str__(self) -> str:
        """`Running: llama.cpp 0.6.0`, as `GET /engines/status` shows it."""
        return f"{self.state}: {self.details}" if self.details else self.state


@dataclass(frozen=True, slots=True)
class LaunchRequest:
    """One runner that is to be launched.

    Attributes:
        model_path: The GGUF file; the first one of a model in shards.
        alias: The name under which the engine answers.
        mode: One of `MODES`.
        socket_path: The Unix socket to listen on; must end in `.sock`.
        slots: Requests answered at the same time.
        context_size: Tokens of context for each slot.
        api_key: What requests to the engine must carry.
        config_home: An empty private directory, so that no stray configuration file of a user is
            read.
        projector: The multimodal projector, if the model has one.
        chat_template: A Jinja template that came with the model, if any.
        adapters: LoRA adapters that are added to the weights.
        own_pooling: Whether the model file says how its embeddings are pooled.
        parameters: What the model's package sets.
    """

    model_path: Path
    alias: str
    mode: str
    socket_path: Path
    slots: int
    context_size: int
    api_key: str = field(repr=False)
    config_home: Path
    projector: Path | None = None
    chat_template: Path | None = None
    adapters: tuple[Path, ...] = ()
    own_pooling: bool = False
    parameters: Parameters = NO_PARAMETERS


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """A process to start.

    Attributes:
        argv: The command line; its first element is an absolute path.
        environment: The whole environment of the process.
    """

    argv: list[str]
    environment: dict[str, str] = field(repr=False)


class Engine(Protocol):
    """A kind of inference server that can be launched.

    Its methods may run the engine's binary the first time (`--help`), or look at its files, so a
    loop calls them in a thread.
    """

    @property
    def name(self) -> str:
        """What the HTTP API calls the backend, such as `llama.cpp`."""

    def status(self) -> EngineStatus:
        """Whether it could be launched now."""

    def disk_usage(self) -> int:
        """Bytes of the engine's own files; 0 if there is none."""

    def plan(self, request: LaunchRequest) -> LaunchPlan:
        """How to launch one runner.

        Raises:
            EngineNotInstalled: There is no usable binary.
        """
