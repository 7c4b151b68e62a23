"""Ollama's Python SDK: how long models stay loaded and with how much context, and templates."""

from __future__ import annotations

import ollama
import pytest
from langchain_ollama import ChatOllama

from support.client_models import ABSENT, SPEAKER, SPOKEN
from support.server import DEADLINE, wait_until

COLD = {"temperature": 0}


@pytest.fixture(scope="module")
def client(server):
    with ollama.Client(host=server.url, timeout=DEADLINE) as made:
        yield made


def ask(**fields):
    return {"model": SPEAKER, "prompt": "Hello", "options": COLD, **fields}


def loaded(client):
    return {model.model for model in client.ps().models}


def test_a_model_is_loaded_and_unloaded_without_a_prompt(client):
    name = "tiny-script:latest"
    answer = client.generate(model=SPEAKER, keep_alive=-1)
    assert (answer.response, answer.done_reason) == ("", "load")
    assert any(one.endswith(name) for one in loaded(client))
    (shown,) = [model for model in client.ps().models if model.model.endswith(name)]
    assert shown.expires_at.year > 2100
    assert shown.size > 0
    assert shown.context_length == 4096
    answer = client.generate(model=SPEAKER, keep_alive=0)
    assert (answer.response, answer.done_reason) == ("", "unload")
    wait_until(
        lambda: not any(one.endswith(name) for one in loaded(client)), "the model to be unloaded"
    )


def test_a_keep_alive_of_nothing_unloads_after_the_answer(client):
    answer = client.generate(**ask(keep_alive="0s"))
    assert answer.response.strip() == SPOKEN
    wait_until(
        lambda: not any("tiny-script" in one for one in loaded(client)), "the model to be unloaded"
    )


def test_a_larger_context_is_given(client):
    answer = client.generate(**ask(options={"num_ctx": 2048, **COLD}, keep_alive="1m"))
    assert answer.response.strip() == SPOKEN
    (shown,) = [model for model in client.ps().models if "tiny-script" in model.model]
    assert shown.context_length >= 2048


def test_a_template_replaces_the_models(client):
    bare = client.generate(**ask(template="{{ .Prompt }}"))
    assert bare.response.strip() == SPOKEN
    assert bare.prompt_eval_count < client.generate(**ask()).prompt_eval_count


def test_langchain_finds_the_model_in_the_list(server):
    assert ChatOllama(model="tiny-script", base_url=server.url, validate_model_on_init=True)
    with pytest.raises(ValueError, match=ABSENT):
        ChatOllama(model=ABSENT, base_url=server.url, validate_model_on_init=True)
