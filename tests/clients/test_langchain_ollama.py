"""LangChain's classes for Ollama: chats, tools, structured output, texts and embeddings."""

from __future__ import annotations

import pytest
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.tools import tool
from langchain_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM
from pydantic import BaseModel

from support.client_models import (
    CALLED_WITH,
    CALLER,
    ENCODER,
    JSON_SPEAKER,
    SPEAKER,
    SPOKEN,
    THINKER,
)
from support.spoken_models import THOUGHT, THOUGHTFUL_ANSWER, TOOL_ANSWER


class Stay(BaseModel):
    """How long somebody stays where."""

    city: str
    days: int


@tool
def get_weather(city: str, days: int) -> str:
    """Weather of a city."""
    return f"clear over {city} for {days} days"


@pytest.fixture(scope="module")
def chat(server):
    def make(model=SPEAKER, **fields):
        return ChatOllama(model=model, base_url=server.url, temperature=0, **fields)

    return make


def test_a_conversation_is_answered(chat):
    message = chat().invoke([SystemMessage("Be brief."), HumanMessage("Hello")])
    assert message.content.strip() == SPOKEN
    assert message.usage_metadata["output_tokens"] > len(SPOKEN.split())
    assert message.response_metadata["done_reason"] == "stop"


def test_a_conversation_is_streamed(chat):
    pieces = [chunk.content for chunk in chat().stream("Hello")]
    assert "".join(pieces).strip() == SPOKEN
    assert len(pieces) > 10


def test_a_tool_loop_ends_with_an_answer(chat):
    model = chat(CALLER).bind_tools([get_weather])
    question = HumanMessage("What is the weather in Paris?")
    called = model.invoke([question])
    (call,) = called.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", CALLED_WITH)
    assert model.invoke([question, called, get_weather.invoke(call)]).content.strip() == TOOL_ANSWER


@pytest.mark.parametrize("method", ["json_schema", "json_mode"])
def test_structured_output_is_parsed(chat, method):
    stay = chat(JSON_SPEAKER).with_structured_output(Stay, method=method)
    assert stay.invoke("Hello") == Stay(**CALLED_WITH)


def test_thoughts_stand_beside_the_answer(chat):
    message = chat(THINKER, reasoning=True).invoke("Hello")
    assert message.content.strip() == THOUGHTFUL_ANSWER
    assert message.additional_kwargs["reasoning_content"].strip() == THOUGHT


def test_a_text_is_generated(server):
    model = OllamaLLM(model=SPEAKER, base_url=server.url, temperature=0)
    assert model.invoke("Hello").strip() == SPOKEN
    assert "".join(model.stream("Hello")).strip() == SPOKEN


def test_texts_are_embedded(server):
    embeddings = OllamaEmbeddings(model=ENCODER, base_url=server.url)
    first, second = embeddings.embed_documents(["the", "of"])
    assert len(first) == len(second) == 64
    assert embeddings.embed_query("the") == pytest.approx(first, abs=1e-4)
