"""LiteLLM as a client of Ollama's dialect."""

from __future__ import annotations

import json
import os

import litellm

from support.spoken_models import TOOL_ANSWER, TOOLS

URL = os.environ["MODEL_RUNNER_URL"]
HELLO = [{"role": "user", "content": "Hello"}]


def complete(model, provider="ollama_chat", **fields):
    return litellm.completion(
        model=f"{provider}/ai/tiny-{model}",
        api_base=URL,
        **{"messages": HELLO, "temperature": 0, **fields},
    )


def test_a_chat_is_answered():
    answer = complete("script")
    assert answer.choices[0].message.content.strip().endswith("end")
    assert answer.usage.completion_tokens > 10


def test_a_chat_is_streamed_and_rebuilt():
    chunks = list(complete("script", stream=True))
    whole = litellm.stream_chunk_builder(chunks, messages=HELLO)
    assert whole.choices[0].message.content.strip().endswith("end")


def test_a_text_is_generated():
    answer = complete("script", provider="ollama")
    assert answer.choices[0].message.content.strip().endswith("end")


def test_a_tool_loop_ends_with_an_answer():
    called = complete("tools", tools=TOOLS).choices[0].message
    (call,) = called.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Paris", "days": 3}
    result = {"role": "tool", "tool_call_id": call.id, "content": "clear"}
    answer = complete("tools", tools=TOOLS, messages=[*HELLO, called.model_dump(), result])
    assert answer.choices[0].message.content.strip() == TOOL_ANSWER


def test_texts_are_embedded():
    answer = litellm.embedding(model="ollama/ai/tiny-embed", input=["the", "of"], api_base=URL)
    assert [len(item["embedding"]) for item in answer.data] == [64, 64]
