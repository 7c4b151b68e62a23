"""The data plane, written in Rust: it owns every client connection and never takes the GIL."""

from collections.abc import Sequence
from typing import final

__all__ = [
    "Config",
    "DataPlane",
    "Histogram",
    "ModelTotals",
    "OperationTotals",
    "Route",
    "RunnerSnapshot",
    "Snapshot",
]

@final
class Config:
    """What the data plane is started with. Frozen.

    Args:
        control_socket: Unix socket of the control plane.
        host: Address of the TCP listener.
        port: TCP port, 0 for one of the system's choice, None for no TCP listener.
        socket: Path of a Unix socket to listen on, None for none.
        threads: Relaying threads.
        backends: Names accepted in `/engines/{backend}/…`.
        body_limit: Largest inference request, in bytes.
        queue_limit: Requests that may wait for a slot of one runner.
        heartbeat: Seconds between the comments for a client that asked for a stream and waits
            for a load or a slot; 0: none.
        origins: Origins besides those of this machine whose pages may ask: `https://app.example.com`,
            `http://host:*` for every port, or `*` for all.
        record_count: Requests of each model that are kept for `/engines/requests`; 0: none.
        record_bytes: What all of them may take, in bytes.
        record_redaction: What is replaced by its length before it is kept: `off`, `prompts`, `all`.
        head_limit: Largest request head, in bytes; at least 8192.
        max_connections: Client connections beyond which new ones are answered with 503.
        idle_timeout: Seconds that a connection may have no request on it.
        head_timeout: Seconds that a request head, or a TLS handshake, may take.
        body_timeout: Seconds that a client may send nothing, or hardly anything, of a body.
        write_timeout: Seconds that a client may take nothing of its answer.
        tls_port: TCP port of a second listener that speaks TLS, None for none.
        tls_certificate: PEM file of its certificate, None to have one made.
        tls_key: PEM file of the key of that certificate.
        tls_directory: Where a certificate that is made, and its authority, are kept.
        tls_names: Names that such a certificate is valid for, besides those of the loopback
            interface.
    """

    def __new__(
        cls,
        *,
        control_socket: str,
        host: str,
        port: int | None,
        socket: str | None,
        threads: int,
        backends: Sequence[str],
        body_limit: int,
        queue_limit: int,
        heartbeat: float,
        origins: Sequence[str],
        record_count: int,
        record_bytes: int,
        record_redaction: str,
        head_limit: int,
        max_connections: int,
        idle_timeout: float,
        head_timeout: float,
        body_timeout: float,
        write_timeout: float,
        tls_port: int | None,
        tls_certificate: str | None,
        tls_key: str | None,
        tls_directory: str | None,
        tls_names: Sequence[str],
    ) -> Config: ...

@final
class Route:
    """A ready runner, and the names under which requests reach it. Frozen.

    Args:
        runner_id: Identifies the runner for as long as the process lives; never used twice.
        socket_path: The engine's Unix socket.
        api_key: Sent to the engine as a bearer token.
        slots: Requests that the engine answers at the same time.
        context_size: Tokens of context for each slot.
        context_limit: The most that the model can be loaded with.
        capabilities: What the model can do: `completion`, `tools`, `thinking`, `vision`, `audio`,
            `embedding`, `insert`.
        has_stops: Whether its engine ends texts at strings that no request has named.
        backend: `llama.cpp`.
        model: The model's display name, as metrics and logs show it.
        model_id: The model's ID, `sha256:…`.
        mode: `completion`, `embedding` or `reranking`.
        names: Every spelling of `model` in a request that means this runner.
    """

    def __new__(
        cls,
        *,
        runner_id: str,
        socket_path: str,
        api_key: str,
        slots: int,
        context_size: int,
        context_limit: int,
        capabilities: Sequence[str],
        has_stops: bool,
        backend: str,
        model: str,
        model_id: str,
        mode: str,
        names: Sequence[str],
    ) -> Route: ...
    @property
    def runner_id(self) -> str: ...

