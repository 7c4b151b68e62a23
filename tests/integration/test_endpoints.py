"""Every inference endpoint on a real engine, with bodies as clients send them."""

from __future__ import annotations

import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

import openai
import pytest

import model_runner
from support.server import DEADLINE, add_model, chat_body, running_server
from support.tiny_gguf import tiny_embed, tiny_rerank

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.server import Server

CHAT = "ai/tiny-script"
EMBED = "ai/tiny-embed"
RERANK = "ai/tiny-rerank"
MESSAGES = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, engine_environment: dict[str, str]
) -> Iterator[Server]:
    """A server with a model for each mode."""
    directory = tmp_path_factory.mktemp("server")
    add_model(directory, CHAT)
    add_model(directory, EMBED, tiny_embed)
    add_model(directory, RERANK, tiny_rerank)
    with running_server(directory, **engine_environment) as running:
        yield running


def test_text_becomes_tokens_and_text_again(server):
    for model in (CHAT, EMBED, RERANK):
        text = "hello there"
        answer = server.request("/tokenize", {"model": model, "content": text})
        assert answer.status == 200, answer.text
        tokens = answer.json()["tokens"]
        assert tokens
        back = server.request("/v1/detokenize", {"model": model, "tokens": tokens})
        assert back.json()["content"].strip() == text


def test_a_template_is_applied_and_its_tokens_are_counted(server):
    body = {"model": CHAT, "messages": MESSAGES}
    prompt = server.request("/apply-template", body).json()["prompt"]
    assert "Hello" in prompt
    counted = server.request("/v1/chat/completions/input_tokens", body).json()["input_tokens"]
    chat = server.chat(CHAT, max_tokens=1).json()
    assert counted == chat["usage"]["prompt_tokens"]
    asked = {"model": CHAT, "input": "Hello"}
    assert server.request("/v1/responses/input_tokens", asked).json()["input_tokens"] == counted


def test_what_costs_no_tokens_is_not_counted_as_tokens(server):
    def counted():
        return server.metric("model_runner_prompt_tokens_total", model=CHAT)

    before = counted()
    server.request("/tokenize", {"model": CHAT, "content": "Hello"})
    server.request("/v1/chat/completions/input_tokens", {"model": CHAT, "messages": MESSAGES})
    assert counted() == before


@pytest.mark.parametrize("name", [EMBED, "tiny-embed:latest"])
def test_embeddings_echo_the_name(server, name):
    answer = server.request("/v1/embeddings", {"model": name, "input": ["hello", "there"]})
    assert answer.json()["model"] == name
    assert len(answer.json()["data"]) == 2


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/reranking", "/engines/v1/rerank"])
def test_rerankings_echo_the_name(server, path):
    body = {"model": "tiny-rerank", "query": "hello", "documents": ["there", "hello"]}
    answer = server.request(path, body).json()
    assert answer["model"] == "tiny-rerank"
    assert {result["index"] for result in answer["results"]} == {0, 1}


@pytest.mark.parametrize("path", ["/score", "/v1/score", "/engines/llama.cpp/score"])
def test_scores_are_those_of_the_reranking(server, path):
    documents = ["there", "hello", "hello there"]
    body = {"model": RERANK, "query": "hello", "documents": documents}
    ranked = server.request("/rerank", body).json()
    expected = {row["index"]: row["relevance_score"] for row in ranked["results"]}
    scored = server.request(path, {"model": RERANK, "text_1": "hello", "text_2": documents}).json()
    assert scored["model"] == RERANK
    assert scored["usage"]["prompt_tokens"] == ranked["usage"]["prompt_tokens"]
    assert [row["index"] for row in scored["data"]] == [0, 1, 2]
    assert {row["index"]: row["score"] for row in scored["data"]} == pytest.approx(expected)
    pairs = {"model": RERANK, "text_1": ["hello"] * 3, "text_2": documents}
    each = server.request(path, pairs).json()
    assert [row["score"] for row in each["data"]] == pytest.approx(
        [row["score"] for row in scored["data"]], rel=1e-3
    )


