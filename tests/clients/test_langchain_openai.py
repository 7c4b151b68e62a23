"""LangChain's classes for OpenAI: chats, tools, structured output and embeddings."""

from __future__ import annotations

import asyncio
from typing import Literal

import pytest
from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel

from support.client_models import (
    CALLED_WITH,
    CALLER,
    CHATTERBOX,
    ENCODER,
    JSON_SPEAKER,
    SPEAKER,
    SPOKEN,
    cancelled,
    wait_for_cancellation,
)
from support.spoken_models import TOOL_ANSWER


class Stay(BaseModel):
    """How long somebody stays where."""

    city: str
    days: int


class Verdict(BaseModel):
    """What a court says."""

    verdict: Literal["guilty", "innocent"]


@tool
def get_weather(city: str, days: int) -> str:
    """Weather of a city."""
    return f"clear over {city} for {days} days"


@pytest.fixture(scope="module")
def chat(server):
    def make(model=SPEAKER, **fields):
        return ChatOpenAI(
            model=model, base_url=f"{server.url}/v1", api_key="none", temperature=0, **fields
        )

    return make


def test_a_conversation_is_answered(chat):
    message = chat().invoke([SystemMessage("Be brief."), HumanMessage("Hello")])
    assert message.content.strip() == SPOKEN
    assert message.usage_metadata["total_tokens"] > 0
    assert message.response_metadata["finish_reason"] == "stop"


def test_a_chain_is_streamed(chat):
    prompt = ChatPromptTemplate.from_messages([("system", "Be brief."), ("human", "{question}")])
    chain = prompt | chat() | StrOutputParser()
    pieces = list(chain.stream({"question": "Hello"}))
    assert len(pieces) > 10
    assert "".join(pieces).strip() == SPOKEN


def test_a_stream_knows_its_usage(chat):
    *_, last = chunks = list(chat(stream_usage=True).stream("Hello"))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert whole.content.strip() == SPOKEN
    assert whole.usage_metadata["output_tokens"] > len(SPOKEN.split())
    assert last is not whole


def test_a_batch_is_answered(chat):
    messages = asyncio.run(chat().abatch(["Hello", "Hello there", "Hello again"]))
    assert [message.content.strip() for message in messages] == [SPOKEN] * 3


def test_a_tool_loop_ends_with_an_answer(chat):
    model = chat(CALLER).bind_tools([get_weather])
    question = HumanMessage("What is the weather in Paris?")
    called = model.invoke([question])
    (call,) = called.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", CALLED_WITH)
    result = get_weather.invoke(call)
    assert isinstance(result, ToolMessage)
    answer = model.invoke([question, called, result])
    assert answer.content.strip() == TOOL_ANSWER
    assert answer.tool_calls == []


def test_a_streamed_call_is_put_together(chat):
    chunks = list(chat(CALLER).bind_tools([get_weather]).stream("What is the weather?"))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert [(call["name"], call["args"]) for call in whole.tool_calls] == [
        ("get_weather", CALLED_WITH)
    ]


@pytest.mark.parametrize("method", ["json_schema", "json_mode"])
def test_structured_output_is_parsed(chat, method):
    assert chat(JSON_SPEAKER).with_structured_output(Stay, method=method).invoke("Hello") == Stay(
        **CALLED_WITH
    )


def test_structured_output_by_a_call_is_parsed(chat):
    class get_weather(BaseModel):  # noqa: N801 - the only tool that the model knows
        """Weather of a city."""

        city: str
        days: int

    stay = chat(CALLER).with_structured_output(get_weather, method="function_calling")
    assert stay.invoke("What is the weather?") == get_weather(**CALLED_WITH)


def test_structured_output_binds_the_model(chat):
    verdict = chat().with_structured_output(Verdict).invoke("Hello")
    assert verdict.verdict in {"guilty", "innocent"}


def test_a_text_is_completed(server):
    model = OpenAI(model=SPEAKER, base_url=f"{server.url}/v1", api_key="none", temperature=0)
    assert model.invoke("the").strip() == SPOKEN


def test_texts_are_embedded(server):
    embeddings = OpenAIEmbeddings(
        model=ENCODER,
        base_url=f"{server.url}/v1",
        api_key="none",
        # Else it counts tokens with OpenAI's own vocabulary, which it would fetch.
        check_embedding_ctx_length=False,
    )
    first, second = embeddings.embed_documents(["the", "of"])
    assert len(first) == len(second) == 64
    assert embeddings.embed_query("the") == pytest.approx(first, abs=1e-5)


def test_a_stream_that_is_left_ends_the_generation(chat, server):
    before = cancelled(server)
    stream = chat(CHATTERBOX).stream("Hello")
    next(stream)
    stream.close()
    wait_for_cancellation(server, before)
