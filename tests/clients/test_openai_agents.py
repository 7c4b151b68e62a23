"""OpenAI's Agents SDK, over chat completions and over responses: tools and typed results."""

from __future__ import annotations

import asyncio

import agents
import openai
import pytest
from pydantic import BaseModel

from support.client_models import CALLED_WITH, CALLER, JSON_SPEAKER, SPEAKER, SPOKEN
from support.spoken_models import TOOL_ANSWER


class Stay(BaseModel):
    city: str
    days: int


@agents.function_tool
def get_weather(city: str, days: int) -> str:
    """Weather of a city."""
    return f"clear over {city} for {days} days"


@pytest.fixture(
    params=[agents.OpenAIChatCompletionsModel, agents.OpenAIResponsesModel],
    ids=["chat", "responses"],
)
def run(server, request):
    """Runs an agent as its own program would; the result."""

    def run(model, *, streamed=False, **fields):
        async def main():
            async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
                agent = agents.Agent(
                    name="Assistant",
                    instructions="Be brief.",
                    model=request.param(model=model, openai_client=client),
                    model_settings=agents.ModelSettings(temperature=0),
                    **fields,
                )
                if not streamed:
                    return await agents.Runner.run(agent, "Hello"), []
                result = agents.Runner.run_streamed(agent, "Hello")
                return result, [event async for event in result.stream_events()]

        return asyncio.run(main())

    return run


def test_an_agent_answers(run):
    result, _ = run(SPEAKER)
    assert result.final_output.strip() == SPOKEN


def test_an_agent_uses_a_tool_and_answers(run):
    result, _ = run(CALLER, tools=[get_weather])
    assert result.final_output.strip() == TOOL_ANSWER
    kinds = [item.type for item in result.new_items]
    assert kinds == ["tool_call_item", "tool_call_output_item", "message_output_item"]
    assert result.new_items[1].output == "clear over Paris for 3 days"


def test_an_agent_is_streamed(run):
    result, events = run(CALLER, tools=[get_weather], streamed=True)
    raw = [event.data for event in events if event.type == "raw_response_event"]
    deltas = [data.delta for data in raw if data.type == "response.output_text.delta"]
    assert "".join(deltas).strip() == result.final_output.strip() == TOOL_ANSWER
    named = [event.name for event in events if event.type == "run_item_stream_event"]
    assert named == ["tool_called", "tool_output", "message_output_created"]


def test_a_result_is_typed(run):
    result, _ = run(JSON_SPEAKER, output_type=Stay)
    assert result.final_output == Stay(**CALLED_WITH)


def test_usage_is_summed_over_the_turns(run):
    result, _ = run(CALLER, tools=[get_weather])
    usage = result.context_wrapper.usage
    assert usage.requests == 2
    assert usage.output_tokens > len(TOOL_ANSWER.split())
