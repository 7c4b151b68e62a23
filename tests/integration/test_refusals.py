"""What bad input gets: a status, a reason in the caller's dialect, and what to do next."""

from __future__ import annotations

import contextlib
import json

import pytest

from support.server import chat_body, running_server

CHAT = "/v1/chat/completions"


def error_of(answer):
    assert answer.headers["content-type"].startswith("application/json")
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def test_an_unknown_model_is_refused_with_a_hint_to_pull_it(chat_server):
    answer = chat_server.chat("ai/absent")
    assert answer.status == 404
    error = error_of(answer)
    assert error["code"] == "model_not_found"
    assert "model-runner pull ai/absent" in error["message"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "malformed_body"),
        (b"{", "malformed_body"),
        (b"[1]", "malformed_body"),
        (b'{"model": }', "malformed_body"),
        (b"{}", "missing_model"),
        (b'{"model": ""}', "missing_model"),
        (b'{"model": null}', "missing_model"),
        (b'{"model": 7}', "invalid_model"),
    ],
)
def test_a_body_that_names_no_model_is_refused(chat_server, body, code):
    answer = chat_server.request(CHAT, body, method="POST")
    assert answer.status == 400
    assert error_of(answer)["code"] == code


@pytest.fixture(scope="module")
def strict_server(tmp_path_factory):
    """A server that takes requests of at most 2 KiB. It has no model: it does not get that far."""
    directory = tmp_path_factory.mktemp("strict")
    with running_server(directory, MODEL_RUNNER_BODY_LIMIT="2048") as server:
        yield server


@pytest.mark.parametrize("in_chunks", [False, True])
@pytest.mark.parametrize("size", [2049, 20_000_000])
def test_a_body_over_the_limit_is_refused_and_its_answer_can_be_read(
    strict_server, size, in_chunks
):
    connection = strict_server.connect()
    pieces = [b"x" * min(size, 65536)] * max(1, size // 65536)
    body = iter(pieces) if in_chunks else b"x" * size
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it need not read to the end
        connection.request("POST", CHAT, body, encode_chunked=in_chunks)
    response = connection.getresponse()
    error = json.loads(response.read())["error"]
    connection.close()
    assert strict_server.request("/version").status == 200
    assert response.status == 413
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == ("invalid_request_error", "body_too_large")
    assert "2048 bytes" in error["message"]
    assert "MODEL_RUNNER_BODY_LIMIT" in error["message"]


def test_a_body_at_the_limit_is_read_and_one_above_it_is_counted(strict_server):
    refused = "model_runner_refused_requests_total"
    before = strict_server.metric(refused, code="body_too_large")
    connection = strict_server.connect()
    for size, status in ((2048, 400), (2049, 413)):
        connection.request("POST", CHAT, b"x" * size)
        response = connection.getresponse()
        response.read()
        assert response.status == status
    connection.close()
    assert strict_server.metric(refused, code="body_too_large") == before + 1


def test_a_wrong_field_is_the_engines_to_refuse(chat_server):
    answer = chat_server.chat("ai/tiny-script", temperature="hot")
    assert answer.status == 400
    assert "temperature" in answer.text


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "ai%2Ftiny-script", "ai/../tiny-script", "a b", "x" * 5000, "ai/\u0000"],
)
def test_a_hostile_name_is_no_model(chat_server, name):
    answer = chat_server.chat(name)
    assert answer.status in {400, 404}
    assert error_of(answer)["code"] in {"invalid_reference", "model_not_found"}


@pytest.mark.parametrize(
    "path", ["/models/..%2F..%2Fetc%2Fpasswd", "/models/%2e%2e/x", "/models/ai/ABSENT"]
)
def test_a_hostile_path_is_no_model(chat_server, path):
    assert chat_server.request(path).status in {400, 404}


def test_percent_escapes_and_upper_case_in_a_path_are_understood(chat_server):
    wanted = chat_server.request("/models/ai/tiny-script").json()
    assert chat_server.request("/models/ai%2Ftiny-script").json() == wanted
    assert chat_server.request("/models/AI/Tiny-Script").json() == wanted


def test_an_unknown_backend_is_named(chat_server):
    answer = chat_server.request("/engines/vroom/v1/chat/completions", chat_body("x"))
    assert answer.status == 404
    assert "vroom" in error_of(answer)["message"]


def test_inference_takes_post(chat_server):
    answer = chat_server.request(CHAT)
    assert answer.status == 405
    assert answer.headers["allow"] == "POST"


def test_the_private_door_is_shut(chat_server):
    body = {"model": "ai/tiny-script", "mode": "completion"}
    assert chat_server.request("/_control/leases", body).status == 404
    assert chat_server.request("//_control//leases", body).status == 404


def test_what_does_not_exist_is_404(chat_server):
    assert chat_server.request("/nonsense").status == 404
    assert chat_server.request("/models/ai/absent").status == 404
    assert chat_server.request("/models/ai/absent", method="DELETE").status == 404
    assert chat_server.request("/engines/nonsense").status == 404


def test_pages_of_other_sites_are_kept_out_and_those_of_this_machine_are_not(chat_server):
    body = {"from": "ai/anything"}
    stranger = chat_server.request(
        "/models/create", body, headers={"Origin": "https://evil.example"}
    )
    assert stranger.status == 403
    assert "DMR_ORIGINS" in error_of(stranger)["message"]
    rebound = chat_server.request("/models", headers={"Host": "evil.example"})
    assert rebound.status == 403
    local = chat_server.request("/models", headers={"Origin": "http://localhost:3000"})
    assert local.status == 200
    assert local.headers["access-control-allow-origin"] == "http://localhost:3000"


def test_a_body_that_could_kill_the_engine_is_refused(chat_server):
    deep = b'{"model":"ai/tiny-script","messages":[],"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    answer = chat_server.request(CHAT, deep)
    assert answer.status == 400
    assert "nested" in error_of(answer)["message"]
