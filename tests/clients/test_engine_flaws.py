"""The official SDKs where an engine does otherwise than the documentation of a dialect says."""

from __future__ import annotations

import math

import anthropic
import ollama
import openai
import pytest

from support.client_models import (
    CALLER,
    EMOJI_SPEAKER,
    EMOJI_SPOKEN,
    ENCODER,
    PNG,
    SPEAKER,
)
from support.server import DEADLINE
from support.spoken_models import TOOLS

HELLO = [{"role": "user", "content": "Hello"}]
QUESTION = {"role": "user", "content": "What is the weather in Paris?"}
PICTURE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
TIME = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=DEADLINE) as made:
        yield made


def test_a_stream_whose_first_character_takes_four_tokens_begins_with_the_role(client):
    with client.chat.completions.stream(
        model=EMOJI_SPEAKER, messages=HELLO, temperature=0
    ) as stream:
        message = stream.get_final_completion().choices[0].message
    assert (message.role, message.content.strip()) == ("assistant", EMOJI_SPOKEN)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    "fields",
    [{"tools": "all"}, {"messages": [{"role": "user", "content": [PICTURE]}]}],
    ids=["tools", "picture"],
)
def test_a_wrong_request_is_a_bad_one_and_not_tried_again(client, fields, stream):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            **{"model": SPEAKER, "messages": HELLO, "stream": stream, **fields}
        )
    assert caught.value.type == "invalid_request_error"
    assert caught.value.request.headers["x-stainless-retry-count"] == "0"


def test_a_picture_for_a_model_of_texts_is_refused_in_every_dialect(client, server):
    picture = {"type": "input_image", "image_url": PICTURE["image_url"]["url"], "detail": "auto"}
    with pytest.raises(openai.BadRequestError, match="image"):
        client.responses.create(model=SPEAKER, input=[{"role": "user", "content": [picture]}])
    source = {"type": "base64", "media_type": "image/png", "data": PNG}
    content = [{"type": "image", "source": source}]
    with (
        anthropic.Anthropic(base_url=server.url, api_key="none") as other,
        pytest.raises(anthropic.BadRequestError, match="image"),
    ):
        other.messages.create(
            model=SPEAKER, max_tokens=9, messages=[{"role": "user", "content": content}]
        )
    with pytest.raises(ollama.ResponseError, match="image") as caught:
        ollama.Client(host=server.url).generate(SPEAKER, "Hello", images=[PNG])
    assert caught.value.status_code == 400


@pytest.mark.parametrize("tokens", range(1, 9))
def test_a_call_that_is_cut_off_is_an_answer_all_the_same(server, tokens):
    function = TOOLS[0]["function"]
    tool = {"name": function["name"], "input_schema": function["parameters"]}
    with anthropic.Anthropic(base_url=server.url, api_key="none") as client:
        message = client.messages.create(
            model=CALLER, max_tokens=tokens, messages=[QUESTION], tools=[tool]
        )
    assert message.stop_reason == "max_tokens"
    assert all(isinstance(b.input, dict) for b in message.content if b.type == "tool_use")
    answer = ollama.Client(host=server.url).chat(
        CALLER, [QUESTION], tools=TOOLS, options={"num_predict": tokens}
    )
    assert answer.done_reason == "length"


def test_an_embedding_that_is_too_long_is_a_bad_request(client):
    with pytest.raises(openai.BadRequestError, match="512"):
        client.embeddings.create(model=ENCODER, input="the " * 3000)


def test_fewer_dimensions_are_given_or_refused(client):
    answer = client.embeddings.create(model=ENCODER, input="the", dimensions=8)
    assert len(answer.data[0].embedding) == 8
    assert math.isclose(sum(value * value for value in answer.data[0].embedding), 1, rel_tol=1e-3)


@pytest.mark.parametrize("stream", [False, True])
def test_the_named_tool_is_called_and_no_other(client, stream):
    fields = {
        "model": CALLER,
        "messages": [QUESTION],
        "tools": [*TOOLS, TIME],
        "tool_choice": {"type": "function", "function": {"name": "get_time"}},
        "parallel_tool_calls": False,
        "temperature": 0,
        "max_tokens": 64,
    }
    if stream:
        with client.chat.completions.stream(**fields) as events:
            for _ in events:
                pass
            message = events.current_completion_snapshot.choices[0].message
    else:
        message = client.chat.completions.create(**fields).choices[0].message
    assert {call.function.name for call in message.tool_calls} == {"get_time"}


def test_a_choice_of_a_tool_that_is_not_there_is_refused(client):
    with pytest.raises(openai.BadRequestError, match="get_time"):
        client.chat.completions.create(
            model=CALLER,
            messages=[QUESTION],
            tools=TOOLS,
            tool_choice={"type": "function", "function": {"name": "get_time"}},
        )


@pytest.mark.parametrize("base", ["", "/engines", "/engines/llama.cpp"])
def test_texts_are_completed_without_a_version_in_the_base_url(server, base):
    with openai.OpenAI(base_url=f"{server.url}{base}", api_key="none") as client:
        text = client.completions.create(model=SPEAKER, prompt="the", temperature=0, max_tokens=2)
        assert text.choices[0].text == " Hello there"
