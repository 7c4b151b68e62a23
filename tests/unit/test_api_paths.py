"""Paths, methods and error shapes of the control plane."""

from __future__ import annotations

import asyncio
import json

import pytest

from model_runner.api.bodies import flag, parse_body
from model_runner.api.engines import go_duration
from model_runner.api.models import PullRequest
from model_runner.api.paths import redirection
from model_runner.errors import InvalidRequest
from support.control_planes import serving


def ask(tmp_path, *requests):
    """Answers to (method, path[, headers]) tuples, in order."""

    async def main():
        async with serving(tmp_path) as client:
            return [
                await client.send(method, path, headers=dict(*rest))
                for method, path, *rest in requests
            ]

    return asyncio.run(main())


def test_sign_of_life_answers_every_method(tmp_path):
    get, post, head = ask(tmp_path, ("GET", "/"), ("POST", "/"), ("HEAD", "/"))
    assert get.body == post.body == b"Docker Model Runner is running"
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == "30"


def test_version_is_json_with_a_newline(tmp_path):
    (answer,) = ask(tmp_path, ("GET", "/version"))
    assert answer.headers["content-type"] == "application/json"
    assert answer.text.endswith("\n")
    assert list(json.loads(answer.body)) == ["version"]


@pytest.mark.parametrize(
    ("method", "path", "text"),
    [
        ("GET", "/nothing", "404 page not found\n"),
        ("GET", "/metrics/", "404 page not found\n"),
        ("GET", "/modelsx", "404 page not found\n"),
        ("GET", "/docs", "404 page not found\n"),
        ("PUT", "/models/x/y", "not found\n"),
        ("PUT", "/models", None),
        ("GET", "/engines/", "not found\n"),
        ("POST", "/engines/ps", "not found\n"),
        ("GET", "/engines/v1/nothing", "not found\n"),
        ("GET", "/v1/_configure", "not found\n"),
        ("POST", "/models/ai/x/bake", 'unknown action "bake"\n'),
        ("GET", "/models/", "model not found\n"),
    ],
)
def test_unrouted_paths(tmp_path, method, path, text):
    (answer,) = ask(tmp_path, (method, path))
    if text is None:
        assert (answer.status, answer.headers["location"]) == (307, "/models/")
        return
    assert (answer.status, answer.text) == (404, text)
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_clients_that_accept_only_json_get_errors_as_json(tmp_path):
    accept = {"Accept": "application/json"}
    inside, outside = ask(tmp_path, ("PUT", "/models/x", accept), ("GET", "/nothing", accept))
    assert inside.status == outside.status == 404
    assert json.loads(inside.body)["error"] == {
        "message": "not found",
        "type": "invalid_request_error",
        "code": "not_found",
        "hint": None,
    }
    assert json.loads(outside.body)["error"]["message"] == "404 page not found"


def test_directories_and_dots_are_redirected(tmp_path):
    directory, dots = ask(
        tmp_path, ("GET", "/engines"), ("DELETE", "/models/../engines/./ps?all=%2F")
    )
    assert (directory.status, directory.headers["location"]) == (307, "/engines/")
    assert (dots.status, dots.headers["location"]) == (307, "/engines/ps?all=%2F")


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/models/ai/../x", "/models/x"),
        ("/../../etc/passwd", "/etc/passwd"),
        ("/models/x/..", "/models/"),
        ("/..", "/"),
        ("//host/./x", "/host/x"),
        ("/models/..x/...", None),
        ("/models/%2e%2e/x", None),
        ("/models", None),
    ],
)
def test_redirection(path, target):
    assert redirection("GET", path) == target


def test_the_api_describes_itself(tmp_path):
    (answer,) = ask(tmp_path, ("GET", "/openapi.json"))
    paths = json.loads(answer.body)["paths"]
    assert {"/models", "/models/create", "/models/{name}", "/engines/ps", "/v1/models"} <= set(
        paths
    )
    assert not any(path.startswith("/_control") for path in paths)
    reference = paths["/models"]["get"]["responses"]["200"]["content"]["application/json"]
    assert reference["schema"]["items"] == {"$ref": "#/components/schemas/ModelDescription"}
    assert "from" in json.dumps(paths["/models/create"]["post"]["requestBody"])


@pytest.mark.parametrize(
    ("body", "source"),
    [
        (b'{"from":"ai/x"}', "ai/x"),
        (b' \n{"FROM":"ai/x","other":1} trailing', "ai/x"),
        (b'{"from":"a","From":"b"}', "b"),
        (b'{"from":null}', ""),
        (b"null", ""),
        (b"{}", ""),
    ],
)
def test_bodies_are_read_as_go_reads_them(body, source):
    assert parse_body(PullRequest, body, complaint="invalid").source == source


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'"x"', b'{"from":1}', b"\xff", b"[" * 100_000, b'{"from":["a"]}'],
)
def test_other_bodies_are_refused(body):
    with pytest.raises(InvalidRequest, match="invalid request body"):
        parse_body(PullRequest, body, complaint="invalid request body")


def test_strict_bodies_end_where_their_json_ends():
    parse_body(PullRequest, b"{} \n", complaint="invalid", strict=True)
    with pytest.raises(InvalidRequest):
        parse_body(PullRequest, b"{} x", complaint="invalid", strict=True)


@pytest.mark.parametrize(
    ("value", "meaning"),
    [(None, False), ("", True), ("true", True), ("1", True), ("0", False), ("junk", False)],
)
def test_flags_in_queries(value, meaning):
    assert flag(value) is meaning


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(300, "5m0s"), (-1, "-1"), (0, "0s"), (3661, "1h1m1s"), (0.25, "0.25s"), (90.5, "1m30.5s")],
)
def test_durations_are_spelt_as_go_spells_them(seconds, text):
    assert go_duration(seconds) == text
