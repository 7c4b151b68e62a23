"""LangChain's class for OpenAI over responses."""

from __future__ import annotations

import pytest
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from support.client_models import CALLED_WITH, CALLER, JSON_SPEAKER, SPEAKER, SPOKEN
from support.spoken_models import TOOL_ANSWER


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
        return ChatOpenAI(
            model=model,
            base_url=f"{server.url}/v1",
            api_key="none",
            temperature=0,
            use_responses_api=True,
            **fields,
        )

    return make


def test_a_conversation_is_answered(chat):
    message = chat().invoke("Hello")
    assert message.text.strip() == SPOKEN
    assert message.usage_metadata["output_tokens"] > len(SPOKEN.split())


def test_a_conversation_is_streamed(chat):
    assert "".join(chunk.text for chunk in chat().stream("Hello")).strip() == SPOKEN


def test_a_conversation_is_gone_on_with(chat):
    model = chat(use_previous_response_id=True)
    first = HumanMessage("Hello")
    answered = model.invoke([first])
    assert answered.response_metadata["id"].startswith("resp_")
    assert model.invoke([first, answered, HumanMessage("And?")]).text.strip() == SPOKEN


def test_a_tool_loop_ends_with_an_answer(chat):
    model = chat(CALLER).bind_tools([get_weather])
    question = HumanMessage("What is the weather in Paris?")
    called = model.invoke([question])
    (call,) = called.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", CALLED_WITH)
    assert model.invoke([question, called, get_weather.invoke(call)]).text.strip() == TOOL_ANSWER


def test_structured_output_is_parsed(chat):
    assert chat(JSON_SPEAKER).with_structured_output(Stay).invoke("Hello") == Stay(**CALLED_WITH)
