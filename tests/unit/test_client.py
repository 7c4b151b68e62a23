"""The client against a real HTTP server: addresses, answers, streams, and all that breaks."""

import asyncio
import socket
from contextlib import aclosing

import pytest

from model_runner.client import Address, ChatChunk, Client, PullEvent, Statistics
from model_runner.client.address import DEFAULT_ADDRESS
from model_runner.config import DEFAULT_HOST, DEFAULT_PORT
from model_runner.errors import (
    InvalidReference,
    InvalidRequest,
    ServerError,
    ServerRefused,
    ServerUnreachable,
)
from support.scripted_server import ID, LAYER, MIB, scripted_server


@pytest.fixture(name="server")
def _server():
    with scripted_server() as server:
        yield server


def use(server, work):
    """Run `work(client)` with a client of that server."""

    async def main():
        async with Client(Address.parse(server.address)) as client:
            return await work(client)

    return asyncio.run(main())


async def collect(stream):
    return [element async for element in stream]


def ask(text):
    return [{"role": "user", "content": text}]


@pytest.mark.parametrize(
    ("variables", "url"),
    [
        ({"MODEL_RUNNER_TLS": "true"}, "https://127.0.0.1:12444"),
        ({"MODEL_RUNNER_TLS": "true", "MODEL_RUNNER_HOST": "host"}, "https://host:12444"),
        ({"MODEL_RUNNER_TLS": "true", "MODEL_RUNNER_HOST": "host:8"}, "https://host:8"),
        ({"MODEL_RUNNER_TLS": "1", "MODEL_RUNNER_HOST": "http://host:8"}, "http://host:8"),
        ({"MODEL_RUNNER_TLS": "no", "MODEL_RUNNER_HOST": "host"}, "http://host:12434"),
    ],
)
def test_an_address_without_a_protocol_is_https_if_tls_is_asked_for(monkeypatch, variables, url):
    monkeypatch.delenv("MODEL_RUNNER_HOST", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert Address.from_environment().url == url


@pytest.mark.parametrize(
    ("given", "url", "path"),
    [
        ("http://127.0.0.1:12434", "http://127.0.0.1:12434", None),
        ("http://127.0.0.1:12434/", "http://127.0.0.1:12434", None),
        ("https://models.example.com", "https://models.example.com", None),
        ("http://host/behind/a/proxy/", "http://host/behind/a/proxy", None),
        ("tcp://host:80", "http://host:80", None),
        ("localhost:8080", "http://localhost:8080", None),
        ("localhost", "http://localhost:12434", None),
        ("[::1]", "http://[::1]:12434", None),
        ('"localhost:8080"', "http://localhost:8080", None),
        ("unix:///run/mr.sock", "http://localhost", "/run/mr.sock"),
        ("unix:///run/without-suffix", "http://localhost", "/run/without-suffix"),
        ("/run/mr.sock", "http://localhost", "/run/mr.sock"),
        ("./mr.sock", "http://localhost", "./mr.sock"),
    ],
)
def test_address_is_read_in_every_form_that_users_write(given, url, path):
    address = Address.parse(given)
    assert (address.url, address.socket) == (url, path)


@pytest.mark.parametrize(
    "given", ["", "unix://", "ftp://host", "http://", "host:port", "http://h?q=1"]
)
def test_text_that_is_no_address_is_refused_as_wrong_usage(given):
    with pytest.raises(InvalidRequest) as caught:
        Address.parse(given)
    assert caught.value.exit_code == 2
    assert "MODEL_RUNNER_HOST" in caught.value.hint


def test_default_address_is_where_serve_listens(monkeypatch):
    monkeypatch.delenv("MODEL_RUNNER_HOST", raising=False)
    assert f"http://{DEFAULT_HOST}:{DEFAULT_PORT}" == DEFAULT_ADDRESS
    assert Address.from_environment().url == DEFAULT_ADDRESS


@pytest.mark.parametrize("over", ["tcp", "unix"])
def test_models_are_read_over_tcp_and_unix_socket(over, tmp_path):
    with scripted_server(tmp_path / "s.sock" if over == "unix" else None) as server:
        first, second = use(server, lambda client: client.models())
    assert first.id == ID
    assert first.tags[0] == "docker.io/ai/smollm2:latest"
    assert (first.parameters, first.context_size) == ("361.82 M", 8192)
    assert (second.tags, second.created, second.context_size) == ((), 0, 2048)


def test_nothing_listening_is_told_with_the_address_and_a_way_out(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = f"127.0.0.1:{taken.getsockname()[1]}"
    for address, why in ((free, "connection refused"), (f"{tmp_path}/none.sock", "no such file")):

        async def call(address=address):
            async with Client(Address.parse(address)) as client:
                await client.models()

        with pytest.raises(ServerUnreachable, match=why) as caught:
            asyncio.run(call())
        assert caught.value.exit_code == 3
        assert "model-runner serve" in caught.value.hint


def test_something_else_at_the_address_is_recognised():
    async def main():
        async def say(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
            writer.close()

        listener = await asyncio.start_server(say, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        async with listener, Client(Address.parse(f"127.0.0.1:{port}")) as client:
            await client.models()

    with pytest.raises(ServerError, match="not a model runner"):
        asyncio.run(main())


def test_connection_that_closes_without_an_answer_is_told():
    async def main():
        listener = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        async with listener, Client(Address.parse(f"127.0.0.1:{port}")) as client:
            await client.models()

    with pytest.raises(ServerUnreachable, match=r"closed the connection|connection reset"):
        asyncio.run(main())


def test_pull_yields_progress_and_ends_with_success(server):
    events = use(server, lambda client: collect(client.pull("ai/smollm2")))
    assert events[4] == PullEvent("progress", "Downloaded", 3 * MIB, LAYER, 3 * MIB, MIB)
    assert events[-1] == PullEvent("success", "Model pulled successfully")
    assert server.bodies("/models/create") == [{"from": "ai/smollm2"}]


@pytest.mark.parametrize(
    ("model", "message", "exit_code"),
    [
        ("ai/missing", "Model not found", 4),
        ("ai/private", "Unauthorized", 6),
        ("ai/other-format", "config type application/x is not supported", 1),
        ("ai/broken", "digest mismatch in sha256:3f2a", 1),
    ],
)
def test_refused_pull_carries_the_servers_words(server, model, message, exit_code):
    with pytest.raises(ServerRefused) as caught:
        use(server, lambda client: collect(client.pull(model)))
    assert (caught.value.message, caught.value.exit_code) == (message, exit_code)


@pytest.mark.parametrize("model", ["ai/cut", "ai/endless"])
def test_pull_that_stops_before_its_end_is_an_error(server, model):
    with pytest.raises(ServerError, match="the stream ended early"):
        use(server, lambda client: collect(client.pull(model)))


def test_chat_streams_text_and_what_it_cost(server):
    chunks = use(server, lambda client: collect(client.chat("ai/smollm2", ask("Hi"), usage=True)))
    assert chunks[:3] == [ChatChunk("Hello"), ChatChunk(", wörld"), ChatChunk("!")]
    assert chunks[-1].statistics == Statistics(12, 4, 3, 80.0, 25.5)
    (body,) = server.bodies("/engines/v1/chat/completions")
    assert body == {
        "model": "ai/smollm2",
        "messages": ask("Hi"),
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_error_event_in_a_chat_is_raised_after_what_came_before(server):
    got = []

    async def work(client):
        async for chunk in client.chat("ai/smollm2", ask("crash")):
            got.append(chunk.content)  # noqa: PERF401 - what came before the error counts

    with pytest.raises(ServerRefused, match="killed by signal 9"):
        use(server, work)
    assert "".join(got) == "Hello, wörld!"


@pytest.mark.parametrize("question", ["stop early", "cut"])
def test_chat_without_its_end_is_an_error(server, question):
    with pytest.raises(ServerError, match="the stream ended early"):
        use(server, lambda client: collect(client.chat("ai/smollm2", ask(question))))


def test_leaving_a_chat_closes_the_connection(server):
    async def work(client):
        async with aclosing(client.chat("ai/smollm2", ask("for ever"))) as chunks:
            async for chunk in chunks:
                assert chunk.content == "Hello"
                break

    use(server, work)
    assert server.listener_left.wait(10)


@pytest.mark.parametrize(
    ("model", "status", "exit_code"),
    [("ai/unknown", 404, 4), ("ai/crowded", 503, 7), ("ai/damaged", 500, 1)],
)
def test_refusal_in_openai_form_becomes_message_and_exit_code(server, model, status, exit_code):
    with pytest.raises(ServerRefused) as caught:
        use(server, lambda client: client.preload(model))
    assert (caught.value.status, caught.value.exit_code) == (status, exit_code)
    assert "{" not in caught.value.message


@pytest.mark.parametrize("name", ["../engines/unload", "ai//x", "", "ai/."])
def test_name_that_would_be_another_path_is_not_sent(server, name):
    with pytest.raises(InvalidReference):
        use(server, lambda client: client.remove(name))
    assert server.requests == []


def test_name_with_signs_of_a_url_stays_in_the_path(server):
    with pytest.raises(ServerRefused):
        use(server, lambda client: client.remove("ai/x?force=true#y%2F"))
    assert server.requests[0][1] == "/models/ai/x%3Fforce%3Dtrue%23y%252F"
