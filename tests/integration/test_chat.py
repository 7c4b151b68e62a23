"""The main job on both engines: chat, stream, count, and the management calls around it."""

from __future__ import annotations

import json

import openai
import pytest

from support.server import DEADLINE, chat_body, events, streamed_text
from support.tiny_gguf import SCRIPT

MODEL = "ai/tiny-script"
SPOKEN = " " + SCRIPT


def test_a_chat_is_answered_whole(chat_server):
    answer = chat_server.chat(MODEL)
    assert answer.status == 200
    body = answer.json()
    assert body["choices"][0]["message"]["content"] == SPOKEN
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["total_tokens"] == (
        body["usage"]["prompt_tokens"] + body["usage"]["completion_tokens"]
    )


def test_a_chat_is_streamed_event_by_event(chat_server):
    answer = chat_server.chat(MODEL, stream=True)
    assert answer.headers["content-type"] == "text/event-stream"
    assert streamed_text(answer.body) == SPOKEN
    seen = events(answer.body)
    assert seen[-1] == "[DONE]"
    assert len(seen) > len(SCRIPT.split())


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions",
        "/engines/v1/chat/completions",
        "/engines/llama.cpp/v1/chat/completions",
        "//engines//llama.cpp/v1/chat/completions",
    ],
)
def test_every_address_of_the_chat_leads_to_it(chat_server, path):
    answer = chat_server.request(path, chat_body(MODEL, max_tokens=2))
    assert answer.status == 200
    assert answer.json()["choices"][0]["message"]["content"] == " Hello there"


@pytest.mark.parametrize(
    "name",
    [
        "ai/tiny-script",
        "tiny-script",
        "tiny-script:latest",
        "docker.io/ai/tiny-script",
        "AI/Tiny-Script",
    ],
)
def test_every_spelling_of_a_name_works_and_the_answer_names_the_model(chat_server, name):
    answer = chat_server.chat(name, max_tokens=1)
    assert answer.status == 200
    returned = answer.json()["model"]
    assert returned == "ai/tiny-script"
    assert chat_server.chat(returned, max_tokens=1).status == 200


def test_the_id_and_its_short_form_are_names_too(chat_server):
    model_id = chat_server.request("/models/ai/tiny-script").json()["id"]
    for name in (model_id, model_id.removeprefix("sha256:"), model_id[7:19]):
        assert chat_server.chat(name, max_tokens=1).status == 200


def test_nothing_of_the_engine_and_the_host_shows(chat_server):
    answer = chat_server.chat(MODEL, max_tokens=1)
    names = {name.lower() for name in answer.headers}
    assert not names & {"server", "access-control-allow-origin", "keep-alive"}
    assert "/models" not in answer.text


def test_text_completion(chat_server):
    body = {"model": MODEL, "prompt": "x", "max_tokens": 2, "temperature": 0}
    answer = chat_server.request("/v1/completions", body)
    assert answer.json()["choices"][0]["text"] == " Hello there"


def test_the_openai_client_sees_openai(chat_server):
    with openai.OpenAI(
        base_url=f"{chat_server.url}/v1", api_key="none", timeout=DEADLINE
    ) as client:
        assert next(iter(client.models.list())).id.endswith("ai/tiny-script:latest")
        stream = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Hello"}],
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = list(stream)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == SPOKEN
        assert chunks[-1].usage is not None
        with pytest.raises(openai.NotFoundError) as caught:
            client.chat.completions.create(
                model="ai/absent", messages=[{"role": "user", "content": "Hello"}]
            )
        assert caught.value.code == "model_not_found"


def test_every_token_is_counted_whoever_asked_for_usage(chat_server):
    def counted() -> tuple[float, float, float]:
        return (
            chat_server.metric("model_runner_prompt_tokens_total", model=MODEL),
            chat_server.metric("model_runner_completion_tokens_total", model=MODEL),
            chat_server.metric("model_runner_requests_total", model=MODEL, outcome="ok"),
        )

    before = counted()
    usage = chat_server.chat(MODEL).json()["usage"]
    chat_server.chat(MODEL, stream=True)
    chat_server.chat(MODEL, stream=True, stream_options={"include_usage": True})
    after = counted()
    assert after[0] - before[0] == 3 * usage["prompt_tokens"]
    assert after[1] - before[1] == 3 * usage["completion_tokens"]
    assert after[2] - before[2] == 3


def test_the_engines_own_metrics_are_there_with_labels(chat_server):
    chat_server.chat(MODEL, max_tokens=1)
    text = chat_server.request("/metrics").text
    labels = 'backend="llama.cpp",model="ai/tiny-script",mode="completion"'
    assert any(
        line.startswith("llamacpp:prompt_tokens_total{")
        and all(part in line for part in labels.split(","))
        for line in text.splitlines()
    )


def test_a_loaded_model_is_shown_by_ps(chat_server):
    chat_server.chat(MODEL, max_tokens=1)
    (runner,) = chat_server.request("/engines/ps").json()
    assert runner["backend_name"] == "llama.cpp"
    assert runner["mode"] == "completion"
    assert runner["model_name"].endswith("tiny-script") or ":" in runner["model_name"]


def test_preloading_loads_and_answers_with_nothing(chat_server):
    body = json.dumps({"model": MODEL}).encode()
    answer = chat_server.request(
        "/engines/v1/chat/completions", body, headers={"X-Preload-Only": "true"}
    )
    assert (answer.status, answer.body) == (200, b"")


def test_the_address_says_what_it_is(chat_server):
    assert chat_server.request("/").text == "Docker Model Runner is running"
    assert set(chat_server.request("/version").json()) >= {"version"}
    assert chat_server.request("/engines/status").json()["llama.cpp"].startswith("Running")


def test_the_cli_talks_to_the_server(chat_server):
    said = chat_server.cli("run", MODEL, "Hello")
    assert said.returncode == 0, said.stderr
    assert said.stdout.strip() == SCRIPT
    assert "tiny-script" in chat_server.cli("list").stdout
    assert "tiny-script" in chat_server.cli("ps").stdout
    assert chat_server.cli("status").returncode == 0
    assert "Server" in chat_server.cli("version").stdout
