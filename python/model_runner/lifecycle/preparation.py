"""From a model to all that its engine needs: files, context, socket, key, log. It blocks."""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from model_runner import names
from model_runner.engines import MODES, LaunchRequest, parameters
from model_runner.errors import InvalidRequest, ModelNotFound, UnsupportedModel, WrongMode
from model_runner.formats.gguf import describe
from model_runner.lifecycle import capabilities, policy
from model_runner.lifecycle.log import EngineLog, prune

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from model_runner.config import Settings
    from model_runner.engines import Engine, LaunchPlan
    from model_runner.engines.parameters import Parameters
    from model_runner.store import Model, Store

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A runner that only has to be started.

    Attributes:
        runner_id: Never used twice.
        plan: The engine's process.
        socket_path: Where the engine will listen.
        api_key: What it will want as a bearer token.
        context_size: Tokens of context for each slot.
        context_limit: The most that the model can be loaded with.
        capabilities: What the model can do.
        has_stops: Whether its engine ends texts at strings that no request has named.
    """

    runner_id: str
    plan: LaunchPlan
    socket_path: Path
    api_key: str = field(repr=False)
    context_size: int
    context_limit: int
    capabilities: tuple[str, ...]
    has_stops: bool = False


class Preparation:
    """Makes ready what engines need.

    Args:
        store: Where models are.
        engine: What runs them.
        settings: Context, slots, where logs go.
        runtime_dir: A private directory for sockets; its path is short enough for them.
    """

    def __init__(self, store: Store, engine: Engine, settings: Settings, runtime_dir: Path) -> None:
        self._store = store
        self._engine = engine
        self._settings = settings
        self._runtime_dir = runtime_dir
        self._config_home = runtime_dir / "config"

    @property
    def engine_name(self) -> str:
        """What the HTTP API calls the backend."""
        return self._engine.name

    def check(self, model: Model, mode: str) -> None:
        """Refuse what no engine of ours can run.

        Raises:
            InvalidRequest: There is no such mode.
            UnsupportedModel: The model's weights are not GGUF.
        """
        if mode not in MODES:
            raise InvalidRequest(f"unknown mode `{mode}`", hint=f"modes are {', '.join(MODES)}")
        if model.config.format not in ("", "gguf"):
            raise self._unsupported(model)

    def refuse_deleted(self, model: Model) -> None:
        """Refuse a model that is not in the store any more.

        Raises:
            ModelNotFound: It was deleted meanwhile.
        """
        try:
            self._store.get(model.id)
        except ModelNotFound as error:
            raise ModelNotFound(self.display(model)) from error

    def prepare(self, model: Model, mode: str, *, context_size: int = 0) -> Prepared:
        """Unpack a model and plan its engine.

        Args:
            model: The model.
            mode: What it is to do.
            context_size: Tokens of context that requests want at least, for each slot.

        Raises:
            ModelNotFound: It was deleted meanwhile.
            UnsupportedModel: There is no GGUF file in it.
            WrongMode: The model does something else.
            StoreError: It cannot be unpacked.
            EngineNotInstalled: There is no engine.
        """
        bundle = self._store.bundle(model)
        if bundle.gguf is None:
            raise self._unsupported(model)
        metadata = _metadata(model, bundle.gguf)
        if does := policy.what_else(metadata, mode):
            raise WrongMode(self.display(model), wanted=mode, does=does)
        packaged = _parameters(model)
        usual = policy.context_size(
            self._settings.context_size,
            model.config.context_size,
            metadata,
            chosen=model.config.context_is_chosen,
            parameter=packaged.context_size,
        )
        limit = policy.context_limit(metadata, usual)
        self._config_home.mkdir(mode=0o700, exist_ok=True)
        runner_id = secrets.token_hex(6)
        request = LaunchRequest(
            model_path=bundle.gguf,
            alias=self.display(model),
            mode=mode,
            socket_path=self._runtime_dir / f"{runner_id}.sock",
            slots=self._settings.slots,
            context_size=policy.granted_context(usual, context_size, limit),
            api_key=secrets.token_urlsafe(24),
            config_home=self._config_home,
            projector=bundle.projector,
            chat_template=bundle.chat_template,
            adapters=bundle.adapters,
            own_pooling=policy.has_own_pooling(metadata),
            parameters=packaged,
        )
        plan = self._engine.plan(request)
        return Prepared(
            runner_id=runner_id,
            plan=plan,
            socket_path=request.socket_path,
            api_key=request.api_key,
            context_size=request.context_size,
            context_limit=limit,
            capabilities=capabilities.of_bundle(model, bundle),
            has_stops=bool(packaged.stops) and mode == "completion",
        )

    def open_log(self, model: str, mode: str, *, in_use: Collection[Path]) -> EngineLog:
        """A log file for a new runner; old ones are deleted.

        Where the log directory cannot be written, the log lives and dies with the server.
        """
        directory = self._settings.engine_log_dir
        try:
            directory.mkdir(parents=True, exist_ok=True)
            prune(directory, in_use=in_use)
            return _new_log(directory, model, mode)
        except OSError as error:
            _logger.warning("engine logs cannot be kept in `%s`: %s", directory, error)
            return _new_log(self._runtime_dir, model, mode)

    def display(self, model: Model) -> str:
        """How answers, logs and metrics name a model."""
        return self.display_names(model)[0]

    def display_names(self, model: Model) -> list[str]:
        """The names that can stand for a model there: those of its tags in order, then its ID."""
        registry = self._settings.default_registry
        return [*(names.display(tag, default_registry=registry) for tag in model.tags), model.id]

    def spellings(self, tags: tuple[str, ...], model_id: str) -> list[str]:
        """The usual spellings of a model in requests."""
        return names.spellings(tags, model_id, default_registry=self._settings.default_registry)

    def _unsupported(self, model: Model) -> UnsupportedModel:
        kind = model.config.format if model.config.format not in ("", "gguf") else "no"
        name = self.display(model)
        return UnsupportedModel(
            f"model `{name}` has {kind} weights, and {self._engine.name} needs a GGUF file",
            hint="look for a GGUF version of the model",
        )


def _metadata(model: Model, gguf: Path) -> Mapping[str, str]:
    """The GGUF header as text; packages of the CNCF's form do not carry it in their configuration.

    An unreadable header is not judged here: the engine says what is wrong with the file.
    """
    if model.config.gguf:
        return model.config.gguf
    try:
        return describe([gguf]).gguf
    except UnsupportedModel:
        return {}


def _parameters(model: Model) -> Parameters:
    return parameters.read(model.config.modelfile.parameters)


def _new_log(directory: Path, model: str, mode: str) -> EngineLog:
    """`20260102-030405-ai-smollm2-completion-5f3a.log`: sorts by time, and is never used twice."""
    moment = datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S")
    readable = "".join(letter if letter.isalnum() else "-" for letter in model)[-60:]
    name = f"{moment}-{readable}-{mode}-{secrets.token_hex(2)}.log"
    log = EngineLog(directory / name)
    log.create()
    return log
