"""Asks the control plane as clients of Ollama do."""

from __future__ import annotations

import asyncio
import json

from support.control_planes import FakeRegistry, FakeScheduler, serving


def ask(tmp_path, store, *requests, scheduler=None, registry=None):
    """Answers to (method, path[, body[, user agent]]); a body that is no text is sent as JSON."""

    async def main():
        parts = {
            "store": store,
            "scheduler": scheduler or FakeScheduler(),
            "registry": registry or FakeRegistry(),
        }
        async with serving(tmp_path, **parts) as client:
            return [await _send(client, *request) for request in requests]

    return asyncio.run(main())


async def _send(client, method, path, body=None, agent="tests"):
    data = body if isinstance(body, str | bytes | None) else json.dumps(body)
    return await client.send(
        method, path, data=data, headers={"Content-Type": "text/plain", "User-Agent": agent}
    )


def refusal(answer):
    """Status and text of an error, which has nothing else in it."""
    assert answer.headers["content-type"] == "application/json"
    fields = json.loads(answer.body)
    assert list(fields) == ["error"]
    return answer.status, fields["error"]


def lines(answer):
    """The objects of a stream."""
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]
