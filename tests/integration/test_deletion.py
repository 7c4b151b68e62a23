"""Deleting a model that is loading, answering, or waited for."""

from __future__ import annotations

import json
import os

from support.server import chat_body, running_server, slow_starting_engine, wait_until

ENDLESS = "ai/tiny-random"
SCRIPTED = "ai/tiny-script"
CHAT = "/v1/chat/completions"


def open_chat(server, model, **fields):
    connection = server.connect()
    connection.request("POST", CHAT, json.dumps(chat_body(model, **fields)))
    return connection


def test_a_model_that_is_loading_for_somebody_stays(models):
    gate = models / "gate"
    os.mkfifo(gate)
    engine = slow_starting_engine(models, gate)
    with running_server(models, LLAMA_SERVER_PATH=str(engine)) as server:
        waiter = open_chat(server, SCRIPTED, max_tokens=1)
        wait_until(lambda: server.metric("model_runner_runners", state="loading") == 1, "a load")
        refused = server.request(f"/models/{SCRIPTED}", method="DELETE")
        assert (refused.status, "answering 1 request" in refused.text) == (409, True)
        gate.write_text("go\n")
        assert waiter.getresponse().status == 200
        waiter.close()


def test_who_waits_for_a_slot_of_a_model_that_is_deleted_by_force_is_told(models):
    with running_server(models, MODEL_RUNNER_SLOTS="1") as server:
        streamed = open_chat(server, ENDLESS, stream=True, max_tokens=3900)
        streamed.getresponse().readline()
        waiting = open_chat(server, ENDLESS)
        wait_until(lambda: server.metric("model_runner_runner_queued_requests") == 1, "a queue")
        deleted = server.request(f"/models/{ENDLESS}?force=true", method="DELETE")
        assert deleted.status == 200
        answer = waiting.getresponse()
        assert answer.status == 404
        assert json.loads(answer.read())["error"]["code"] == "model_not_found"
        streamed.close()
        waiting.close()
        assert server.engine_pids() == []
