"""OpenAI's Python SDK: responses, plain, streamed, parsed, and with tools."""

from __future__ import annotations

import asyncio
import json

import openai
import pytest
from pydantic import BaseModel

from support.client_models import (
    CALLED_WITH,
    CALLER,
    CHATTERBOX,
    EMOJI_SPEAKER,
    EMOJI_SPOKEN,
    JSON_SPEAKER,
    SPEAKER,
    SPOKEN,
    THINKER,
    TWICE_CALLER,
    cancelled,
    wait_for_cancellation,
)
from support.server import DEADLINE
from support.spoken_models import THOUGHTFUL_ANSWER, TOOL_ANSWER, TOOLS

QUESTION = {"role": "user", "content": "What is the weather in Paris?"}
WEATHER = {"type": "function", "strict": True, **TOOLS[0]["function"]}
TIME = {"type": "function", "name": "get_time", "parameters": {"type": "object"}, "strict": False}


class Stay(BaseModel):
    city: str
    days: int


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=DEADLINE) as made:
        yield made


def ask(**fields):
    return {"model": SPEAKER, "input": "Hello", "temperature": 0, **fields}


def with_results(response):
    """The input of the next turn, once the functions that a response calls have been run."""
    return [
        {"type": "function_call_output", "call_id": item.call_id, "output": "clear"}
        for item in response.output
        if item.type == "function_call"
    ]


def test_a_response_is_created(client):
    response = client.responses.create(**ask(instructions="Be brief.", metadata={"key": "value"}))
    assert response.output_text.strip() == SPOKEN
    assert (response.object, response.status, response.error) == ("response", "completed", None)
    assert response.id.startswith("resp_")
    assert response.instructions == "Be brief."
    assert response.metadata == {"key": "value"}
    assert response.incomplete_details is None
    (message,) = response.output
    assert (message.type, message.role, message.status) == ("message", "assistant", "completed")
    assert message.content[0].annotations == []
    usage = response.usage
    assert usage.input_tokens + usage.output_tokens == usage.total_tokens
    assert usage.output_tokens_details.reasoning_tokens == 0
    assert usage.input_tokens_details.cached_tokens >= 0


def test_input_of_items_is_answered(client):
    items = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "input_text", "text": "Hello"}]},
        {"type": "message", "role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Go on"},
    ]
    assert client.responses.create(**ask(input=items)).output_text.strip() == SPOKEN


