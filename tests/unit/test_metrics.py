"""`GET /metrics`: our own numbers, the engines', and engines that do not answer."""

from __future__ import annotations

import asyncio
import contextlib
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from model_runner.telemetry import Exporter, Sources
from support.control_planes import FakeRunner, serving

DOCUMENT = Path(__file__).parents[2] / "METRICS.md"


@dataclass
class Activity:
    runner_id: str = "r1"
    leases: int = 2
    queued: int = 3
    idle_seconds: float = 0.0
    slots: int = 4


@dataclass
class Histogram:
    bounds: list[float] = field(default_factory=lambda: [0.5, 1.0])
    counts: list[int] = field(default_factory=lambda: [3, 0, 2])
    sum: float = 4.25


@dataclass
class Operation:
    operation: str = "chat"
    durations: dict[str, Histogram] = field(
        default_factory=lambda: {
            "ok": Histogram(),
            "cancelled": Histogram(counts=[0, 1, 0], sum=0.75),
            "timed_out": Histogram(counts=[0, 0, 0], sum=0.0),
        }
    )
    time_to_first_token: Histogram = field(default_factory=Histogram)
    time_per_output_token: Histogram = field(default_factory=Histogram)
    input_tokens: Histogram = field(default_factory=lambda: Histogram(sum=100.0))
    output_tokens: Histogram = field(default_factory=lambda: Histogram(sum=50.0))


@dataclass
class Totals:
    backend: str = "llama.cpp"
    model: str = "ai/tiny-script"
    mode: str = "completion"
    requests_ok: int = 10
    requests_client_error: int = 1
    requests_engine_error: int = 2
    requests_cancelled: int = 3
    requests_timed_out: int = 4
    prompt_tokens: int = 100
    cached_prompt_tokens: int = 40
    completion_tokens: int = 50
    reasoning_tokens: int = 20
    stream_events: int = 60
    queue_seconds: float = 0.5
    duration_seconds: float = 9.5
    first_byte_seconds: float = 1.5
    first_bytes: int = 12
    queue_waits: Histogram = field(default_factory=Histogram)
    load_waits: Histogram = field(default_factory=Histogram)
    inter_token_gaps: Histogram = field(default_factory=Histogram)
    operations: list[Operation] = field(default_factory=lambda: [Operation()])


@dataclass
class Snapshot:
    runners: list[Activity] = field(default_factory=list)
    models: list[Totals] = field(default_factory=list)
    open_connections: int = 5
    requests_in_flight: int = 6
    requests_refused: dict[str, int] = field(default_factory=dict)
    upstream_connections_opened: int = 7
    upstream_connections_reused: int = 8


@dataclass
class Lifecycle:
    backend: str = "llama.cpp"
    model: str = "ai/tiny-script"
    mode: str = "completion"
    loads: int = 4
    load_failures: int = 1
    load_seconds: float = 2.5
    evictions: int = 2
    idle_unloads: int = 1
    crashes: int = 1


def exporter(snapshot=None, runners=(), lifecycle=(), **options):
    taken = snapshot or Snapshot()
    return Exporter(Sources(lambda: taken, lambda: runners, lambda: lifecycle), **options)


def scrape(tmp_path, page, *requests):
    async def main():
        async with serving(tmp_path, exporter=page) as client:
            return [await client.send(*request) for request in requests or [("GET", "/metrics")]]

    return asyncio.run(main())


def values(text):
    """Samples by name and labels; the strict parser also checks that families come once."""
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families)
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
    }


MODEL = ("ai/tiny-script", "completion", "llama.cpp")


def test_our_own_numbers(tmp_path):
    runners = [FakeRunner(), FakeRunner(runner_id="r2", state="retiring")]
    activity = [Activity(), Activity(runner_id="r2", leases=1), Activity(runner_id="gone")]
    snapshot = Snapshot(activity, [Totals()], requests_refused={"model_not_found": 9})
    page = exporter(snapshot, runners, [Lifecycle()])
    (answer,) = scrape(tmp_path, page)
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = values(answer.text)
    outcome = ("ai/tiny-script", "cancelled", "completion", "llama.cpp")
    assert found[("model_runner_requests_total", *outcome)] == 3
    outcome = ("ai/tiny-script", "completion", "llama.cpp", "timed_out")
    assert found[("model_runner_requests_total", *outcome)] == 4
    assert found[("model_runner_prompt_tokens_total", *MODEL)] == 100
    assert found[("model_runner_cached_prompt_tokens_total", *MODEL)] == 40
    assert found[("model_runner_completion_tokens_total", *MODEL)] == 50
    assert found[("model_runner_reasoning_tokens_total", *MODEL)] == 20
    assert found[("model_runner_request_duration_seconds_total", *MODEL)] == 9.5
    assert found[("model_runner_request_first_byte_seconds_total", *MODEL)] == 1.5
    assert found[("model_runner_request_first_bytes_total", *MODEL)] == 12
    assert found["model_runner_refused_requests_total", "model_not_found"] == 9
    assert found[("model_runner_open_connections",)] == 5
    assert found[("model_runner_requests_in_flight",)] == 6
    assert found[("model_runner_runner_leases", *MODEL)] == 3
    assert found[("model_runner_runner_queued_requests", *MODEL)] == 6
    assert found[("model_runner_runners", *MODEL, "ready")] == 1
    assert found[("model_runner_runners", *MODEL, "retiring")] == 1
    assert found[("model_runner_loads_total", *MODEL)] == 4
    assert found[("model_runner_load_seconds_total", *MODEL)] == 2.5
    assert found[("process_resident_memory_bytes",)] > 0