def test_a_model_that_does_something_else_says_what(server):
    wrong = [
        ("/v1/chat/completions", chat_body(EMBED), "/v1/embeddings"),
        ("/v1/completions", {"model": RERANK, "prompt": "x"}, "/v1/rerank"),
        ("/v1/embeddings", {"model": RERANK, "input": "x"}, "/v1/rerank"),
        ("/score", {"model": CHAT, "text_1": "x", "text_2": "y"}, "/v1/chat/completions"),
        ("/rerank", {"model": EMBED, "query": "x", "documents": ["y"]}, "/v1/embeddings"),
    ]
    for path, body, instead in wrong:
        answer = server.request(path, body)
        error = answer.json()["error"]
        assert (answer.status, error["code"], error["param"]) == (400, "wrong_mode", "model")
        assert instead in error["message"]


def test_what_the_model_lacks_is_the_engines_to_say(server):
    infill = {"model": CHAT, "input_prefix": "a", "input_suffix": "b"}
    answer = server.request("/infill", infill)
    assert (answer.status, answer.json()["error"]["type"]) == (501, "not_supported_error")
    with openai.OpenAI(
        base_url=f"{server.url}/v1", api_key="none", timeout=DEADLINE, max_retries=0
    ) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            client.audio.transcriptions.create(model=CHAT, file=("a.wav", b"RIFF", "audio/wav"))
        assert caught.value.status_code == 501
        with pytest.raises(openai.NotFoundError) as absent:
            client.audio.transcriptions.create(
                model="ai/absent", file=("a.wav", b"RIFF", "audio/wav")
            )
        assert absent.value.code == "model_not_found"
        with pytest.raises(openai.APIStatusError) as caught:
            client.images.generate(model=CHAT, prompt="a cat")
        assert (caught.value.status_code, caught.value.code) == (501, "not_offered")


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_an_encoded_body_is_read(server, encoding):
    body = json.dumps(chat_body(CHAT, max_tokens=2)).encode()
    encoded = gzip.compress(body) if encoding == "gzip" else zstd_frame(body)
    answer = server.request("/v1/chat/completions", encoded, headers={"Content-Encoding": encoding})
    assert answer.status == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"] == " Hello there"
    refused = server.request("/v1/chat/completions", body, headers={"Content-Encoding": "br"})
    assert (refused.status, refused.headers["accept-encoding"]) == (415, "gzip, zstd")


def zstd_frame(content: bytes) -> bytes:
    """One frame with one raw block (RFC 8878): Python has no zstd before 3.14."""
    size = len(content)
    single_segment = b"\x28\xb5\x2f\xfd\xa0" + size.to_bytes(4, "little")
    last_raw_block = (size << 3 | 1).to_bytes(3, "little")
    return single_segment + last_raw_block + content


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://127.0.0.1:1/cat.png", "media_not_fetched"),
        ("http://169.254.169.254/latest/meta-data", "media_not_fetched"),
        ("file:///etc/passwd", "invalid_parameter"),
    ],
)
def test_an_image_is_not_fetched_from_private_places(server, url, code):
    part = {"type": "image_url", "image_url": {"url": url}}
    body = {"model": CHAT, "messages": [{"role": "user", "content": [part]}]}
    for path in ("/v1/chat/completions", "/apply-template", "/v1/chat/completions/input_tokens"):
        answer = server.request(path, body)
        error = answer.json()["error"]
        assert (answer.status, error["code"], error["param"]) == (400, code, "image_url")


def test_an_image_is_fetched_by_us_and_not_by_the_engine(tmp_path):
    asked: list[str] = []

    class Images(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(f"{self.path} {self.headers['User-Agent']}")
            self.send_response(200)
            self.send_header("Content-Type", "image/png")
            self.end_headers()
            self.wfile.write(b"\x89PNG\r\n\x1a\n")

        def log_message(self, *_arguments: object) -> None:
            pass

    add_model(tmp_path, CHAT)
    images = HTTPServer(("127.0.0.1", 0), Images)
    thread = threading.Thread(target=images.serve_forever)
    thread.start()
    try:
        with running_server(tmp_path, MODEL_RUNNER_MEDIA_HOSTS="127.0.0.1") as server:
            url = f"http://127.0.0.1:{images.server_port}/cat.png"
            part = {"type": "image_url", "image_url": {"url": url}}
            answer = server.chat(CHAT, messages=[{"role": "user", "content": [part]}])
            # The model has no eyes, which the engine says once it has the image.
            assert "image input is not supported" in answer.text
    finally:
        images.shutdown()
        thread.join()
        images.server_close()
    assert asked == [f"/cat.png model-runner/{model_runner.__version__}"]
