"""LangChain's class for Anthropic: chats, tools, thoughts and structured output."""

from __future__ import annotations

import pytest
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.tools import tool
from pydantic import BaseModel

from support.client_models import CALLED_WITH, CALLER, SPEAKER, SPOKEN, THINKER
from support.spoken_models import THOUGHT, THOUGHTFUL_ANSWER, TOOL_ANSWER


@tool
def get_weather(city: str, days: int) -> str:
    """Weather of a city."""
    return f"clear over {city} for {days} days"


@pytest.fixture(scope="module", params=["", "/anthropic"])
def chat(server, request):
    def make(model=SPEAKER, **fields):
        return ChatAnthropic(
            model=model,
            base_url=f"{server.url}{request.param}",
            api_key="none",
            **{"max_tokens": 300, "temperature": 0, **fields},
        )

    return make


def test_a_conversation_is_answered(chat):
    message = chat().invoke([SystemMessage("Be brief."), HumanMessage("Hello")])
    assert message.content.strip() == SPOKEN
    assert message.usage_metadata["output_tokens"] > len(SPOKEN.split())
    assert message.response_metadata["stop_reason"] == "end_turn"


def test_a_conversation_is_streamed(chat):
    chunks = list(chat().stream("Hello"))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert whole.text.strip() == SPOKEN
    assert whole.usage_metadata["output_tokens"] > len(SPOKEN.split())


def test_a_tool_loop_ends_with_an_answer(chat):
    model = chat(CALLER).bind_tools([get_weather])
    question = HumanMessage("What is the weather in Paris?")
    called = model.invoke([question])
    (call,) = called.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", CALLED_WITH)
    answer = model.invoke([question, called, get_weather.invoke(call)])
    assert answer.text.strip() == TOOL_ANSWER


def test_a_streamed_call_is_put_together(chat):
    chunks = list(chat(CALLER).bind_tools([get_weather]).stream("What is the weather?"))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert [(call["name"], call["args"]) for call in whole.tool_calls] == [
        ("get_weather", CALLED_WITH)
    ]


def test_structured_output_by_a_call_is_parsed(chat):
    class get_weather(BaseModel):  # noqa: N801 - the only tool that the model knows
        """Weather of a city."""

        city: str
        days: int

    stay = chat(CALLER).with_structured_output(get_weather)
    assert stay.invoke("What is the weather?") == get_weather(**CALLED_WITH)


def test_thoughts_are_kept_apart(chat):
    model = chat(
        THINKER,
        max_tokens=2000,
        temperature=None,
        thinking={"type": "enabled", "budget_tokens": 1024},
    )
    thinking, text = model.invoke("Hello").content
    assert thinking["thinking"].strip() == THOUGHT
    assert text["text"].strip() == THOUGHTFUL_ANSWER


def test_tokens_are_counted(chat):
    assert chat().get_num_tokens_from_messages([HumanMessage("Hello")]) > 0
