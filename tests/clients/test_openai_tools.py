"""OpenAI's Python SDK: whole tool loops over chats."""

from __future__ import annotations

import json

import openai
import pytest
from pydantic import BaseModel

from support.client_models import CALLED_WITH, CALLER, TWICE_CALLER
from support.server import DEADLINE
from support.spoken_models import TOOL_ANSWER, TOOLS

QUESTION = {"role": "user", "content": "What is the weather in Paris?"}


class GetWeather(BaseModel):
    city: str
    days: int


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=DEADLINE) as made:
        yield made


def with_result(message):
    """The conversation, once the tools that a message calls have been run."""
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": '{"sky": "clear"}'}
        for call in message.tool_calls
    ]
    return [QUESTION, message, *results]


def test_a_tool_is_called_and_its_result_answered(client):
    completion = client.chat.completions.create(
        model=CALLER, messages=[QUESTION], tools=TOOLS, temperature=0
    )
    message = completion.choices[0].message
    (call,) = message.tool_calls
    assert completion.choices[0].finish_reason == "tool_calls"
    assert (call.type, call.function.name) == ("function", "get_weather")
    assert json.loads(call.function.arguments) == CALLED_WITH
    answer = client.chat.completions.create(
        model=CALLER, messages=with_result(message), tools=TOOLS, temperature=0
    )
    assert answer.choices[0].message.content.strip() == TOOL_ANSWER
    assert answer.choices[0].message.tool_calls is None


def test_the_stream_helper_accumulates_calls(client):
    with client.chat.completions.stream(
        model=CALLER, messages=[QUESTION], tools=TOOLS, temperature=0
    ) as stream:
        events = list(stream)
        message = stream.get_final_completion().choices[0].message
    deltas = [e for e in events if e.type == "tool_calls.function.arguments.delta"]
    (done,) = [e for e in events if e.type == "tool_calls.function.arguments.done"]
    assert "".join(event.arguments_delta for event in deltas) == done.arguments
    assert (done.name, done.index) == ("get_weather", 0)
    assert json.loads(message.tool_calls[0].function.arguments) == CALLED_WITH
    answer = client.chat.completions.create(
        model=CALLER,
        messages=with_result(message),
        tools=TOOLS,
        temperature=0,
        stream=True,
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in answer if chunk.choices)
    assert text.strip() == TOOL_ANSWER


def test_calls_are_put_together_by_hand_as_the_guide_shows(client):
    stream = client.chat.completions.create(
        model=TWICE_CALLER, messages=[QUESTION], tools=TOOLS, temperature=0, stream=True
    )
    calls = {}
    for chunk in stream:
        for piece in chunk.choices[0].delta.tool_calls or []:
            if piece.index not in calls:
                calls[piece.index] = piece
            else:
                calls[piece.index].function.arguments += piece.function.arguments
    found = [json.loads(calls[index].function.arguments)["city"] for index in sorted(calls)]
    assert found == ["Paris", "Rome"]
    assert len({call.id for call in calls.values()}) == 2


def test_a_tool_of_pydantic_is_parsed(client):
    completion = client.chat.completions.parse(
        model=CALLER,
        messages=[QUESTION],
        tools=[openai.pydantic_function_tool(GetWeather, name="get_weather")],
        temperature=0,
    )
    (call,) = completion.choices[0].message.tool_calls
    assert call.function.parsed_arguments == GetWeather(**CALLED_WITH)


def test_a_tool_can_be_required(client):
    completion = client.chat.completions.create(
        model=CALLER, messages=[QUESTION], tools=TOOLS, tool_choice="required", temperature=0
    )
    assert completion.choices[0].message.tool_calls[0].function.name == "get_weather"


def test_no_tool_is_called_where_none_may_be(client):
    completion = client.chat.completions.create(
        model=CALLER, messages=[QUESTION], tools=TOOLS, tool_choice="none", temperature=0
    )
    assert completion.choices[0].message.tool_calls is None
    assert completion.choices[0].finish_reason == "stop"