@pytest.mark.parametrize(("model", "spoken"), [(SPEAKER, SPOKEN), (EMOJI_SPEAKER, EMOJI_SPOKEN)])
def test_a_response_is_streamed_event_by_event(client, model, spoken):
    events = list(client.responses.create(**ask(model=model, stream=True)))
    kinds = [event.type.removeprefix("response.") for event in events]
    assert kinds[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert kinds[-4:] == [
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert set(kinds[4:-4]) == {"output_text.delta"}
    assert [event.sequence_number for event in events] == list(
        range(events[0].sequence_number, events[0].sequence_number + len(events))
    )
    text = "".join(event.delta for event in events if event.type.endswith("text.delta"))
    assert text.strip() == events[-4].text.strip() == spoken
    assert {(e.output_index, e.content_index, e.item_id) for e in events[3:-2]} == {
        (0, 0, events[2].item.id)
    }
    assert events[-1].response.output_text.strip() == spoken
    assert events[-1].response.usage.output_tokens > 0
    assert events[0].response.status == "in_progress"


def test_the_stream_helper_accumulates(client):
    with client.responses.stream(**ask()) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        response = stream.get_final_response()
    assert "".join(deltas).strip() == response.output_text.strip() == SPOKEN


def test_a_schema_is_parsed(client):
    response = client.responses.parse(**ask(model=JSON_SPEAKER, text_format=Stay))
    assert response.output_parsed == Stay(**CALLED_WITH)


def test_a_schema_is_parsed_from_a_stream(client):
    with client.responses.stream(**ask(model=JSON_SPEAKER, text_format=Stay)) as stream:
        assert stream.get_final_response().output_parsed == Stay(**CALLED_WITH)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_response_that_is_cut_off_is_incomplete(client, streamed):
    fields = ask(max_output_tokens=16)
    if streamed:
        *_, last = client.responses.create(**fields, stream=True)
        assert last.type == "response.incomplete"
        response = last.response
    else:
        response = client.responses.create(**fields)
    assert response.status == "incomplete"
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.usage.output_tokens == 16
    assert SPOKEN.startswith(response.output_text.strip())


def test_a_function_is_called_and_its_result_answered(client):
    history = [QUESTION]
    called = client.responses.create(**ask(model=CALLER, input=history, tools=[WEATHER]))
    (call,) = [item for item in called.output if item.type == "function_call"]
    assert (call.name, json.loads(call.arguments)) == ("get_weather", CALLED_WITH)
    assert (called.status, call.status) == ("completed", "completed")
    history += [*called.output, *with_results(called)]
    answer = client.responses.create(**ask(model=CALLER, input=history, tools=[WEATHER]))
    assert answer.output_text.strip() == TOOL_ANSWER


def test_a_function_is_called_and_answered_over_stored_turns(client):
    called = client.responses.create(**ask(model=CALLER, input=[QUESTION], tools=[WEATHER]))
    answer = client.responses.create(
        **ask(
            model=CALLER,
            input=with_results(called),
            previous_response_id=called.id,
            tools=[WEATHER],
        )
    )
    assert answer.output_text.strip() == TOOL_ANSWER
    assert answer.previous_response_id == called.id


def test_a_call_is_streamed(client):
    events = list(client.responses.create(**ask(model=CALLER, tools=[WEATHER], stream=True)))
    (added,) = [event for event in events if event.type == "response.output_item.added"]
    assert (added.item.type, added.item.name) == ("function_call", "get_weather")
    kind = "response.function_call_arguments"
    pieces = [event.delta for event in events if event.type == f"{kind}.delta"]
    (done,) = [event for event in events if event.type == f"{kind}.done"]
    assert "".join(pieces) == done.arguments
    assert json.loads(done.arguments) == CALLED_WITH
    (call,) = events[-1].response.output
    assert call.call_id == added.item.call_id
    assert done.item_id == added.item.id == call.id


def test_several_calls_have_indexes_of_their_own(client):
    with client.responses.stream(**ask(model=TWICE_CALLER, tools=[WEATHER])) as stream:
        for _ in stream:
            pass
        response = stream.get_final_response()
    calls = [item for item in response.output if item.type == "function_call"]
    assert [json.loads(call.arguments)["city"] for call in calls] == ["Paris", "Rome"]
    assert len({call.call_id for call in calls}) == len({call.id for call in calls}) == 2


def test_a_function_of_pydantic_is_parsed(client):
    tool = openai.pydantic_function_tool(Stay, name="get_weather")
    response = client.responses.parse(**ask(model=CALLER, tools=[tool]))
    (call,) = response.output
    assert call.parsed_arguments == Stay(**CALLED_WITH)


def test_the_named_function_is_called_and_no_other(client):
    response = client.responses.create(
        **ask(
            model=CALLER,
            tools=[WEATHER, TIME],
            tool_choice={"type": "function", "name": "get_time"},
            parallel_tool_calls=False,
            max_output_tokens=64,
        )
    )
    assert {item.name for item in response.output if item.type == "function_call"} == {"get_time"}


def test_no_function_is_called_where_none_may_be(client):
    response = client.responses.create(**ask(model=CALLER, tools=[WEATHER], tool_choice="none"))
    assert {item.type for item in response.output} == {"message"}


def test_thoughts_are_an_item_of_their_own(client):
    response = client.responses.create(**ask(model=THINKER))
    assert [item.type for item in response.output] == ["reasoning", "message"]
    assert response.output_text.strip() == THOUGHTFUL_ANSWER
    again = client.responses.create(
        **ask(
            model=THINKER, input=[{"role": "user", "content": "Hello"}, *response.output, QUESTION]
        )
    )
    assert again.output_text.strip() == THOUGHTFUL_ANSWER


def test_thoughts_are_streamed(client):
    events = list(client.responses.create(**ask(model=THINKER, stream=True)))
    assert any("reasoning" in event.type for event in events)
    added = [event for event in events if event.type == "response.output_item.added"]
    assert [(event.output_index, event.item.type) for event in added] == [
        (0, "reasoning"),
        (1, "message"),
    ]


def test_probabilities_come_when_they_are_included(client):
    response = client.responses.create(
        **ask(include=["message.output_text.logprobs"], top_logprobs=2)
    )
    tokens = response.output[0].content[0].logprobs
    assert "".join(token.token for token in tokens).strip() == SPOKEN
    assert all(len(token.top_logprobs) == 2 for token in tokens)


def test_the_asynchronous_client_asks_several_at_once(server):
    async def ask_all() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            asked = [client.responses.create(**ask()) for _ in range(3)]
            return [one.output_text.strip() for one in await asyncio.gather(*asked)]

    assert asyncio.run(ask_all()) == [SPOKEN] * 3


def test_a_stream_that_is_left_ends_the_generation(client, server):
    before = cancelled(server)
    stream = client.responses.create(**ask(model=CHATTERBOX, stream=True))
    for event in stream:
        if event.type == "response.output_text.delta":
            break
    stream.close()
    wait_for_cancellation(server, before)