@final
class RunnerSnapshot:
    """What one runner is doing at this moment."""

    runner_id: str
    leases: int
    """Requests that it is answering."""
    queued: int
    """Requests that wait for one of its slots."""
    idle_seconds: float
    """Seconds since its last lease ended, or since it was published; 0.0 while it has leases."""
    slots: int

@final
class ModelTotals:
    """What was counted for one model in one mode since the start. Counters only grow."""

    backend: str
    model: str
    mode: str
    requests_ok: int
    requests_client_error: int
    requests_engine_error: int
    requests_cancelled: int
    requests_timed_out: int
    """Those whose client took nothing of the answer for too long."""
    prompt_tokens: int
    """Prompt tokens, cached ones included."""
    cached_prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    """Completion tokens that were thoughts, as far as it was seen."""
    stream_events: int
    queue_seconds: float
    """From whole requests to their leases: waiting for a runner to load, and for a slot."""
    duration_seconds: float
    """From requests' arrivals to the last bytes of their answers, summed."""
    first_byte_seconds: float
    """From requests' arrivals to the first bytes of their answers' bodies, summed."""
    first_bytes: int
    """Requests that had such a first byte."""
    queue_waits: Histogram
    """Seconds that requests waited for a slot."""
    load_waits: Histogram
    """Seconds that requests waited for a runner to be ready; without those that found one."""
    inter_token_gaps: Histogram
    """Seconds between one token and the next of a streamed answer."""
    operations: list[OperationTotals]
    """One for each operation that there was."""

@final
class OperationTotals:
    """What was measured of one operation of a model, as OpenTelemetry's conventions have it."""

    operation: str
    """`chat`, `text_completion`, `embeddings`, `rerank`, `transcription` or `other`."""
    durations: dict[str, Histogram]
    """Seconds from arrival to last byte, by outcome."""
    time_to_first_token: Histogram
    """Seconds from arrival to the first token, of answers that were delivered whole."""
    time_per_output_token: Histogram
    """Seconds for each token after the first, of answers that were delivered whole."""
    input_tokens: Histogram
    """Prompt tokens of a request."""
    output_tokens: Histogram
    """Tokens produced for a request."""

@final
class Histogram:
    """How often values lay between bounds."""

    bounds: list[float]
    """Inclusive upper bounds, ascending."""
    counts: list[int]
    """One for each bound, and a last one for what lies above all; not cumulative."""
    sum: float

@final
class Snapshot:
    """All that the data plane has counted, taken at one moment."""

    runners: list[RunnerSnapshot]
    models: list[ModelTotals]
    open_connections: int
    requests_in_flight: int
    requests_refused: dict[str, int]
    """Requests that the data plane answered itself, by error code."""
    upstream_connections_opened: int
    upstream_connections_reused: int

@final
class DataPlane:
    """The running data plane. All methods may be called from any thread."""

    @staticmethod
    def start(config: Config) -> DataPlane:
        """Bind the listeners and start the threads.

        Raises:
            OSError: An address cannot be bound; `errno` says why.
            ValueError: The configuration makes no sense, or the certificate cannot be used.
        """

    @property
    def addresses(self) -> list[str]:
        """Where it listens: `http://127.0.0.1:12434`, `https://…`, `unix:///run/x.sock`."""

    @property
    def certificate_problem(self) -> str | None:
        """Why the certificate that is on disk now is not used; the one before still is."""

    def publish(self, routes: Sequence[Route]) -> None:
        """Replace the whole route table. Runners that are not in it take no new request."""

    def retire(self, runner_id: str) -> int:
        """Take a runner off the route table, and say how many leases it still holds.

        Requests that wait for one of its slots ask for a lease anew. Call again until it says 0.
        Unknown runners hold 0.
        """

    def snapshot(self) -> Snapshot:
        """Everything counted so far."""

    def stop(self, grace: float) -> bool:
        """Refuse new requests, let those in flight end, then close. Blocks without the GIL.

        Args:
            grace: Seconds that requests in flight get.

        Returns:
            True if all of them ended by themselves.
        """
