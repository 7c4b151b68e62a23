"""Stored responses over HTTP: as OpenAI's client reads them, and the data plane stores them."""

from __future__ import annotations

import asyncio
import io
import json
from contextlib import asynccontextmanager

import httpx
import openai
import pytest

from model_runner.config import Settings
from model_runner.state import Bounds, Database, Responses
from support.control_planes import serving

PREFIXES = [
    "/responses",
    "/v1/responses",
    "/engines/responses",
    "/engines/v1/responses",
    "/engines/llama.cpp/responses",
    "/engines/llama.cpp/v1/responses",
]


@asynccontextmanager
async def stored(tmp_path, settings=None):
    """A client of the control plane, and OpenAI's."""
    responses = Responses(Database(tmp_path / "state"), Bounds(1000.0, 1000, 2**30))
    parts = {"responses": responses, **({"settings": settings} if settings else {})}
    try:
        async with (
            serving(tmp_path, **parts) as client,
            httpx.AsyncClient(
                transport=httpx.AsyncHTTPTransport(uds=str(tmp_path / "control.sock"))
            ) as http,
        ):
            yield (
                client,
                openai.AsyncOpenAI(
                    base_url="http://localhost/v1", api_key="x", http_client=http, max_retries=0
                ),
            )
    finally:
        await responses.close()


def message(text, role="assistant"):
    part = {"type": "output_text", "text": text, "annotations": []}
    return {
        "id": f"msg_{text}",
        "type": "message",
        "role": role,
        "status": "completed",
        "content": [part],
    }


def response(response_id, *output, **fields):
    return {
        "id": response_id,
        "object": "response",
        "created_at": 1_800_000_000,
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "model": "ai/tiny",
        "output": list(output),
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": 1,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 2,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 3,
        },
        **fields,
    }


CALL = {
    "id": "fc_1",
    "type": "function_call",
    "call_id": "call_1",
    "name": "weather",
    "arguments": '{"city":"Köln"}',
    "status": "completed",
}


async def store(client, response, asked, previous=None):
    body = {
        "id": response["id"],
        "response": response,
        "input": asked,
        "previous_response_id": previous,
    }
    answer = await client.send(
        "POST", "/_control/responses", data=io.BytesIO(json.dumps(body).encode())
    )
    assert (answer.status, answer.body) == (204, b"")


async def store_conversation(client):
    """A question, a call of a tool, and what is made of its result."""
    await store(client, response("resp_1", CALL), [{"role": "user", "content": "Weather?"}])
    result = {"type": "function_call_output", "call_id": "call_1", "output": "rain"}
    await store(client, response("resp_2", message("It rains.")), [result], "resp_1")


def test_openai_reads_what_was_stored(tmp_path):
    async def main():
        async with stored(tmp_path) as (client, sdk):
            await store_conversation(client)
            return await sdk.responses.retrieve("resp_2", include=["reasoning.encrypted_content"])

    found = asyncio.run(main())
    assert found.output_text == "It rains."
    assert (found.status, found.usage.total_tokens) == ("completed", 3)


def test_openai_deletes(tmp_path):
    async def main():
        async with stored(tmp_path) as (client, sdk):
            await store_conversation(client)
            raw = await client.send("DELETE", "/v1/responses/resp_1")
            await sdk.responses.delete("resp_2")
            with pytest.raises(openai.NotFoundError) as caught:
                await sdk.responses.retrieve("resp_2")
            return json.loads(raw.body), caught.value

    deleted, error = asyncio.run(main())
    assert deleted == {"id": "resp_1", "object": "response", "deleted": True}
    assert (error.param, error.code, error.type) == (
        "response_id",
        "not_found",
        "invalid_request_error",
    )
    assert "Response with id 'resp_2' not found" in error.message


def test_openai_lists_what_was_asked_with_earlier_turns(tmp_path):
    async def main():
        async with stored(tmp_path) as (client, sdk):
            await store_conversation(client)
            newest = await sdk.responses.input_items.list("resp_2")
            oldest = await sdk.responses.input_items.list("resp_2", order="asc")
            # One at a time, as the client itself turns the pages.
            turned = [item async for item in sdk.responses.input_items.list("resp_2", limit=1)]
            return newest.data, oldest.data, turned

    newest, oldest, turned = asyncio.run(main())
    assert [item.type for item in oldest] == ["message", "function_call", "function_call_output"]
    assert newest == turned == oldest[::-1]
    assert oldest[0].content[0].text == "Weather?"
    assert {type(item).__name__ for item in oldest} == {
        "ResponseInputMessageItem",
        "ResponseFunctionToolCallItem",
        "ResponseFunctionToolCallOutputItem",
    }
    assert all(item.id and item.status == "completed" for item in oldest)
    assert len({item.id for item in oldest}) == 3


