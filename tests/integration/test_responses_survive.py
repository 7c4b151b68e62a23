"""Stored responses and a whole server: through the data plane, and through its death."""

from __future__ import annotations

import json
import signal
import threading
from http.client import HTTPException
from pathlib import Path

import openai
import pytest

from support.server import DEADLINE, running_server, wait_until
from support.unix_http import ask


def store(directory, number, **fields):
    """Store a response as the data plane does; whether it was said to be stored."""
    (path,) = directory.glob("**/control.sock")
    body = {
        "id": f"resp_{number}",
        "response": {"id": f"resp_{number}", "object": "response", "output": [], **fields},
        "input": [{"type": "message", "role": "user", "content": "x" * 2000}],
        "previous_response_id": None,
    }
    try:
        status, said = ask(path, "/_control/responses", body)
    except (OSError, HTTPException):
        return False
    assert status == 204, said
    return True


def client_of(server):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0)


def test_what_was_stored_survives_a_killed_server(tmp_path):
    stored: list[str] = []

    def write(writer):
        number = 0
        while store(tmp_path, f"{writer}_{number}", status="completed"):
            stored.append(f"resp_{writer}_{number}")
            number += 1

    with running_server(tmp_path) as server:
        assert store(tmp_path, "begun", status="in_progress", background=True)
        writers = [threading.Thread(target=write, args=(writer,)) for writer in range(20)]
        for writer in writers:
            writer.start()
        wait_until(lambda: len(stored) > 100, "responses to be stored")
        server.process.send_signal(signal.SIGKILL)
        for writer in writers:
            writer.join(DEADLINE)
        server.process.wait(DEADLINE)
    for socket in tmp_path.glob("**/control.sock"):
        socket.unlink()
    with running_server(tmp_path) as server, client_of(server) as client:
        for response_id in stored:
            assert client.responses.retrieve(response_id).status == "completed"
        begun = client.responses.retrieve("resp_begun")
        assert (begun.status, begun.error.code) == ("failed", "server_error")


def test_openai_through_the_data_plane(tmp_path):
    with running_server(tmp_path) as server, client_of(server) as client:
        store(tmp_path, 1, status="in_progress", background=True)
        assert client.responses.retrieve("resp_1").status == "in_progress"
        assert client.responses.cancel("resp_1").status == "cancelled"
        (item,) = client.responses.input_items.list("resp_1").data
        assert item.content[0].text == "x" * 2000
        client.responses.delete("resp_1")
        with pytest.raises(openai.NotFoundError) as caught:
            client.responses.retrieve("resp_1")
        assert caught.value.code == "not_found"
        assert server.request("/_control/responses", {}).status == 404


def test_a_damaged_database_keeps_no_server_from_starting(tmp_path):
    state = tmp_path / "state"
    state.mkdir()
    (state / "state.db").write_bytes(b"no database" * 1000)
    with running_server(tmp_path) as server:
        assert server.request("/v1/models").status == 200
        error = json.loads(server.request("/v1/responses/resp_1").body)["error"]
        assert "state.db` is damaged" in error["message"]
        wait_until(lambda: "responses are not stored" in Path(server.log).read_text(), "the log")
