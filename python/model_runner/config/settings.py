"""Every setting once: flag > environment > file > default.

`Settings()` reads the environment and, if there is one, the TOML file at `$MODEL_RUNNER_CONFIG`
(default: `config.toml` in the user's configuration directory). Flags are passed as keyword
arguments and win. In the file, as for flags, a setting has the name of its field; in the
environment it has the name of its alias and no other. Names that Docker Model Runner has are kept.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs
from pydantic import Field
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from model_runner import names
from model_runner.config.values import (
    Count,
    Endpoint,
    Flag,
    Host,
    Hosts,
    HubFlag,
    Level,
    Location,
    Mirrors,
    Origins,
    Redaction,
    RegistryName,
    Seconds,
    Switch,
    Text,
    expand,
    split,
    unquote,
)
from model_runner.errors import InvalidRequest

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 12434


class Settings(BaseSettings):
    """The settings of `model-runner serve` and of the commands that open the store themselves."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, env_ignore_empty=True
    )

    # Where to listen.
    host: Host = Field(
        DEFAULT_HOST,
        validation_alias="MODEL_RUNNER_LISTEN_HOST",
        description="Address of the TCP listener.",
    )
    port: Count | None = Field(
        None,
        ge=0,
        le=65535,
        validation_alias="MODEL_RUNNER_PORT",
        description="TCP port; 0 lets the system choose. Unset: 12434, or none with a socket.",
    )
    socket: Location | None = Field(
        None,
        validation_alias="MODEL_RUNNER_SOCK",
        description="Path of a Unix socket to listen on.",
    )

    # TLS.
    tls_enabled: Flag = Field(
        False,
        validation_alias="MODEL_RUNNER_TLS_ENABLED",
        description="Listen on a second port, for https.",
    )
    tls_port: Count = Field(
        12444,
        ge=0,
        le=65535,
        validation_alias="MODEL_RUNNER_TLS_PORT",
        description="The port for https; 0 lets the system choose.",
    )
    tls_cert: Location | None = Field(
        None,
        validation_alias="MODEL_RUNNER_TLS_CERT",
        description="PEM file of the certificate and those that lead to its root. Used anew when "
        "it changes. Unset: one is made, in `certs` in the state directory, and renewed.",
    )
    tls_key: Location | None = Field(
        None,
        validation_alias="MODEL_RUNNER_TLS_KEY",
        description="PEM file of the key of the certificate.",
    )
    tls_auto_cert: Flag = Field(
        True,
        validation_alias="MODEL_RUNNER_TLS_AUTO_CERT",
        description="Make a certificate if none is given.",
    )

    # Where things live.
    models_path: Location = Field(
        default_factory=lambda: Path.home() / ".docker" / "models",
        validation_alias="MODELS_PATH",
        description="Root of the model store, in Docker Model Runner's layout.",
    )
    state_dir: Location = Field(
        default_factory=lambda: platformdirs.user_state_path("model-runner"),
        validation_alias="MODEL_RUNNER_STATE_DIR",
        description="Logs, stored responses and private state.",
    )
    log_dir: Location | None = Field(
        None,
        validation_alias="MODEL_RUNNER_LOG_DIR",
        description="Where engine logs go. Unset: `logs` in the state directory.",
    )
    log_level: Level = Field(
        "info",
        validation_alias="LOG_LEVEL",
        description="The least that is logged: debug, info, warning (or warn), error.",
    )

    # The engine.
    llama_server_path: Location | None = Field(
        None,
        validation_alias="LLAMA_SERVER_PATH",
        description="The llama-server binary, or the directory that holds it.",
    )
    context_size: Count | None = Field(
        None,
        ge=1,
        validation_alias="MODEL_RUNNER_CONTEXT_SIZE",
        description="Tokens of context for each slot. Unset: what the model was packaged with, or "
        "else what it was trained for, at most 8192.",
    )
    slots: Count = Field(
        2,
        ge=1,
        le=64,
        validation_alias="MODEL_RUNNER_SLOTS",
        description="Requests that one runner answers at the same time.",
    )
    engine_threads: Count | None = Field(
        None,
        ge=1,
        validation_alias="MODEL_RUNNER_ENGINE_THREADS",
        description="Threads of an engine. Unset: physical cores less one.",
    )
    prompt_cache_mib: Count = Field(
        1024,
        ge=0,
        validation_alias="MODEL_RUNNER_PROMPT_CACHE_MIB",
        description="Host memory in MiB that an engine may use to keep prompts it has seen.",
    )

    # Lifecycle.
    keep_alive: Seconds = Field(
        300.0,
        allow_inf_nan=False,
        validation_alias="MODEL_RUNNER_KEEP_ALIVE",
        description="Seconds that an idle runner stays loaded; negative: for ever.",
    )
    max_runners: Count = Field(
        default_factory=lambda: min(max(os.cpu_count() or 1, 2), 8),
        ge=1,
        validation_alias="MODEL_RUNNER_MAX_RUNNERS",
        description="Engine processes that may be loaded at the same time.",
    )
    load_stall_timeout: Seconds = Field(
        120.0,
        gt=0,
        allow_inf_nan=False,
        validation_alias="MODEL_RUNNER_LOAD_STALL_TIMEOUT",
        description="Seconds without any progress (log, CPU, disk) after which a load is given up.",
    )
    stop_grace: Seconds = Field(
        30.0,
        ge=0,
        le=86400,
        allow_inf_nan=False,
        validation_alias="MODEL_RUNNER_STOP_GRACE",
        description="Seconds that a stopping server gives its requests in flight.",
    )

    # Who may ask.
    origins: Origins = Field(
        "",
        validation_alias="DMR_ORIGINS",
        description="Origins, separated by commas, whose pages may ask besides those of this "
        "machine: `https://app.example.com`, `http://host:*` for every port, "
        "`chrome-extension://*` for all with this scheme, or `*` for all.",
    )

    # The data plane.
    data_plane_threads: Count | None = Field(
        None,
        ge=1,
        le=64,
        validation_alias="MODEL_RUNNER_THREADS",
        description="Threads that relay requests. Unset: one per core, at most 8.",
    )
    body_limit: Count = Field(
        64 * 1024 * 1024,
        ge=1024,
        le=1024**4,
        validation_alias="MODEL_RUNNER_BODY_LIMIT",
        description="Largest inference request in bytes.",
    )
    queue_limit: Count = Field(
        256,
        ge=0,
        le=1_000_000,
        validation_alias="MODEL_RUNNER_QUEUE_LIMIT",
        description="Requests that may wait for a slot of one runner.",
    )
    heartbeat: Seconds = Field(
        15.0,
        ge=0,
        le=3600,
        allow_inf_nan=False,
        validation_alias="MODEL_RUNNER_HEARTBEAT",
        description="A client that asked for a stream gets a comment this often in seconds while "
        "its model loads or is busy, so that nothing between takes it for dead; 0: never.",
    )

    head_limit: Count = Field(
        64 * 1024,
        ge=8 * 1024,
        le=1024**2,
        validation_alias="MODEL_RUNNER_HEAD_LIMIT",
        description="Largest request head in bytes.",
    )
    max_connections: Count | None = Field(
        None,
        ge=1,
        le=10_000_000,
        validation_alias="MODEL_RUNNER_MAX_CONNECTIONS",
        description="Client connections; who comes beyond is told to come again. Unset: 16384, or "
        "as many as the limit on open files has room for.",
    )
    idle_timeout: Seconds = Field(
        75.0,
        gt=0,
        le=86400,
        allow_inf_nan=False,
        validation_alias="MODEL_RUNNER_IDLE_TIMEOUT",
        description="Seconds that a client's connection may have no request on it.",
    )
    head_timeout: Seconds = Field(
        30.0,
        gt=0,
        le=86400,
        allow_inf_nan=False,
        validation_alias="MODEL_RUNNER_HEAD_TIMEOUT",
        description="Seconds that a request head may take from its first byte to its last; also a "
        "TLS handshake.",
    )
    body_timeout: Seconds = Field(
        60.0,
        gt=0,
        le=86400,
        allow_inf_nan=False,
        validation_alias="MODEL_RUNNER_BODY_TIMEOUT",
        description="Seconds that a client may send nothing of a request body, or less of it than "
        "1 KiB a second.",
    )
    write_timeout: Seconds = Field(
        60.0,
        gt=0,
        le=86400,
        allow_inf_nan=False,
        validation_alias="MODEL_RUNNER_WRITE_TIMEOUT",
        description="Seconds that a client may take nothing of an answer that waits for it.",
    )

    # Images that requests name by their addresses.
    fetch_media: Flag = Field(
        True,
        validation_alias="MODEL_RUNNER_FETCH_MEDIA",
        description="Fetch images that requests name by public addresses; else such requests are "
        "refused.",
    )
    media_hosts: Text = Field(
        "",
        validation_alias="MODEL_RUNNER_MEDIA_HOSTS",
        description="Hosts and networks, separated by commas, that images are fetched from though "
        "they are private: `images.intern.example, 10.1.0.0/16`.",
    )

    # What is kept of requests, to be read at /engines/requests.
    recorder: Switch = Field(
        "on",
        validation_alias="MODEL_RUNNER_RECORDER",
        description="on: the last requests can be read at /engines/requests; off: none is kept.",
    )
    record_redaction: Redaction = Field(
        "off",
        validation_alias="MODEL_RUNNER_RECORD_REDACTION",
        description="What is replaced by its length before it is kept: off: nothing; prompts: what "
        "users wrote; all: that, and what models answered.",
    )
    record_count: Count = Field(
        10,
        ge=1,
        le=10_000,
        validation_alias="MODEL_RUNNER_RECORD_COUNT",
        description="Requests of each model that are kept.",
    )
    record_bytes: Count = Field(
        16 * 1024 * 1024,
        ge=64 * 1024,
        le=64 * 1024**3,
        validation_alias="MODEL_RUNNER_RECORD_BYTES",
        description="Memory in bytes that all kept requests and answers may take.",
    )

    # What is kept of responses, in the state directory.
    responses_ttl: Seconds = Field(
        30 * 86400.0,
        gt=0,
        allow_inf_nan=False,
        validation_alias="MODEL_RUNNER_RESPONSES_TTL",
        description="Seconds for which a response is stored after it was made, or last continued.",
    )
    responses_count: Count = Field(
        100_000,
        ge=1,
        validation_alias="MODEL_RUNNER_RESPONSES_COUNT",
        description="Responses that are stored; the oldest go first.",
    )
    responses_bytes: Count = Field(
        1024**3,
        ge=1024**2,
        validation_alias="MODEL_RUNNER_RESPONSES_BYTES",
        description="Bytes that all stored responses may take, compressed; the oldest go first.",
    )

    # The store.
    prune_grace: Seconds = Field(
        3600.0,
        ge=0,
        allow_inf_nan=False,
        validation_alias="MODEL_RUNNER_PRUNE_GRACE",
        description="Seconds for which `prune` leaves alone what was written.",
    )

    # Registries.
    default_registry: RegistryName = Field(
        names.DOCKER_HUB,
        validation_alias="DEFAULT_REGISTRY",
        description="The registry of names that leave it out.",
    )
    insecure_registry: Flag = Field(
        False,
        validation_alias="INSECURE_REGISTRY",
        description="Talk plain http to every registry.",
    )
    insecure_registries: Hosts = Field(
        "",
        validation_alias="MODEL_RUNNER_INSECURE_REGISTRIES",
        description="Registries, separated by commas, that are asked over plain http: "
        "`registry.intern.example:5000`; without a port, whatever the port is.",
    )
    registry_mirrors: Mirrors = Field(
        "",
        validation_alias="MODEL_RUNNER_REGISTRY_MIRRORS",
        description="Mirrors of Docker Hub, separated by commas, that pulls try first, in this "
        "order: `https://mirror.example.com/cache`.",
    )
    pull_connections: Count = Field(
        6,
        ge=1,
        le=16,
        validation_alias="MODEL_RUNNER_PULL_CONNECTIONS",
        description="Connections that a large layer is fetched over when one brings less than "
        "200 MB/s and the registry serves ranges; 1: always one.",
    )

    # Hugging Face. Its own names, so that one setting is enough for all programs on a machine; its
    # token and its cache are found by its library (HF_TOKEN, HF_TOKEN_PATH, HF_HOME, HF_HUB_CACHE).
    hub_endpoint: Endpoint = Field(
        "https://huggingface.co",
        validation_alias="HF_ENDPOINT",
        description="The Hugging Face hub that `hf.co/…` is pulled from, or a mirror of it.",
    )
    hub_offline: HubFlag = Field(
        False,
        validation_alias="HF_HUB_OFFLINE",
        description="Do not ask the Hugging Face hub for anything.",
    )

    disable_metrics: Flag = Field(False, validation_alias="DISABLE_METRICS")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - it takes other programs' variables
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - a stray .env must not configure a server
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flag > environment > file > default.

        Raises:
            InvalidRequest: The file cannot be read, or has a key that is no setting.
        """
        return init_settings, _Environment(settings_cls, case_sensitive=True), _file(settings_cls)

    @property
    def tcp_port(self) -> int | None:
        """The TCP port to listen on, or None when only a Unix socket was asked for."""
        if self.port is not None:
            return self.port
        return None if self.socket else DEFAULT_PORT

    @property
    def certificate_directory(self) -> Path:
        """Where certificates that are made here are kept."""
        return self.state_dir / "certs"

    @property
    def origin_list(self) -> list[str]:
        """The origins of `origins`, one by one."""
        return split(self.origins)

    @property
    def insecure_registry_list(self) -> list[str]:
        """The hosts of `insecure_registries`, one by one."""
        return split(self.insecure_registries.lower())

    @property
    def mirror_list(self) -> list[str]:
        """The addresses of `registry_mirrors`, one by one."""
        return split(self.registry_mirrors)

    @property
    def engine_log_dir(self) -> Path:
        """Where the engines' logs go."""
        return self.log_dir or self.state_dir / "logs"


