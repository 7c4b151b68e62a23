"""LiteLLM as a client of OpenAI's dialect."""

from __future__ import annotations

import json
import os

import litellm
import pytest

from support.spoken_models import TOOL_ANSWER, TOOLS

URL = os.environ["MODEL_RUNNER_URL"]
TO_US = {"api_base": f"{URL}/v1", "api_key": "none"}
HELLO = [{"role": "user", "content": "Hello"}]


def complete(model, **fields):
    return litellm.completion(
        model=f"openai/ai/tiny-{model}", **TO_US, **{"messages": HELLO, "temperature": 0, **fields}
    )


def test_a_chat_is_answered():
    answer = complete("script")
    assert answer.choices[0].message.content.strip().startswith("Hello there")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens > 10


def test_a_chat_is_streamed_and_rebuilt():
    chunks = list(complete("script", stream=True, stream_options={"include_usage": True}))
    whole = litellm.stream_chunk_builder(chunks, messages=HELLO)
    assert whole.choices[0].message.content.strip().endswith("end")
    assert whole.usage.completion_tokens == complete("script").usage.completion_tokens


def test_a_tool_loop_ends_with_an_answer():
    called = complete("tools", tools=TOOLS).choices[0].message
    (call,) = called.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Paris", "days": 3}
    result = {"role": "tool", "tool_call_id": call.id, "content": "clear"}
    answer = complete("tools", tools=TOOLS, messages=[*HELLO, called.model_dump(), result])
    assert answer.choices[0].message.content.strip() == TOOL_ANSWER


def test_thoughts_stand_beside_the_answer():
    message = complete("thinker").choices[0].message
    assert message.reasoning_content.strip() == "Let me think about that ."


def test_texts_are_embedded():
    answer = litellm.embedding(model="openai/ai/tiny-embed", input=["the", "of"], **TO_US)
    assert [len(item["embedding"]) for item in answer.data] == [64, 64]


def test_an_absent_model_is_not_found():
    with pytest.raises(litellm.NotFoundError, match="absent"):
        complete("absent")


def test_an_overflow_is_told_from_other_errors():
    with pytest.raises(litellm.ContextWindowExceededError):
        complete("script", messages=[{"role": "user", "content": "the " * 5000}])


def test_a_wrong_request_is_a_bad_one():
    with pytest.raises(litellm.BadRequestError):
        complete("script", response_format={"type": "poem"})
