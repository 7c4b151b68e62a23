"""Anthropic's Python SDK: typed errors, request IDs, timeouts and base URLs."""

from __future__ import annotations

import anthropic
import pytest

from support.client_models import (
    ABSENT,
    CHATTERBOX,
    ENCODER,
    SPEAKER,
    TOO_LONG,
    cancelled,
    wait_for_cancellation,
)
from support.server import DEADLINE

HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def client(server):
    with anthropic.Anthropic(base_url=server.url, api_key="none", timeout=DEADLINE) as made:
        yield made


def assert_typed(error, kind):
    """What every refusal must have: Anthropic's shape, an ID, and no further try."""
    assert error.body["type"] == "error"
    assert error.body["error"]["type"] == error.type == kind
    assert error.body["error"]["message"]
    assert error.body["request_id"] == error.request_id
    assert error.response.headers["request-id"] == error.request_id
    assert error.response.request.headers["x-stainless-retry-count"] == "0"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_an_absent_model_is_not_found(client, stream):
    with pytest.raises(anthropic.NotFoundError, match=ABSENT) as caught:
        client.messages.create(model=ABSENT, max_tokens=10, messages=HELLO, stream=stream)
    assert_typed(caught.value, "not_found_error")


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": "Hello"},
        {"messages": []},
        {"messages": [{"role": "user", "content": 7}]},
        {"messages": [{"role": "user", "content": [{"type": "poem"}]}]},
        {"max_tokens": 0},
        {"max_tokens": "many"},
        {"extra_body": {"temperature": "hot"}},
        {"stop_sequences": "tiny"},
        {"tools": "all"},
        {"tools": [{"description": "no name"}]},
        {"tool_choice": {"type": "some"}},
        {"thinking": {"type": "sometimes"}},
        {"messages": [{"role": "user", "content": TOO_LONG}]},
        {"model": ENCODER},
    ],
    ids=[
        *("messages", "no messages", "content", "block", "no tokens", "tokens", "temperature"),
        *("stop_sequences", "tools", "tool", "tool_choice", "thinking", "overflow"),
        "embedding model",
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_wrong_request_is_an_invalid_one(client, fields, stream):
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.messages.create(
            **{"model": SPEAKER, "max_tokens": 10, "messages": HELLO, "stream": stream, **fields}
        )
    assert_typed(caught.value, "invalid_request_error")


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_what_is_missing_is_named(client, missing):
    fields = {"model": SPEAKER, "max_tokens": 10, "messages": HELLO}
    del fields[missing]
    with pytest.raises(anthropic.BadRequestError, match=missing) as caught:
        client.post("/v1/messages", body=fields, cast_to=object)
    assert_typed(caught.value, "invalid_request_error")


def test_a_wrong_count_is_an_invalid_one(client):
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.messages.count_tokens(model=SPEAKER, messages="Hello")
    assert_typed(caught.value, "invalid_request_error")
    with pytest.raises(anthropic.NotFoundError) as caught:
        client.messages.count_tokens(model=ABSENT, messages=HELLO)
    assert_typed(caught.value, "not_found_error")


def test_an_answer_has_a_request_id(client):
    message = client.messages.create(model=SPEAKER, max_tokens=1, messages=HELLO)
    assert message._request_id
    with client.messages.stream(model=SPEAKER, max_tokens=1, messages=HELLO) as stream:
        assert stream.request_id


def test_a_timeout_ends_the_generation(client, server):
    before = cancelled(server)
    with pytest.raises(anthropic.APITimeoutError):
        client.with_options(timeout=0.2, max_retries=0).messages.create(
            model=CHATTERBOX, max_tokens=3500, messages=HELLO
        )
    wait_for_cancellation(server, before)


@pytest.mark.parametrize("base", ["", "/anthropic", "/engines", "/engines/llama.cpp"])
def test_every_base_url_leads_to_everything(server, base):
    with anthropic.Anthropic(base_url=f"{server.url}{base}", api_key="none") as client:
        message = client.messages.create(model=SPEAKER, max_tokens=2, messages=HELLO)
        assert message.content[0].text == " Hello there"
        with client.messages.stream(model=SPEAKER, max_tokens=2, messages=HELLO) as stream:
            assert stream.get_final_text() == " Hello there"
        assert client.messages.count_tokens(model=SPEAKER, messages=HELLO).input_tokens > 0