class _Environment(EnvSettingsSource):
    """The variables that fields name as their aliases.

    The library would also take those named like a field, in any case: a `HOST=0.0.0.0` that is
    there for another program would open the server to the network.
    """

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[object, str, bool]:
        """The value of a field's variable, None if it is not set, and the variable's name."""
        name = field.validation_alias
        if not isinstance(name, str):
            raise TypeError(f"the setting `{field_name}` names no variable")
        return self.env_vars.get(name), name, False


def file_path() -> Path:
    """Where the configuration file is, if there is one.

    Raises:
        ValueError: It is below the home directory of a user that does not exist.
    """
    given = str(unquote(os.environ.get("MODEL_RUNNER_CONFIG", "")))
    return expand(Path(given)) if given else _usual_file()


def _usual_file() -> Path:
    return platformdirs.user_config_path("model-runner") / "config.toml"


def _file(settings_cls: type[BaseSettings]) -> TomlConfigSettingsSource:
    """The configuration file, which may be missing unless it was asked for."""
    given = str(unquote(os.environ.get("MODEL_RUNNER_CONFIG", "")))
    try:
        path = file_path()
        if given and not path.is_file():
            raise InvalidRequest(
                f"MODEL_RUNNER_CONFIG names `{given}`, which is not a file",
                hint="create it, or unset MODEL_RUNNER_CONFIG",
            )
        source = TomlConfigSettingsSource(settings_cls, path)
    except (OSError, ValueError) as error:  # among them TOML that is none
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidRequest(f"cannot read `{given or _usual_file()}`: {reason}") from error
    for key in source.toml_data:
        if key not in settings_cls.model_fields:
            raise InvalidRequest(f"`{path}` has the unknown key `{key}`", hint=_nearest(key))
    return source


def _nearest(key: str) -> str:
    """A hint with the setting that was probably meant."""
    known = {name: name for name in Settings.model_fields}
    known |= {str(field.validation_alias): name for name, field in Settings.model_fields.items()}
    folded = {name.lower(): meant for name, meant in known.items()}
    close = difflib.get_close_matches(key.lower().replace("-", "_"), folded, n=1)
    return f"did you mean `{folded[close[0]]}`?" if close else "README.md lists the settings"
