"""Flaws of llama.cpp's own OpenAI dialect, which clients of ours do not get to see."""

from __future__ import annotations

import base64
import json
import struct
from typing import TYPE_CHECKING, Any

import pytest

from support.server import add_model, chat_body, events, running_server
from support.spoken_models import TOOLS, tiny_caller, tiny_early, tiny_emoji
from support.tiny_gguf import tiny_embed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.server import Answer, Server

CHAT, TEXT, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
CALLER, EARLY, EMOJI, EMBED = "ai/caller", "ai/early", "ai/emoji", "ai/embed"
JSON = {"type": "json_object"}

OTHER: dict[str, Any] = {
    "type": "function",
    "function": {"name": "tell_time", "parameters": {"type": "object", "properties": {}}},
}


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, engine_environment: dict[str, str]
) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("repairs")
    makers = {CALLER: tiny_caller, EARLY: tiny_early, EMOJI: tiny_emoji, EMBED: tiny_embed}
    for name, make in makers.items():
        add_model(directory, name, make)
    with running_server(directory, **engine_environment) as running:
        yield running


def post(server: Server, path: str, body: dict[str, Any]) -> Answer:
    return server.request(path, json.dumps(body).encode(), method="POST")


def streamed(server: Server, path: str, body: dict[str, Any]) -> list[Any]:
    answer = post(server, path, {**body, "stream": True})
    assert answer.status == 200, answer.text
    *data, done = events(answer.body)
    assert done == "[DONE]"
    return [json.loads(event) for event in data]


def test_the_named_tool_is_called_and_no_other(server: Server) -> None:
    for tools in ([OTHER, *TOOLS], [*TOOLS, OTHER]):
        for name in ("get_weather", "tell_time"):
            named = {"type": "function", "function": {"name": name}}
            allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required"}}
            allowed["allowed_tools"]["tools"] = [named]  # type: ignore[index]
            for choice in (named, allowed):
                body = chat_body(CALLER, tools=tools, tool_choice=choice, max_tokens=60)
                answer = post(server, CHAT, body)
                assert answer.status == 200, answer.text
                calls = answer.json()["choices"][0]["message"]["tool_calls"]
                assert {call["function"]["name"] for call in calls} == {name}


def test_a_tool_that_is_not_there_cannot_be_named(server: Server) -> None:
    choice = {"type": "function", "function": {"name": "get_wether"}}
    answer = post(server, CHAT, chat_body(CALLER, tools=TOOLS, tool_choice=choice))
    assert answer.status == 400
    error = answer.json()["error"]
    assert error["param"] == "tool_choice"
    assert "no tool is called `get_wether`" in error["message"]


@pytest.mark.parametrize("limit", [2, 5, 30])
def test_a_chat_that_begins_with_an_emoji_begins_with_a_role(server: Server, limit: int) -> None:
    first, *rest = streamed(server, CHAT, chat_body(EMOJI, max_tokens=limit))
    [choice] = first["choices"]
    assert choice["delta"] == {"role": "assistant", "content": None}
    assert choice["finish_reason"] is None
    assert first["object"] == "chat.completion.chunk"
    assert {event["id"] for event in rest} == {first["id"]}
    assert not any("role" in event["choices"][0]["delta"] for event in rest)
    said = "".join(event["choices"][0]["delta"].get("content") or "" for event in rest)
    assert said == {2: "", 5: "🌞 sunny", 30: "🌞 sunny日"}[limit]


def test_a_stream_of_several_choices_has_one_usage_which_is_the_sum(server: Server) -> None:
    options = {"include_usage": True}
    for model in (CALLER, EMOJI):
        body = chat_body(model, n=2, max_tokens=5)
        *said, last = streamed(server, CHAT, {**body, "stream_options": options})
        assert not any(event.get("usage") or not event["choices"] for event in said)
        assert last["choices"] == []
        whole = post(server, CHAT, body).json()["usage"]
        assert last["usage"]["completion_tokens"] == whole["completion_tokens"] == 10
        assert last["usage"]["prompt_tokens"] == whole["prompt_tokens"]
        assert last["usage"]["total_tokens"] == whole["total_tokens"]
        for index in (0, 1):
            deltas = [
                choice["delta"]
                for event in said
                for choice in event["choices"]
                if choice["index"] == index
            ]
            assert deltas[0]["role"] == "assistant"


def test_a_stream_of_several_prompts_has_events_only_and_ends_with_the_sum(server: Server) -> None:
    body = {"model": CALLER, "prompt": ["Hello", "you"], "max_tokens": 3, "temperature": 0}
    data = streamed(server, TEXT, body)
    assert all(event["choices"] for event in data)
    whole = post(server, TEXT, body).json()["usage"]
    used = [event["usage"] for event in data if event.get("usage")]
    assert used[-1]["completion_tokens"] == whole["completion_tokens"] == 6
    assert used[-1]["prompt_tokens"] == whole["prompt_tokens"]


