"""OpenAI's Python SDK: responses that are kept, gone on with, cancelled and refused."""

from __future__ import annotations

import openai
import pytest

from support.client_models import (
    ABSENT,
    CHATTERBOX,
    ENCODER,
    SPEAKER,
    SPOKEN,
    TOO_LONG,
    cancelled,
    wait_for_cancellation,
)
from support.server import DEADLINE, wait_until


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=DEADLINE) as made:
        yield made


def ask(**fields):
    return {"model": SPEAKER, "input": "Hello", "temperature": 0, **fields}


def test_a_response_is_kept(client):
    response = client.responses.create(**ask(metadata={"key": "value"}))
    kept = client.responses.retrieve(response.id)
    assert kept.to_dict() == response.to_dict()


def test_a_streamed_response_is_kept(client):
    *_, last = client.responses.create(**ask(stream=True))
    assert client.responses.retrieve(last.response.id).output_text.strip() == SPOKEN


def test_a_response_that_is_not_to_be_kept_is_not(client):
    response = client.responses.create(**ask(store=False))
    assert response.store is False
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**ask(previous_response_id=response.id))
    assert caught.value.code == "previous_response_not_found"


def test_a_response_is_deleted(client):
    response = client.responses.create(**ask())
    client.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.delete(response.id)


def test_the_conversation_is_gone_on_with(client):
    first = client.responses.create(**ask(input="My name is Ann."))
    second = client.responses.create(**ask(input="And yours?", previous_response_id=first.id))
    assert second.previous_response_id == first.id
    # The earlier turns are in the prompt, the user's own as well.
    spoken = first.usage.output_tokens
    assert second.usage.input_tokens > first.usage.input_tokens + spoken
    third = client.responses.create(**ask(previous_response_id=second.id))
    assert third.usage.input_tokens > second.usage.input_tokens + spoken


def test_instructions_are_not_carried_over(client):
    long = client.responses.create(**ask(instructions="Be brief. " * 40))
    after = client.responses.create(**ask(previous_response_id=long.id))
    assert after.instructions is None
    assert after.usage.input_tokens < long.usage.input_tokens + long.usage.output_tokens


def test_the_input_is_listed(client):
    items = [{"role": "user", "content": word} for word in ("one", "two", "three")]
    response = client.responses.create(**ask(input=items))
    listed = list(client.responses.input_items.list(response.id, order="asc"))
    assert [item.content[0].text for item in listed] == ["one", "two", "three"]
    assert len({item.id for item in listed}) == 3
    page = client.responses.input_items.list(response.id, limit=2)
    assert [item.content[0].text for item in page.data] == ["three", "two"]
    assert page.has_more
    assert len(list(page)) == 3


def test_a_response_in_the_background_is_completed(client):
    response = client.responses.create(**ask(background=True))
    assert response.status in {"queued", "in_progress"}
    done = wait_until(
        lambda: ended(client.responses.retrieve(response.id)), "the response to be completed"
    )
    assert (done.status, done.output_text.strip()) == ("completed", SPOKEN)


def ended(response):
    return None if response.status in {"queued", "in_progress"} else response


def test_a_response_in_the_background_is_cancelled(client, server):
    before = cancelled(server)
    response = client.responses.create(
        **ask(model=CHATTERBOX, background=True, max_output_tokens=3500)
    )
    assert client.responses.cancel(response.id).status == "cancelled"
    wait_for_cancellation(server, before)
    assert client.responses.retrieve(response.id).status == "cancelled"


def test_only_what_runs_in_the_background_is_cancelled(client):
    response = client.responses.create(**ask())
    with pytest.raises(openai.BadRequestError):
        client.responses.cancel(response.id)


@pytest.mark.parametrize(
    "fields",
    [
        {"input": 7},
        {"input": [{"type": "poem"}]},
        {"temperature": "hot"},
        {"max_output_tokens": "many"},
        {"text": {"format": {"type": "poem"}}},
        {"tools": "all"},
        {"tools": [{"type": "poem"}]},
        {"tool_choice": {"type": "function", "name": "get_time"}},
        {"previous_response_id": "resp_absent"},
        {"input": TOO_LONG},
        {"model": ENCODER},
    ],
    ids=[
        *("input", "item", "temperature", "tokens", "format", "tools", "tool", "choice"),
        *("previous", "overflow", "embedding model"),
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_wrong_request_is_a_bad_one(client, fields, stream):
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**ask(stream=stream, **fields))
    assert caught.value.type
    assert caught.value.message
    assert caught.value.request_id
    assert caught.value.request.headers["x-stainless-retry-count"] == "0"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_an_absent_model_is_not_found(client, stream):
    with pytest.raises(openai.NotFoundError, match=ABSENT) as caught:
        client.responses.create(**ask(model=ABSENT, stream=stream))
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize("name", ["retrieve", "delete", "cancel"])
def test_an_absent_response_is_not_found(client, name):
    with pytest.raises(openai.NotFoundError, match="resp_absent"):
        getattr(client.responses, name)("resp_absent")


def test_a_timeout_ends_the_generation(client, server):
    before = cancelled(server)
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.2, max_retries=0).responses.create(
            **ask(model=CHATTERBOX, max_output_tokens=3500)
        )
    wait_for_cancellation(server, before)


@pytest.mark.parametrize(
    "base", ["", "/v1", "/engines", "/engines/v1", "/engines/llama.cpp", "/engines/llama.cpp/v1"]
)
def test_every_base_url_leads_to_everything(server, base):
    with openai.OpenAI(base_url=f"{server.url}{base}", api_key="none") as client:
        response = client.responses.create(**ask())
        assert client.responses.retrieve(response.id).output_text.strip() == SPOKEN
        assert len(list(client.responses.input_items.list(response.id))) == 1
        client.responses.delete(response.id)


def test_items_that_are_only_named_are_found_in_their_response(client):
    first = client.responses.create(**ask())
    [said] = first.output
    turns = [
        {"role": "user", "content": "Hello"},
        {"type": "item_reference", "id": said.id},
        {"role": "user", "content": "And then?"},
    ]
    second = client.responses.create(**ask(input=turns))
    alone = client.responses.create(**ask(input="And then?"))
    assert second.usage.input_tokens > alone.usage.input_tokens + first.usage.output_tokens
    kept = {item.id: item for item in client.responses.input_items.list(second.id)}
    assert kept[said.id].content[0].text.strip() == SPOKEN


@pytest.mark.parametrize("item_id", ["msg_absent", f"msg_{'0' * 28}"])
def test_an_item_that_is_named_and_not_there_is_refused(client, item_id):
    with pytest.raises(openai.BadRequestError, match="not found"):
        client.responses.create(**ask(input=[{"type": "item_reference", "id": item_id}]))


def test_tools_that_only_openai_runs_are_left_out_and_not_repeated(client):
    """Agents offer them beside their own, whatever they talk to."""
    own = {"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": False}
    response = client.responses.create(**ask(tools=[{"type": "web_search"}, own]))
    assert [tool.type for tool in response.tools] == ["function"]
    with pytest.raises(openai.BadRequestError, match="not supported"):
        client.responses.create(**ask(tools=[{"type": "custom", "name": "patch"}]))
