"""OpenAI's Python SDK: typed errors, request IDs, retries, timeouts and base URLs."""

from __future__ import annotations

import openai
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
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=DEADLINE) as made:
        yield made


def assert_typed(error):
    """What every refusal must have: a cause, a type, an ID, and no further try."""
    assert error.message
    assert error.type
    assert error.request_id
    assert error.response.headers["x-request-id"] == error.request_id
    assert error.request.headers["x-stainless-retry-count"] == "0"


@pytest.mark.parametrize("stream", [False, True])
def test_an_absent_model_is_not_found(client, stream):
    with pytest.raises(openai.NotFoundError, match=ABSENT) as caught:
        client.chat.completions.create(model=ABSENT, messages=HELLO, stream=stream)
    assert caught.value.code == "model_not_found"
    assert_typed(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": "Hello"},
        {"messages": [{"role": "user", "content": 7}]},
        {"temperature": "hot"},
        {"max_tokens": "many"},
        {"response_format": {"type": "poem"}},
        {"messages": [{"role": "user", "content": TOO_LONG}]},
        {"model": ENCODER},
    ],
    ids=[
        *("messages", "content", "temperature", "max_tokens", "response_format"),
        *("overflow", "embedding model"),
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_wrong_request_is_a_bad_one(client, fields, stream):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            **{"model": SPEAKER, "messages": HELLO, "stream": stream, **fields}
        )
    assert_typed(caught.value)


def test_an_overflow_says_how_much_there_is_room_for(client):
    with pytest.raises(openai.BadRequestError, match="4096"):
        client.chat.completions.create(
            model=SPEAKER, messages=[{"role": "user", "content": TOO_LONG}]
        )


def test_a_model_that_is_absent_cannot_be_retrieved(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve(ABSENT)
    assert_typed(caught.value)


def test_an_answer_has_a_request_id(client):
    raw = client.chat.completions.with_raw_response.create(
        model=SPEAKER, messages=HELLO, max_tokens=1
    )
    completion = raw.parse()
    assert completion._request_id == raw.headers["x-request-id"]
    given = client.chat.completions.create(
        model=SPEAKER, messages=HELLO, max_tokens=1, extra_headers={"X-Request-Id": "mine-1"}
    )
    assert given._request_id == "mine-1"


def test_a_timeout_ends_the_generation(client, server):
    before = cancelled(server)
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.2, max_retries=0).chat.completions.create(
            model=CHATTERBOX, messages=HELLO, n=2
        )
    wait_for_cancellation(server, before)


def test_what_nobody_does_here_is_said_to_be_so(client):
    with pytest.raises(openai.APIStatusError) as caught:
        client.with_options(max_retries=0).images.generate(model=SPEAKER, prompt="a cat")
    assert caught.value.status_code == 501
    assert caught.value.message


@pytest.mark.parametrize(
    "base", ["", "/v1", "/engines", "/engines/v1", "/engines/llama.cpp", "/engines/llama.cpp/v1"]
)
def test_every_base_url_leads_to_inference(server, base):
    with openai.OpenAI(base_url=f"{server.url}{base}", api_key="none") as client:
        said = client.chat.completions.create(
            model=SPEAKER, messages=HELLO, temperature=0, max_tokens=2
        )
        assert said.choices[0].message.content == " Hello there"
        assert client.embeddings.create(model=ENCODER, input="the").data[0].embedding


# Without a `/v1`, `/models` is Docker Model Runner's.
@pytest.mark.parametrize("base", ["/v1", "/engines/v1", "/engines/llama.cpp/v1"])
def test_every_base_url_with_a_version_leads_to_the_models(server, base):
    with openai.OpenAI(base_url=f"{server.url}{base}", api_key="none") as client:
        assert any(SPEAKER in model.id for model in client.models.list())
