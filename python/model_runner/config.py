"""Every setting once: flag > environment > file > default.

`Settings()` reads the environment and, if there is one, the TOML file at `$MODEL_RUNNER_CONFIG` (default: `config.toml`
in the user's configuration directory). Flags are passed as keyword arguments and win. Names of environment variables that
Docker Model Runner has are kept.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import platformdirs
from pydantic import AliasChoices, BeforeValidator, Field
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 12434

# Docker Model Runner's truth values: Go's ParseBool, and anything else is false.
_TRUE = {"1", "t", "T", "TRUE", "true", "True"}


def config_file() -> Path:
    """Where the optional configuration file is."""
    given = os.environ.get("MODEL_RUNNER_CONFIG")
    return Path(given) if given else platformdirs.user_config_path("model-runner") / "config.toml"


def _unquote(value: object) -> object:
    """Environment files often carry the quotes along: `MODELS_PATH="/models"`."""
    return value.strip().strip("\"'") if isinstance(value, str) else value


def _flag(value: object) -> object:
    return _unquote(value) in _TRUE if isinstance(value, str) else value


Text = Annotated[str, BeforeValidator(_unquote)]
Location = Annotated[Path, BeforeValidator(_unquote)]
Flag = Annotated[bool, BeforeValidator(_flag)]


def _names(field: str, environment: str) -> AliasChoices:
    """A field is `field` in the file and in keyword arguments, `environment` in the environment."""
    return AliasChoices(field, environment)


class Settings(BaseSettings):
    """The settings of `model-runner serve` and of the commands that open the store themselves."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, populate_by_name=True)

    # Where to listen.
    host: Text = Field(DEFAULT_HOST, description="Address of the TCP listener.")
    port: int | None = Field(
        None, ge=0, le=65535, validation_alias=_names("port", "MODEL_RUNNER_PORT"),
        description="TCP port; 0 lets the system choose. Unset: 12434, or none if a socket is given.",
    )  # fmt: skip
    socket: Location | None = Field(
        None, validation_alias=_names("socket", "MODEL_RUNNER_SOCK"), description="Path of a Unix socket to listen on."
    )

    # Where things live.
    models_path: Location = Field(
        default_factory=lambda: Path.home() / ".docker" / "models",
        validation_alias=_names("models_path", "MODELS_PATH"),
        description="Root of the model store, in Docker Model Runner's layout.",
    )
    state_dir: Location = Field(
        default_factory=lambda: platformdirs.user_state_path("model-runner"),
        validation_alias=_names("state_dir", "MODEL_RUNNER_STATE_DIR"),
        description="Logs and private state.",
    )
    log_dir: Location | None = Field(
        None, validation_alias=_names("log_dir", "MODEL_RUNNER_LOG_DIR"),
        description="Where engine logs go. Unset: `logs` in the state directory.",
    )  # fmt: skip
    log_level: Text = Field("info", validation_alias=_names("log_level", "LOG_LEVEL"))

    # The engine.
    llama_server_path: Location | None = Field(
        None, validation_alias=_names("llama_server_path", "LLAMA_SERVER_PATH"),
        description="The llama-server binary, or the directory that holds it.",
    )  # fmt: skip
    context_size: int | None = Field(
        None, ge=1, validation_alias=_names("context_size", "MODEL_RUNNER_CONTEXT_SIZE"),
        description="Tokens of context for each slot. Unset: what the model was packaged with or trained for, "
        "at most 8192.",
    )  # fmt: skip
    slots: int = Field(
        2, ge=1, le=64, validation_alias=_names("slots", "MODEL_RUNNER_SLOTS"),
        description="Requests that one runner answers at the same time.",
    )  # fmt: skip
    engine_threads: int | None = Field(
        None, ge=1, validation_alias=_names("engine_threads", "MODEL_RUNNER_ENGINE_THREADS"),
        description="Threads of an engine. Unset: physical cores less one.",
    )  # fmt: skip
    prompt_cache_mib: int = Field(
        1024, ge=0, validation_alias=_names("prompt_cache_mib", "MODEL_RUNNER_PROMPT_CACHE_MIB"),
        description="Host memory in MiB that an engine may use to keep prompts it has seen.",
    )  # fmt: skip

    # Lifecycle.
    keep_alive: float = Field(
        300.0, validation_alias=_names("keep_alive", "MODEL_RUNNER_KEEP_ALIVE"),
        description="Seconds that an idle runner stays loaded; negative: for ever.",
    )  # fmt: skip
    max_runners: int = Field(
        default_factory=lambda: min(os.cpu_count() or 1, 8), ge=1,
        validation_alias=_names("max_runners", "MODEL_RUNNER_MAX_RUNNERS"),
        description="Engine processes that may be loaded at the same time.",
    )  # fmt: skip
    load_stall_timeout: float = Field(
        120.0, gt=0, validation_alias=_names("load_stall_timeout", "MODEL_RUNNER_LOAD_STALL_TIMEOUT"),
        description="Seconds without any progress (log, CPU, disk) after which a load is given up.",
    )  # fmt: skip
    stop_grace: float = Field(
        30.0, ge=0, validation_alias=_names("stop_grace", "MODEL_RUNNER_STOP_GRACE"),
        description="Seconds that a stopping server gives its requests in flight.",
    )  # fmt: skip

    # The data plane.
    data_plane_threads: int | None = Field(
        None, ge=1, le=64, validation_alias=_names("data_plane_threads", "MODEL_RUNNER_THREADS"),
        description="Threads that relay requests. Unset: one per core, at most 8.",
    )  # fmt: skip
    body_limit: int = Field(
        64 * 1024 * 1024, ge=1024, validation_alias=_names("body_limit", "MODEL_RUNNER_BODY_LIMIT"),
        description="Largest inference request in bytes.",
    )  # fmt: skip
    queue_limit: int = Field(
        256, ge=0, validation_alias=_names("queue_limit", "MODEL_RUNNER_QUEUE_LIMIT"),
        description="Requests that may wait for a slot of one runner.",
    )  # fmt: skip

    # Registries.
    default_registry: Text = Field("docker.io", validation_alias=_names("default_registry", "DEFAULT_REGISTRY"))
    insecure_registry: Flag = Field(
        False, validation_alias=_names("insecure_registry", "INSECURE_REGISTRY"),  # noqa: FBT003
        description="Talk plain http to every registry.",
    )  # fmt: skip

    disable_metrics: Flag = Field(False, validation_alias=_names("disable_metrics", "DISABLE_METRICS"))  # noqa: FBT003

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - a stray .env must not configure a server
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flag > environment > file > default."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, config_file())

    @property
    def tcp_port(self) -> int | None:
        """The TCP port to listen on, or None when only a Unix socket was asked for."""
        if self.port is not None:
            return self.port
        return None if self.socket else DEFAULT_PORT

    @property
    def engine_log_dir(self) -> Path:
        """Where the engines' logs go."""
        return self.log_dir or self.state_dir / "logs"
