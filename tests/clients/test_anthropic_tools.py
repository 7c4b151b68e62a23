"""Anthropic's Python SDK: whole tool loops, and how tools are chosen."""

from __future__ import annotations

import anthropic
import pytest
from anthropic import beta_tool

from support.client_models import CALLED_WITH, CALLER, TWICE_CALLER
from support.server import DEADLINE
from support.spoken_models import TOOL_ANSWER

QUESTION = {"role": "user", "content": "What is the weather in Paris?"}
WEATHER = {
    "name": "get_weather",
    "description": "weather of a city",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city"],
    },
}
TIME = {"name": "get_time", "input_schema": {"type": "object", "properties": {}}}


@pytest.fixture(scope="module")
def client(server):
    with anthropic.Anthropic(base_url=server.url, api_key="none", timeout=DEADLINE) as made:
        yield made


def ask(**fields):
    return {
        "model": CALLER,
        "max_tokens": 200,
        "messages": [QUESTION],
        "tools": [WEATHER],
        **fields,
    }


def with_results(message, content="clear"):
    """The conversation, once the tools that a message uses have been run."""
    results = [
        {"type": "tool_result", "tool_use_id": block.id, "content": content}
        for block in message.content
        if block.type == "tool_use"
    ]
    return [
        QUESTION,
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": results},
    ]


def test_a_tool_is_used_and_its_result_answered(client):
    message = client.messages.create(**ask())
    (use,) = [block for block in message.content if block.type == "tool_use"]
    assert (use.name, use.input) == ("get_weather", CALLED_WITH)
    assert message.stop_reason == "tool_use"
    answer = client.messages.create(**ask(messages=with_results(message)))
    assert answer.content[0].text.strip() == TOOL_ANSWER
    assert answer.stop_reason == "end_turn"


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": "clear"}, {"type": "text", "text": "and warm"}],
        [],
    ],
    ids=["blocks", "nothing"],
)
def test_a_result_may_be_of_blocks(client, content):
    message = client.messages.create(**ask())
    answer = client.messages.create(**ask(messages=with_results(message, content)))
    assert answer.content[0].text.strip() == TOOL_ANSWER


def test_a_failed_tool_is_answered_too(client):
    message = client.messages.create(**ask())
    messages = with_results(message)
    messages[-1]["content"][0]["is_error"] = True
    messages[-1]["content"].append({"type": "text", "text": "What now?"})
    assert client.messages.create(**ask(messages=messages)).content


def test_the_stream_helper_accumulates_a_use(client):
    with client.messages.stream(**ask()) as stream:
        events = list(stream)
        message = stream.get_final_message()
    (use,) = [block for block in message.content if block.type == "tool_use"]
    assert (use.name, use.input) == ("get_weather", CALLED_WITH)
    assert message.stop_reason == "tool_use"
    pieces = [event for event in events if event.type == "input_json"]
    assert pieces[-1].snapshot == CALLED_WITH
    (start,) = [
        event
        for event in events
        if event.type == "content_block_start" and event.content_block.type == "tool_use"
    ]
    assert start.content_block.id == use.id


def test_several_uses_are_answered_together(client):
    message = client.messages.create(**ask(model=TWICE_CALLER))
    uses = [block for block in message.content if block.type == "tool_use"]
    assert [use.input["city"] for use in uses] == ["Paris", "Rome"]
    assert len({use.id for use in uses}) == 2
    assert client.messages.create(**ask(model=TWICE_CALLER, messages=with_results(message))).content


def test_the_tool_runner_ends_with_an_answer(client):
    asked = []

    @beta_tool
    def get_weather(city: str, days: int) -> str:
        """Weather of a city.

        Args:
            city: Where.
            days: For how long.
        """
        asked.append({"city": city, "days": days})
        return "clear"

    runner = client.beta.messages.tool_runner(**ask(tools=[get_weather]))
    assert runner.until_done().content[0].text.strip() == TOOL_ANSWER
    assert asked == [CALLED_WITH]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ({"type": "auto"}, {"get_weather"}),
        ({"type": "any"}, {"get_weather"}),
        ({"type": "tool", "name": "get_weather"}, {"get_weather"}),
        ({"type": "tool", "name": "get_time"}, {"get_time"}),
        ({"type": "none"}, set()),
    ],
    ids=["auto", "any", "tool", "another tool", "none"],
)
def test_a_choice_of_tools_is_kept_to(client, choice, names, streamed):
    # What a model says that does not want this tool is chance, but for the temperature.
    fields = ask(tools=[WEATHER, TIME], max_tokens=60, extra_body={"temperature": 0})
    if choice["type"] != "none":
        choice = {**choice, "disable_parallel_tool_use": True}
    if streamed:
        with client.messages.stream(**fields, tool_choice=choice) as stream:
            message = stream.get_final_message()
    else:
        message = client.messages.create(**fields, tool_choice=choice)
    assert {block.name for block in message.content if block.type == "tool_use"} == names


def test_a_choice_of_a_tool_that_is_not_there_is_refused(client):
    with pytest.raises(anthropic.BadRequestError, match="get_time"):
        client.messages.create(**ask(tool_choice={"type": "tool", "name": "get_time"}))


def test_tools_are_counted(client):
    without = client.messages.count_tokens(model=CALLER, messages=[QUESTION])
    with_tools = client.messages.count_tokens(model=CALLER, messages=[QUESTION], tools=[WEATHER])
    assert with_tools.input_tokens > without.input_tokens
