"""The last requests of a whole server with a real engine, over HTTP and in a terminal."""

from __future__ import annotations

import json
import subprocess

from support.server import MODEL_RUNNER, running_server, wait_until


def test_requests_can_be_read_and_followed(models):
    with running_server(models) as server:
        answer = server.chat("ai/tiny-script", max_tokens=4).json()
        wait_until(lambda: records(server)[0]["status_code"] == 200, "the request to have ended")
        (record,) = records(server)
        assert json.loads(record["response"]) == answer
        assert json.loads(record["request"])["model"] == "ai/tiny-script"
        tokens = answer["usage"]["completion_tokens"]
        assert record["usage"]["completion_tokens"] == tokens

        shown = server.cli("requests", "--model", "AI/Tiny-Script:latest")
        assert json.loads(shown.stdout) == server.request("/engines/requests").json()
        assert json.loads(server.cli("requests", "--model", "ai/tiny-random").stdout) == []

        with following(server, "--include-existing") as follower:
            assert json.loads(follower.stdout.readline()) == record
            server.chat("ai/tiny-random", max_tokens=2)
            other = json.loads(follower.stdout.readline())
            assert (other["model"], other["status_code"]) == ("ai/tiny-random", 200)
            server.cli("unload", "--all")
            assert len(records(server)) == 2, "they survive the model"
            assert server.stop() == 0
            assert "the stream ended early" in follower.stderr.read()


def test_what_is_kept_is_the_users_choice(models):
    secret = "Ann lives in Bern"
    with running_server(models, MODEL_RUNNER_RECORD_REDACTION="all") as server:
        server.chat("ai/tiny-script", max_tokens=4, messages=[{"role": "user", "content": secret}])
        page = server.request("/engines/requests").text
        assert secret not in page
        assert "[redacted: 17 characters]" in page
    with running_server(models, MODEL_RUNNER_RECORDER="off") as server:
        server.chat("ai/tiny-script", max_tokens=4)
        refused = server.cli("requests")
        assert refused.returncode != 0
        assert "requests are not recorded" in refused.stderr
        assert "MODEL_RUNNER_RECORDER=on" in refused.stderr


def records(server):
    listed = server.request("/engines/requests").json()
    return [record for model in listed for record in model["records"]]


def following(server, *options):
    return subprocess.Popen(
        [*MODEL_RUNNER, "requests", "--follow", *options],
        env=server.environment | {"MODEL_RUNNER_HOST": server.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
