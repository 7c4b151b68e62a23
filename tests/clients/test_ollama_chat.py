"""Ollama's Python SDK: chats, plain and streamed, with tools, schemas and thoughts."""

from __future__ import annotations

import asyncio
import json

import ollama
import pytest
from pydantic import BaseModel

from support.client_models import (
    ABSENT,
    CALLED_WITH,
    CALLER,
    CHATTERBOX,
    EMOJI_SPEAKER,
    EMOJI_SPOKEN,
    ENCODER,
    JSON_SPEAKER,
    SPEAKER,
    SPOKEN,
    THINKER,
    TWICE_CALLER,
    cancelled,
    wait_for_cancellation,
)
from support.server import DEADLINE
from support.spoken_models import THOUGHT, THOUGHTFUL_ANSWER, TOOL_ANSWER, TOOLS

HELLO = [{"role": "user", "content": "Hello"}]
QUESTION = {"role": "user", "content": "What is the weather in Paris?"}
COLD = {"temperature": 0}


class Stay(BaseModel):
    city: str
    days: int


@pytest.fixture(scope="module")
def client(server):
    with ollama.Client(host=server.url, timeout=DEADLINE) as made:
        yield made


def ask(**fields):
    return {"model": SPEAKER, "messages": HELLO, "options": COLD, **fields}


def test_a_chat_is_answered(client):
    answer = client.chat(**ask())
    assert answer.message.content.strip() == SPOKEN
    assert answer["message"]["role"] == "assistant"
    assert answer.model == SPEAKER
    assert (answer.done, answer.done_reason) == (True, "stop")
    assert answer.eval_count > len(SPOKEN.split())
    assert answer.prompt_eval_count > 0
    assert answer.total_duration >= answer.eval_duration > 0


@pytest.mark.parametrize(("model", "spoken"), [(SPEAKER, SPOKEN), (EMOJI_SPEAKER, EMOJI_SPOKEN)])
def test_a_chat_is_streamed(client, model, spoken):
    lines = list(client.chat(**ask(model=model, stream=True)))
    assert "".join(line.message.content for line in lines).strip() == spoken
    assert [line.done for line in lines] == [False] * (len(lines) - 1) + [True]
    assert lines[-1].done_reason == "stop"
    assert lines[-1].eval_count > 0


def test_an_answer_that_is_cut_off_says_so(client):
    answer = client.chat(**ask(options={"num_predict": 3, **COLD}))
    assert (answer.done_reason, answer.eval_count) == ("length", 3)


def test_a_stop_string_is_not_in_the_answer(client):
    answer = client.chat(**ask(options={"stop": ["tiny"], **COLD}))
    assert answer.message.content.strip() == SPOKEN.partition(" tiny")[0]
    assert answer.done_reason == "stop"


@pytest.mark.parametrize("streamed", [False, True])
def test_a_tool_is_called_and_its_result_answered(client, streamed):
    fields = ask(model=CALLER, messages=[QUESTION], tools=TOOLS)
    if streamed:
        messages = [line.message for line in client.chat(**fields, stream=True)]
        (message,) = [message for message in messages if message.tool_calls]
    else:
        message = client.chat(**fields).message
    (call,) = message.tool_calls
    assert (call.function.name, call.function.arguments) == ("get_weather", CALLED_WITH)
    result = {"role": "tool", "tool_name": "get_weather", "content": "clear"}
    answer = client.chat(**{**fields, "messages": [QUESTION, message, result]})
    assert answer.message.content.strip() == TOOL_ANSWER
    assert not answer.message.tool_calls


def test_a_python_function_is_a_tool(client):
    def get_weather(city: str, days: int) -> str:
        """Weather of a city.

        Args:
            city: Where.
            days: For how long.
        """
        return f"clear over {city} for {days} days"

    answer = client.chat(**ask(model=CALLER, messages=[QUESTION], tools=[get_weather]))
    (call,) = answer.message.tool_calls
    assert get_weather(**call.function.arguments) == "clear over Paris for 3 days"


def test_several_calls_come_together(client):
    answer = client.chat(**ask(model=TWICE_CALLER, tools=TOOLS))
    cities = [call.function.arguments["city"] for call in answer.message.tool_calls]
    assert cities == ["Paris", "Rome"]


def test_a_schema_binds_the_answer(client):
    answer = client.chat(**ask(model=JSON_SPEAKER, format=Stay.model_json_schema()))
    assert Stay.model_validate_json(answer.message.content) == Stay(**CALLED_WITH)
    verdicts = {"type": "string", "enum": ["guilty", "innocent"]}
    assert json.loads(client.chat(**ask(format=verdicts)).message.content) in verdicts["enum"]


def test_json_is_a_format(client):
    answer = client.chat(**ask(model=JSON_SPEAKER, format="json"))
    assert json.loads(answer.message.content) == CALLED_WITH


@pytest.mark.parametrize("think", [None, True, "high"])
def test_thoughts_stand_beside_the_answer(client, think):
    message = client.chat(**ask(model=THINKER, think=think)).message
    assert message.content.strip() == THOUGHTFUL_ANSWER
    assert message.thinking.strip() == THOUGHT


def test_thoughts_are_streamed(client):
    messages = [line.message for line in client.chat(**ask(model=THINKER, stream=True, think=True))]
    assert "".join(message.thinking or "" for message in messages).strip() == THOUGHT
    assert "".join(message.content or "" for message in messages).strip() == THOUGHTFUL_ANSWER


def test_a_model_can_be_told_not_to_think(client):
    message = client.chat(**ask(model=THINKER, think=False)).message
    assert message.content.strip() == THOUGHTFUL_ANSWER
    assert not message.thinking


def test_probabilities_come_with_each_token(client):
    answer = client.chat(**ask(logprobs=True, top_logprobs=2, options={"num_predict": 3, **COLD}))
    assert "".join(token.token for token in answer.logprobs) == answer.message.content
    assert all(len(token.top_logprobs) == 2 for token in answer.logprobs)


@pytest.mark.parametrize(
    ("fields", "status", "reason"),
    [
        ({"model": ABSENT}, 404, "not found"),
        ({"model": ENCODER}, 400, "does not support"),
        ({"tools": TOOLS}, 400, "does not support tools"),
        ({"think": True}, 400, "does not support thinking"),
        ({"options": {"temperature": "hot"}}, 400, "temperature"),
        ({"keep_alive": "soon"}, 400, "soon"),
    ],
    ids=["model", "encoder", "tools", "think", "option", "keep_alive"],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_wrong_request_says_why(client, fields, status, reason, stream):
    with pytest.raises(ollama.ResponseError, match=reason) as caught:
        list(client.chat(**ask(stream=stream, **fields)))
    assert caught.value.status_code == status
    assert not caught.value.error.startswith("{")


def test_the_asynchronous_client_streams(server):
    async def ask_all() -> list[str]:
        client = ollama.AsyncClient(host=server.url)

        async def one() -> str:
            stream = await client.chat(**ask(stream=True))
            return "".join([line.message.content async for line in stream]).strip()

        try:
            return list(await asyncio.gather(one(), one(), one()))
        finally:
            await client.close()

    assert asyncio.run(ask_all()) == [SPOKEN] * 3


def test_a_stream_that_is_left_ends_the_generation(client, server):
    before = cancelled(server)
    stream = client.chat(**ask(model=CHATTERBOX, stream=True))
    next(stream)
    stream.close()
    wait_for_cancellation(server, before)