def test_embeddings_are_cut_and_normalised(server: Server) -> None:
    body = {"model": EMBED, "input": ["Hello", "you"]}
    full = [entry["embedding"] for entry in post(server, EMBEDDINGS, body).json()["data"]]
    size = len(full[0])
    for encoding in ("float", "base64"):
        short = post(server, EMBEDDINGS, {**body, "dimensions": 8, "encoding_format": encoding})
        assert short.status == 200
        for entry, whole in zip(short.json()["data"], full, strict=True):
            vector = entry["embedding"]
            if encoding == "base64":
                vector = struct.unpack("<8f", base64.b64decode(vector, validate=True))
            length = sum(number**2 for number in whole[:8]) ** 0.5
            expected = [number / length for number in whole[:8]]
            assert vector == pytest.approx(expected, abs=1e-6)
    same = post(server, EMBEDDINGS, {**body, "dimensions": size}).json()["data"]
    assert [entry["embedding"] for entry in same] == full
    for wrong, reason in ((size + 1, f"have {size}"), (0, "from 1 up"), ("8", "from 1 up")):
        refusal = post(server, EMBEDDINGS, {**body, "dimensions": wrong})
        assert refusal.status == 400
        assert refusal.json()["error"]["param"] == "dimensions"
        assert reason in refusal.json()["error"]["message"]


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
SOUND = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}


@pytest.mark.parametrize(
    ("path", "body", "reason"),
    [
        (CHAT, {"messages": [{"role": "user", "content": [IMAGE]}]}, "image input"),
        (CHAT, {"messages": [{"role": "user", "content": [SOUND]}]}, "audio input"),
        (CHAT, {"messages": "hello"}, "messages"),
        (CHAT, {"messages": [{"content": "Hi"}]}, "role"),
        (CHAT, {"messages": [{"role": 7, "content": "Hi"}]}, "string"),
        (CHAT, {"messages": [{"role": "user", "content": 7}]}, "content"),
        (CHAT, {"messages": [{"role": "user", "content": "Hi"}], "tools": "x"}, "tools"),
        (CHAT, {"messages": [{"role": "user", "content": "Hi"}], "tools": [{}]}, "tool"),
        (CHAT, {"messages": [{"role": "user", "content": "Hi"}], "grammar": "((("}, "grammar"),
        (CHAT, {"messages": [{"role": "user", "content": "day " * 20_000}]}, "context size"),
        (TEXT, {"prompt": "day " * 20_000}, "context size"),
        (TEXT, {"prompt": 7}, "prompt"),
        (EMBEDDINGS, {"model": EMBED, "input": "day " * 20_000}, "at most"),
        (EMBEDDINGS, {"model": EMBED, "input": {}}, "prompt"),
    ],
)
def test_what_cannot_work_is_a_bad_request(
    server: Server, path: str, body: dict[str, Any], reason: str
) -> None:
    for stream in (False, True):
        answer = post(server, path, {"model": CALLER, "stream": stream, **body})
        assert answer.status == 400, answer.text
        error = answer.json()["error"]
        assert reason in error["message"]
        assert error["type"] in ("invalid_request_error", "exceed_context_size_error")
        assert answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("model", "body"),
    [
        (CALLER, {"messages": "ended", "response_format": JSON}),
        (CALLER, {"messages": "ended", "json_schema": {"type": "object"}}),
        (CALLER, {"messages": "ended", "tools": TOOLS, "tool_choice": "required"}),
        (EARLY, {"tools": TOOLS, "tool_choice": "required"}),
        (EARLY, {"tools": TOOLS, "tool_choice": TOOLS[0]}),
        (EARLY, {"tools": TOOLS, "response_format": JSON}),
    ],
)
def test_what_would_kill_the_engine_is_refused_and_others_go_on(
    server: Server, model: str, body: dict[str, Any]
) -> None:
    assert server.chat(model).status == 200
    engines = server.engine_pids()
    if body.get("messages") == "ended":
        begun = {"role": "assistant", "content": "{<|im_end|>"}
        body = {**body, "messages": [{"role": "user", "content": "Hi"}, begun]}
    for stream in (False, True):
        answer = post(server, CHAT, {**chat_body(model, max_tokens=5), **body, "stream": stream})
        assert answer.status == 400, answer.text
        assert answer.json()["error"]["code"] == "invalid_parameter"
    assert server.chat(model).status == 200
    assert server.engine_pids() == engines


def test_it_is_refused_in_other_dialects_too(server: Server) -> None:
    assert server.chat(EARLY).status == 200
    engines = server.engine_pids()
    tool = {"name": "get_weather", "input_schema": {"type": "object", "properties": {}}}
    body = {**chat_body(EARLY, max_tokens=5), "tools": [tool], "tool_choice": {"type": "any"}}
    for stream in (False, True):
        answer = post(server, "/v1/messages", {**body, "stream": stream})
        assert answer.status == 400, answer.text
        assert answer.json()["error"]["type"] == "invalid_request_error"
    assert server.engine_pids() == engines


def test_answers_can_be_held_to_formats_all_the_same(server: Server) -> None:
    begun = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "{"}]
    for model, body in (
        (CALLER, {"response_format": JSON}),
        (CALLER, {"response_format": JSON, "messages": begun}),
        (CALLER, {"tools": TOOLS, "tool_choice": "required"}),
        (EARLY, {"response_format": JSON}),
        (EARLY, {"tools": TOOLS}),
    ):
        answer = post(server, CHAT, {**chat_body(model, max_tokens=5), **body})
        assert answer.status == 200, answer.text