def test_a_page_says_where_it_ends(tmp_path):
    async def main():
        async with stored(tmp_path) as (client, _):
            asked = [{"id": f"msg_{n}", "role": "user", "content": str(n)} for n in range(25)]
            await store(client, response("resp_1"), asked)
            pages = [
                await client.get(f"/v1/responses/resp_1/input_items{query}")
                for query in ("", "?after=msg_5", "?limit=100&order=asc", "?after=msg_0")
            ]
            return [json.loads(page.body) for page in pages]

    first, rest, whole, beyond = asyncio.run(main())
    assert (first["first_id"], first["last_id"], first["has_more"]) == ("msg_24", "msg_5", True)
    assert (rest["first_id"], rest["last_id"], rest["has_more"]) == ("msg_4", "msg_0", False)
    assert len(whole["data"]) == 25
    assert beyond == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("/input_items?limit=0", "limit"),
        ("/input_items?limit=101", "limit"),
        ("/input_items?limit=1000000", "limit"),
        ("/input_items?limit=x", "limit"),
        ("/input_items?order=up", "order"),
        ("/input_items?after=msg_nowhere", "after"),
        ("?stream=true", "stream"),
    ],
)
def test_what_cannot_be_asked_for(tmp_path, query, param):
    async def main():
        async with stored(tmp_path) as (client, _):
            await store_conversation(client)
            return await client.get(f"/v1/responses/resp_1{query}")

    answer = asyncio.run(main())
    error = json.loads(answer.body)["error"]
    assert (answer.status, error["param"], error["type"]) == (400, param, "invalid_request_error")


def test_openai_cancels_what_is_made_in_the_background(tmp_path):
    async def main():
        async with stored(tmp_path) as (client, sdk):
            begun = response("resp_1", background=True, status="in_progress", usage=None)
            await store(client, begun, [])
            cancelled = await sdk.responses.cancel("resp_1")
            await store(client, response("resp_1", message("late"), background=True), [])
            return cancelled, await sdk.responses.retrieve("resp_1")

    cancelled, later = asyncio.run(main())
    assert (cancelled.status, cancelled.output) == ("cancelled", [])
    assert later == cancelled


def test_openai_is_told_what_cannot_be_cancelled(tmp_path):
    async def main():
        async with stored(tmp_path) as (client, sdk):
            await store(client, response("resp_1"), [])
            with pytest.raises(openai.BadRequestError) as caught:
                await sdk.responses.cancel("resp_1")
            with pytest.raises(openai.NotFoundError):
                await sdk.responses.cancel("resp_2")
            return caught.value

    error = asyncio.run(main())
    assert (error.param, error.type) == ("response_id", "invalid_request_error")
    assert "Cannot cancel a synchronous response." in error.message


@pytest.mark.parametrize("prefix", PREFIXES)
def test_every_spelling_of_the_path(tmp_path, prefix):
    async def main():
        async with stored(tmp_path) as (client, _):
            await store_conversation(client)
            answers = [
                await client.get(f"{prefix}/resp_1"),
                await client.get(f"{prefix}/resp_1/input_items"),
                await client.send("POST", f"{prefix}/resp_1/cancel"),
                await client.send("DELETE", f"{prefix}/resp_1"),
                await client.get(f"{prefix}/resp_1"),
                await client.send("PUT", f"{prefix}/resp_1"),
            ]
            return [(answer.status, json.loads(answer.body)) for answer in answers]

    answers = asyncio.run(main())
    assert [status for status, _ in answers] == [200, 200, 400, 200, 404, 404]
    shape = {"message", "type", "param", "code"}
    assert all(set(body["error"]) == shape for status, body in answers if status >= 400)


def test_the_data_plane_reads_a_conversation(tmp_path):
    async def main():
        async with stored(tmp_path) as (client, _):
            await store_conversation(client)
            return await client.send("POST", "/_control/responses/history", json={"id": "resp_2"})

    answer = asyncio.run(main())
    told = json.loads(answer.body)
    assert (answer.status, told["instructions"]) == (200, None)
    assert [item["type"] for item in told["items"]] == [
        "message",
        "function_call",
        "function_call_output",
        "message",
    ]
    assert told["items"][1] == CALL


def test_the_data_plane_is_refused_in_its_own_shape(tmp_path):
    async def main():
        async with stored(tmp_path) as (client, _):
            missing = await client.send(
                "POST", "/_control/responses/history", json={"id": "resp_1"}
            )
            wrong = await client.send("POST", "/_control/responses", json={"id": "resp_1"})
            return missing, wrong

    missing, wrong = asyncio.run(main())
    body = json.loads(missing.body)
    assert (missing.status, body["code"]) == (400, "previous_response_not_found")
    assert (body["param"], body["kind"]) == ("previous_response_id", "invalid_request_error")
    assert (wrong.status, json.loads(wrong.body)["code"]) == (400, "invalid_request")


def test_a_large_response_is_stored(tmp_path):
    async def main():
        async with stored(tmp_path, Settings(body_limit=16 * 2**20)) as (client, sdk):
            image = {"type": "input_image", "image_url": "data:;base64," + "x" * (8 * 2**20)}
            asked = [{"id": "msg_1", "type": "message", "role": "user", "content": [image]}]
            await store(client, response("resp_1"), asked)
            listed = await sdk.responses.input_items.list("resp_1")
            return listed.data[0].content[0].image_url

    assert len(asyncio.run(main())) > 8 * 2**20


def test_a_database_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "state.db").write_bytes(b"no database" * 999)

    async def main():
        async with stored(tmp_path) as (client, _):
            models = await client.get("/engines/ps")
            return models.status, await client.get("/v1/responses/resp_1")

    elsewhere, answer = asyncio.run(main())
    error = json.loads(answer.body)["error"]
    assert (elsewhere, answer.status, error["code"]) == (200, 500, "state_error")
    assert "move it away" in error["message"]
