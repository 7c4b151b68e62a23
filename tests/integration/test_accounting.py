"""The books against the engine's own: what it counted, we counted, whoever asked, left or died."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from support.server import add_model, events, running_server, wait_until
from support.spoken_models import TOOLS, tiny_caller
from support.tiny_gguf import tiny_embed, tiny_random, tiny_rerank

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.server import Server

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
EMBEDDINGS, RERANK = "/v1/embeddings", "/v1/rerank"
SCRIPT, CALLER, ENDLESS = "ai/tiny-script", "ai/tiny-caller", "ai/tiny-random"
EMBED, RANKER = "ai/tiny-embed", "ai/tiny-rerank"

WITH_USAGE = {"stream_options": {"include_usage": True}}


def chat(model: str = SCRIPT, content: str = "Hello", **fields: object) -> tuple[str, Any]:
    messages = [{"role": "user", "content": content}]
    return CHAT, {"model": model, "messages": messages, "temperature": 0, **fields}


def text(prompt: object = "Hello", **fields: object) -> tuple[str, Any]:
    return TEXT, {"model": SCRIPT, "prompt": prompt, "temperature": 0, "max_tokens": 5, **fields}


def embed(content: object) -> tuple[str, Any]:
    return EMBEDDINGS, {"model": EMBED, "input": content}


def rank(*documents: str) -> tuple[str, Any]:
    return RERANK, {"model": RANKER, "query": "hello", "documents": documents}


# As streams and as whole answers; the second time most of a prompt is in the cache.
GENERATING = {
    "chat": chat(),
    "chat, again": chat(),
    "chat, other prompt": chat(content="See you there, and again and again"),
    "chat, two choices": chat(n=2, max_tokens=5),
    "chat, usage": chat(**WITH_USAGE),
    "chat, two choices, usage": chat(n=2, max_tokens=5, **WITH_USAGE),
    "chat, timings": chat(timings_per_token=True, max_tokens=4),
    "chat, two choices, both": chat(n=2, timings_per_token=True, max_tokens=4, **WITH_USAGE),
    "chat, no token": chat(max_tokens=0),
    "thoughts, text and calls": chat(CALLER, tools=TOOLS, parallel_tool_calls=True),
    "calls, two choices": chat(CALLER, tools=TOOLS, n=2),
    "text": text(),
    "text, two choices": text(n=2),
    "text, two prompts": text(["Hello", "see you there"]),
    "text, two prompts alike": text(["aaa", "bbb"]),
    "text, the same prompt twice": text(["ccc", "ccc"]),
    "text, two prompts, two choices": text(["ddd", "eee"], n=2),
    "text, two prompts, two choices by another name": text(["fff", "ggg"], n_cmpl=2),
    "text, prompts of tokens": text([[1, 2, 3], [4, 5, 6]]),
    "text, more prompts than slots": text([f"number {number}" for number in range(7)]),
}

DOCUMENTS = {
    "stop": chat(stop=["you"]),
    "probabilities": chat(logprobs=True, top_logprobs=1),
    "embedding": embed("hello there"),
    "embeddings": embed(["hello there", "you"]),
    "rerank": rank("hello there", "you", "and them"),
}

REFUSED = {
    "wrong type": chat(temperature="warm"),
    "too long": chat(content="a b c " * 5000),
}


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, engine_environment: dict[str, str]
) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("server")
    add_model(directory, SCRIPT)
    add_model(directory, CALLER, tiny_caller)
    add_model(directory, ENDLESS, tiny_random)
    add_model(directory, EMBED, tiny_embed)
    add_model(directory, RANKER, tiny_rerank)
    settings = {"MODEL_RUNNER_SLOTS": "4", **engine_environment}
    with running_server(directory, **settings) as running:
        yield running


def figures(server: Server, model: str, *names: str) -> tuple[float, ...]:
    """Metrics of a model, all of one scrape."""
    found = dict.fromkeys(names, 0.0)
    for family in text_string_to_metric_families(server.request("/metrics").text):
        for sample in family.samples:
            if sample.name in found and sample.labels.get("model") == model:
                found[sample.name] += sample.value
    return tuple(found.values())


def ours(server: Server, model: str) -> tuple[float, ...]:
    """Prompt, cached and completion tokens in our books."""
    names = ("prompt_tokens", "cached_prompt_tokens", "completion_tokens")
    return figures(server, model, *(f"model_runner_{name}_total" for name in names))


def theirs(server: Server, model: str) -> tuple[float, ...]:
    """The same, as the engine counted it."""
    names = ("prompt_tokens_total", "prompt_tokens_cached_total", "tokens_predicted_total")
    prompt, cached, predicted = figures(server, model, *(f"llamacpp:{name}" for name in names))
    return prompt + cached, cached, predicted


def grown(before: tuple[float, ...], after: tuple[float, ...]) -> list[float]:
    return [later - earlier for earlier, later in zip(before, after, strict=True)]


def booked(server: Server, model: str) -> float:
    return server.metric("model_runner_requests_total", model=model)


def check(server: Server, path: str, body: dict[str, Any], status: int = 200) -> bytes:
    """Ask, and compare what the books of both have more then."""
    model = body["model"]
    # The engine's books begin with its process.
    if not theirs(server, model)[0]:
        assert server.request(path, body).status == status
    before, engine_before, count = ours(server, model), theirs(server, model), booked(server, model)
    answer = server.request(path, body)
    assert answer.status == status
    # The last byte may reach us before it is booked.
    wait_until(lambda: booked(server, model) == count + 1, "the request to be booked")
    assert grown(before, ours(server, model)) == grown(engine_before, theirs(server, model))
    return answer.body


@pytest.mark.parametrize("case", GENERATING)
def test_a_stream_is_counted_as_the_engine_counts_it(server, case):
    path, body = GENERATING[case]
    before = ours(server, body["model"])
    stream = events(check(server, path, {**body, "stream": True}))
    assert stream[-1] == "[DONE]"
    # Usage is sent to those who asked for it; text completions have it in any case.
    usages = [usage for event in stream[:-1] if (usage := json.loads(event).get("usage"))]
    if path == CHAT:
        assert len(usages) == ("stream_options" in body)
    if usages:
        counted = grown(before, ours(server, body["model"]))
        # The request may have been made twice, to load the model.
        total = usages[-1]["completion_tokens"]
        assert counted[2] in (total, 2 * total)


@pytest.mark.parametrize("case", GENERATING)
def test_a_whole_answer_is_counted_as_the_engine_counts_it(server, case):
    path, body = GENERATING[case]
    before = ours(server, body["model"])
    usage = json.loads(check(server, path, body))["usage"]
    counted = grown(before, ours(server, body["model"]))
    assert usage["prompt_tokens_details"]["cached_tokens"] <= usage["prompt_tokens"]
    # The request may have been made twice, to load the model.
    assert counted[2] in (usage["completion_tokens"], 2 * usage["completion_tokens"])


@pytest.mark.parametrize("case", DOCUMENTS)
def test_what_is_forwarded_as_it_is_is_counted_as_the_engine_counts_it(server, case):
    check(server, *DOCUMENTS[case])


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_engine_refuses_costs_nothing(server, case):
    assert server.chat(SCRIPT, max_tokens=1).status == 200
    path, body = REFUSED[case]
    for stream in (False, True):
        before = ours(server, SCRIPT)
        check(server, path, {**body, "stream": stream}, status=400)
        assert ours(server, SCRIPT) == before


@pytest.mark.parametrize("stream", [True, False])
def test_thoughts_are_counted_where_they_are_streamed(server, stream):
    def thoughts() -> float:
        return server.metric("model_runner_reasoning_tokens_total", model=CALLER)

    def ask() -> None:
        count = booked(server, CALLER)
        assert server.chat(CALLER, max_tokens=6, stream=stream).status == 200
        wait_until(lambda: booked(server, CALLER) == count + 1, "the request to be booked")

    before = thoughts()
    ask()
    # `Hmm weather ?`, and the token that ends the thoughts begins with a line break of theirs.
    assert thoughts() - before == 4


@pytest.mark.parametrize("choices", [1, 2])
def test_a_cancelled_stream_counts_what_was_delivered_and_no_more_than_was_produced(
    server, choices
):
    assert server.chat(ENDLESS, max_tokens=1).status == 200
    before, engine_before = ours(server, ENDLESS), theirs(server, ENDLESS)
    cancelled = server.metric("model_runner_requests_total", outcome="cancelled")
    connection = server.connect()
    path, body = chat(ENDLESS, stream=True, max_tokens=3000, n=choices)
    connection.request("POST", path, json.dumps(body))
    response = connection.getresponse()
    delivered = 0
    while delivered < 20:
        line = response.readline()
        if line.startswith(b"data: "):
            delta = json.loads(line[6:])["choices"][0]["delta"]
            delivered += bool(delta.get("content"))
    response.close()
    connection.close()
    wait_until(
        lambda: server.metric("model_runner_requests_total", outcome="cancelled") == cancelled + 1,
        "the departure to be booked",
    )
    wait_until(lambda: server.metric("llamacpp:requests_processing") == 0, "an idle engine")
    completion = grown(before, ours(server, ENDLESS))[2]
    produced = grown(engine_before, theirs(server, ENDLESS))[2]
    assert delivered <= completion <= produced


def test_a_mix_of_requests_at_once_adds_up(server):
    assert server.request(*chat(max_tokens=1)).status == 200
    before, engine_before = ours(server, SCRIPT), theirs(server, SCRIPT)
    count = booked(server, SCRIPT)
    mix = [(path, body) for path, body in GENERATING.values() if body["model"] == SCRIPT]
    asked = [(path, {**body, "stream": stream}) for path, body in mix for stream in (True, False)]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda request: server.request(*request), asked))
    assert {answer.status for answer in answers} == {200}
    wait_until(lambda: booked(server, SCRIPT) == count + len(asked), "all to be booked")
    assert grown(before, ours(server, SCRIPT)) == grown(engine_before, theirs(server, SCRIPT))
