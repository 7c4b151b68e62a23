"""Anthropic's Python SDK: messages, streams, thoughts and counts."""

from __future__ import annotations

import asyncio

import anthropic
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
THINKING = {"type": "enabled", "budget_tokens": 1024}


class Stay(BaseModel):
    city: str
    days: int


@pytest.fixture(scope="module")
def client(server):
    with anthropic.Anthropic(base_url=server.url, api_key="none", timeout=DEADLINE) as made:
        yield made


def ask(**fields):
    return {"model": SPEAKER, "max_tokens": 200, "messages": HELLO, **fields}


def test_a_message_is_answered(client):
    message = client.messages.create(**ask(system="Be brief."))
    (block,) = message.content
    assert (block.type, block.text.strip()) == ("text", SPOKEN)
    assert (message.type, message.role) == ("message", "assistant")
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    assert message.model == SPEAKER
    assert message.id.startswith("msg_")
    assert message.usage.input_tokens > 0
    assert message.usage.output_tokens > len(SPOKEN.split())


def test_a_conversation_of_blocks_is_answered(client):
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Yes?"}]},
        {
            "role": "user",
            "content": [{"type": "text", "text": "Go"}, {"type": "text", "text": "on"}],
        },
    ]
    system = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    message = client.messages.create(**ask(messages=messages, system=system))
    assert message.content[0].text.strip() == SPOKEN


def test_a_message_is_streamed_event_by_event(client):
    events = list(client.messages.create(**ask(stream=True)))
    kinds = [event.type for event in events if event.type != "ping"]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(kinds[2:-3]) == {"content_block_delta"}
    text = "".join(e.delta.text for e in events if e.type == "content_block_delta")
    assert text.strip() == SPOKEN
    (delta,) = [event for event in events if event.type == "message_delta"]
    assert delta.delta.stop_reason == "end_turn"
    assert delta.usage.output_tokens > len(SPOKEN.split())


@pytest.mark.parametrize(("model", "spoken"), [(SPEAKER, SPOKEN), (EMOJI_SPEAKER, EMOJI_SPOKEN)])
def test_the_stream_helper_accumulates(client, model, spoken):
    with client.messages.stream(**ask(model=model)) as stream:
        heard = "".join(stream.text_stream)
        message = stream.get_final_message()
    assert heard.strip() == message.content[0].text.strip() == spoken
    assert message.role == "assistant"
    assert message.stop_reason == "end_turn"
    assert message.usage.output_tokens > 0


def test_whole_and_streamed_count_alike(client):
    whole = client.messages.create(**ask())
    with client.messages.stream(**ask()) as stream:
        streamed = stream.get_final_message()
    assert streamed.usage.output_tokens == whole.usage.output_tokens
    for one in (whole, streamed):
        cached = one.usage.cache_read_input_tokens or 0
        assert (
            one.usage.input_tokens + cached
            == client.messages.count_tokens(model=SPEAKER, messages=HELLO).input_tokens
        )


def test_a_message_that_is_cut_off_says_so(client):
    message = client.messages.create(**ask(max_tokens=3))
    assert message.stop_reason == "max_tokens"
    assert message.usage.output_tokens == 3


@pytest.mark.parametrize("streamed", [False, True])
def test_a_stop_sequence_is_named(client, streamed):
    fields = ask(stop_sequences=["model", "tiny"])
    if streamed:
        with client.messages.stream(**fields) as stream:
            message = stream.get_final_message()
    else:
        message = client.messages.create(**fields)
    assert message.content[0].text.strip() == SPOKEN.partition(" tiny")[0]
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "tiny")


def test_thoughts_are_a_block_of_their_own(client):
    message = client.messages.create(**ask(model=THINKER, max_tokens=2000, thinking=THINKING))
    thinking, text = message.content
    assert (thinking.type, thinking.thinking.strip()) == ("thinking", THOUGHT)
    assert isinstance(thinking.signature, str)
    assert (text.type, text.text.strip()) == ("text", THOUGHTFUL_ANSWER)
    again = [
        *HELLO,
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": "And?"},
    ]
    answer = client.messages.create(
        **ask(model=THINKER, max_tokens=2000, thinking=THINKING, messages=again)
    )
    assert answer.content[-1].text.strip() == THOUGHTFUL_ANSWER


def test_thoughts_are_streamed(client):
    with client.messages.stream(**ask(model=THINKER, max_tokens=2000, thinking=THINKING)) as stream:
        events = list(stream)
        message = stream.get_final_message()
    thought = "".join(event.thinking for event in events if event.type == "thinking")
    text = "".join(event.text for event in events if event.type == "text")
    assert (thought.strip(), text.strip()) == (THOUGHT, THOUGHTFUL_ANSWER)
    assert [block.type for block in message.content] == ["thinking", "text"]
    starts = [event.index for event in events if event.type == "content_block_start"]
    assert starts == [0, 1]


def test_thoughts_can_be_disabled(client):
    message = client.messages.create(**ask(model=THINKER, thinking={"type": "disabled"}))
    (block,) = message.content
    assert (block.type, block.text.strip()) == ("text", THOUGHTFUL_ANSWER)


def test_a_model_that_cannot_think_answers_all_the_same(client):
    message = client.messages.create(**ask(max_tokens=2000, thinking=THINKING))
    assert message.content[-1].text.strip() == SPOKEN


def test_a_schema_is_parsed(client):
    message = client.messages.parse(**ask(model=JSON_SPEAKER, output_format=Stay))
    assert message.parsed_output == Stay(**CALLED_WITH)


def test_tokens_are_counted_without_an_answer(client):
    short = client.messages.count_tokens(model=SPEAKER, messages=HELLO)
    longer = client.messages.count_tokens(model=SPEAKER, messages=HELLO, system="Be brief.")
    assert 0 < short.input_tokens < longer.input_tokens


def test_the_asynchronous_client_streams(server):
    async def ask_all() -> list[str]:
        async with anthropic.AsyncAnthropic(base_url=server.url, api_key="none") as client:

            async def one() -> str:
                async with client.messages.stream(**ask()) as stream:
                    return (await stream.get_final_message()).content[0].text.strip()

            return list(await asyncio.gather(one(), one(), one()))

    assert asyncio.run(ask_all()) == [SPOKEN] * 3


def test_a_stream_that_is_left_ends_the_generation(client, server):
    before = cancelled(server)
    with client.messages.stream(**ask(model=CHATTERBOX, max_tokens=3000)) as stream:
        next(iter(stream.text_stream))
    wait_for_cancellation(server, before)


def test_models_are_listed_and_looked_up(server):
    for base in ("", "/anthropic"):
        with anthropic.Anthropic(base_url=f"{server.url}{base}", api_key="none") as client:
            names = [model.id for model in client.models.list()]
            assert any(SPEAKER in name for name in names)
            assert client.models.retrieve(SPEAKER).created_at.year > 2000
            with pytest.raises(anthropic.NotFoundError) as caught:
                client.models.retrieve("ai/absent")
            assert caught.value.body["error"]["type"] == "not_found_error"