def samples(text, name):
    """The samples of one name, with their labels."""
    return [
        (sample.labels, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    ]


def test_histograms_are_cumulative_and_labelled_as_the_conventions_have_it(tmp_path):
    (answer,) = scrape(tmp_path, exporter(Snapshot(models=[Totals()])))
    ours = {"backend": "llama.cpp", "model": "ai/tiny-script", "mode": "completion"}
    for name in ("queue_wait", "load_wait", "inter_token_gap"):
        name = f"model_runner_{name}_seconds"
        assert samples(answer.text, f"{name}_bucket") == [
            ({**ours, "le": "0.5"}, 3),
            ({**ours, "le": "1.0"}, 3),
            ({**ours, "le": "+Inf"}, 5),
        ]
        assert samples(answer.text, f"{name}_sum") == [(ours, 4.25)]
        assert samples(answer.text, f"{name}_count") == [(ours, 5)]
    theirs = {
        "gen_ai_provider_name": "llama.cpp",
        "gen_ai_request_model": "ai/tiny-script",
        "gen_ai_operation_name": "chat",
    }
    # Only outcomes that there were; a success has no `error.type`.
    assert samples(answer.text, "gen_ai_server_request_duration_seconds_count") == [
        ({**theirs, "error_type": "cancelled"}, 1),
        ({**theirs, "error_type": ""}, 5),
    ]
    for name in ("time_to_first_token", "time_per_output_token"):
        assert samples(answer.text, f"gen_ai_server_{name}_seconds_count") == [(theirs, 5)]
    assert samples(answer.text, "gen_ai_client_token_usage_sum") == [
        ({**theirs, "gen_ai_token_type": "input"}, 100),
        ({**theirs, "gen_ai_token_type": "output"}, 50),
    ]


def test_every_metric_of_ours_is_documented(tmp_path):
    page = exporter(Snapshot([Activity()], [Totals()]), [FakeRunner()], [Lifecycle()])
    (answer,) = scrape(tmp_path, page)
    names = r"((?:model_runner|process|gen_ai)_\w+)"
    exported = set(re.findall(rf"^# TYPE {names} ", answer.text, re.M))
    documented = set(re.findall(rf"^\| `{names}` \|", DOCUMENT.read_text("utf-8"), re.M))
    assert exported == documented


def test_metrics_can_be_disabled_and_are_only_got(tmp_path):
    (disabled, head) = scrape(tmp_path, None, ("GET", "/metrics"), ("HEAD", "/metrics"))
    assert (disabled.status, disabled.text) == (404, "404 page not found\n")
    assert head.status == 404
    posted, headed = scrape(tmp_path, exporter(), ("POST", "/metrics"), ("HEAD", "/metrics"))
    assert posted.status == headed.status == 405


@contextlib.asynccontextmanager
async def engine(path, text, *, requests):
    """An engine that exports `text`, or hangs if that is None."""

    leaving = asyncio.Event()

    async def answer(request):
        requests.append((request.path, request.headers["Authorization"]))
        if text is None:
            await leaving.wait()
        return web.Response(text=text)

    application = web.Application()
    application.router.add_get("/metrics", answer)
    server = web.AppRunner(application)
    await server.setup()
    await web.UnixSite(server, str(path)).start()
    try:
        yield FakeRunner(socket_path=path, api_key="key")
    finally:
        leaving.set()
        await server.cleanup()


EXPORT = "# TYPE llamacpp:requests_processing gauge\nllamacpp:requests_processing 1\n"


def test_every_ready_engine_is_asked(tmp_path):
    requests: list[tuple[str, str]] = []

    async def main():
        async with (
            engine(tmp_path / "a.sock", EXPORT, requests=requests) as first,
            engine(tmp_path / "b.sock", EXPORT, requests=requests) as second,
        ):
            embedding = replace(second, mode="embedding")
            loading = FakeRunner(model="ai/loading", state="loading", socket_path=tmp_path / "no")
            return await exporter(runners=[first, embedding, loading]).render()

    found = values(asyncio.run(main()))
    assert found[("llamacpp:requests_processing", *MODEL)] == 1
    assert found["llamacpp:requests_processing", "ai/tiny-script", "embedding", "llama.cpp"] == 1
    assert requests == [("/metrics", "Bearer key")] * 2


def test_engines_that_do_not_answer_are_left_out(tmp_path):
    async def main():
        async with (
            engine(tmp_path / "a.sock", EXPORT, requests=[]) as good,
            engine(tmp_path / "b.sock", None, requests=[]) as hanging,
        ):
            dead = FakeRunner(model="ai/dead", socket_path=tmp_path / "none.sock")
            stuck = replace(hanging, model="ai/stuck")
            return await exporter(runners=[dead, stuck, good], timeout=0.1).render()

    text = asyncio.run(main())
    assert 'llamacpp:requests_processing{backend="llama.cpp",model="ai/tiny-script"' in text
    assert text.count("llamacpp:requests_processing{") == 1
