"""OpenAI's Python SDK: chats, plain, streamed and parsed."""

from __future__ import annotations

import asyncio
import json
from typing import Literal

import openai
import pytest
from pydantic import BaseModel

from support.client_models import (
    CALLED_WITH,
    CHATTERBOX,
    EMOJI_SPEAKER,
    EMOJI_SPOKEN,
    JSON_SPEAKER,
    SPEAKER,
    SPOKEN,
    THINKER,
    cancelled,
    wait_for_cancellation,
)
from support.server import DEADLINE
from support.spoken_models import THOUGHT, THOUGHTFUL_ANSWER

HELLO = [{"role": "user", "content": "Hello"}]


class Stay(BaseModel):
    city: str
    days: int


class Verdict(BaseModel):
    verdict: Literal["guilty", "innocent"]


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=DEADLINE) as made:
        yield made


def test_a_chat_is_answered(client):
    completion = client.chat.completions.create(
        model=SPEAKER,
        messages=[
            {"role": "developer", "content": "Talk like a pirate."},
            {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
        ],
        temperature=0,
    )
    choice = completion.choices[0]
    assert choice.message.content.strip() == SPOKEN
    assert (choice.message.role, choice.finish_reason) == ("assistant", "stop")
    assert completion.object == "chat.completion"
    assert completion.usage.prompt_tokens + completion.usage.completion_tokens == (
        completion.usage.total_tokens
    )
    assert completion.usage.prompt_tokens_details.cached_tokens >= 0


def test_a_chat_is_streamed(client):
    stream = client.chat.completions.create(
        model=SPEAKER,
        messages=HELLO,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text.strip() == SPOKEN
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens > len(SPOKEN.split())


def test_usage_does_not_come_unasked(client):
    stream = client.chat.completions.create(
        model=SPEAKER, messages=HELLO, max_tokens=3, stream=True
    )
    assert all(chunk.usage is None and chunk.choices for chunk in stream)


def test_the_stream_helper_accumulates(client):
    with client.chat.completions.stream(model=SPEAKER, messages=HELLO, temperature=0) as stream:
        events = list(stream)
        completion = stream.get_final_completion()
    deltas = [event.delta for event in events if event.type == "content.delta"]
    (done,) = [event for event in events if event.type == "content.done"]
    assert "".join(deltas).strip() == done.content.strip() == SPOKEN
    assert completion.choices[0].message.content.strip() == SPOKEN
    assert completion.choices[0].message.role == "assistant"
    assert completion.choices[0].finish_reason == "stop"


def test_characters_of_several_tokens_come_whole(client):
    stream = client.chat.completions.create(
        model=EMOJI_SPEAKER, messages=HELLO, temperature=0, stream=True
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert "".join(pieces).strip() == EMOJI_SPOKEN


def test_a_schema_is_parsed(client):
    completion = client.chat.completions.parse(
        model=JSON_SPEAKER, messages=HELLO, temperature=0, response_format=Stay
    )
    assert completion.choices[0].message.parsed == Stay(**CALLED_WITH)
    assert completion.choices[0].message.refusal is None


def test_a_schema_binds_a_model_that_would_say_something_else(client):
    completion = client.chat.completions.parse(
        model=SPEAKER, messages=HELLO, temperature=0, response_format=Verdict
    )
    assert completion.choices[0].message.parsed.verdict in {"guilty", "innocent"}


def test_a_schema_is_parsed_from_a_stream(client):
    with client.chat.completions.stream(
        model=JSON_SPEAKER, messages=HELLO, temperature=0, response_format=Stay
    ) as stream:
        snapshots = [event.parsed for event in stream if event.type == "content.delta"]
        assert stream.get_final_completion().choices[0].message.parsed == Stay(**CALLED_WITH)
    assert snapshots[-1] == CALLED_WITH


def test_a_parse_that_is_cut_off_says_so(client):
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(
            model=JSON_SPEAKER, messages=HELLO, temperature=0, response_format=Stay, max_tokens=2
        )


def test_json_mode_gives_json(client):
    completion = client.chat.completions.create(
        model=JSON_SPEAKER,
        messages=HELLO,
        temperature=0,
        response_format={"type": "json_object"},
    )
    assert json.loads(completion.choices[0].message.content) == CALLED_WITH


def test_two_choices_are_counted_both(client):
    completion = client.chat.completions.create(
        model=SPEAKER, messages=HELLO, temperature=0, n=2, max_completion_tokens=5
    )
    assert [choice.index for choice in completion.choices] == [0, 1]
    assert [choice.finish_reason for choice in completion.choices] == ["length", "length"]
    assert completion.usage.completion_tokens == 10


def test_two_choices_are_streamed_apart(client):
    stream = client.chat.completions.create(
        model=SPEAKER, messages=HELLO, temperature=0, n=2, max_tokens=5, stream=True
    )
    texts = {0: "", 1: ""}
    for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts[0] == texts[1] != ""


def test_probabilities_come_with_each_token(client):
    completion = client.chat.completions.create(
        model=SPEAKER, messages=HELLO, temperature=0, max_tokens=3, logprobs=True, top_logprobs=2
    )
    tokens = completion.choices[0].logprobs.content
    assert "".join(token.token for token in tokens) == completion.choices[0].message.content
    assert all(len(token.top_logprobs) == 2 for token in tokens)
    assert all(bytes(token.bytes).decode() == token.token for token in tokens)


def test_a_stop_string_is_not_in_the_answer(client):
    completion = client.chat.completions.create(
        model=SPEAKER, messages=HELLO, temperature=0, stop=["tiny"]
    )
    assert completion.choices[0].message.content.strip() == SPOKEN.partition(" tiny")[0]
    assert completion.choices[0].finish_reason == "stop"


def test_thoughts_stand_beside_the_answer(client):
    completion = client.chat.completions.create(model=THINKER, messages=HELLO, temperature=0)
    message = completion.choices[0].message
    assert message.content.strip() == THOUGHTFUL_ANSWER
    assert message.reasoning_content.strip() == THOUGHT


def test_the_asynchronous_client_asks_several_at_once(server):
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            asked = [
                client.chat.completions.create(model=SPEAKER, messages=HELLO, temperature=0)
                for _ in range(4)
            ]
            return [one.choices[0].message.content.strip() for one in await asyncio.gather(*asked)]

    assert asyncio.run(ask()) == [SPOKEN] * 4


def test_a_stream_that_is_closed_ends_the_generation(client, server):
    before = cancelled(server)
    stream = client.chat.completions.create(model=CHATTERBOX, messages=HELLO, stream=True)
    for _ in zip(range(3), stream, strict=False):
        pass
    stream.close()
    wait_for_cancellation(server, before)


def test_a_helper_that_is_left_ends_the_generation(client, server):
    before = cancelled(server)
    with client.chat.completions.stream(model=CHATTERBOX, messages=HELLO) as stream:
        next(iter(stream))
    wait_for_cancellation(server, before)
