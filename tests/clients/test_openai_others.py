"""OpenAI's Python SDK: texts, embeddings and the list of models."""

from __future__ import annotations

import base64
import math
import struct

import openai
import pytest

from support.client_models import (
    CHATTERBOX,
    ENCODER,
    MODELS,
    SPEAKER,
    SPOKEN,
    cancelled,
    wait_for_cancellation,
)
from support.server import DEADLINE


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=DEADLINE) as made:
        yield made


def test_a_text_is_completed(client):
    completion = client.completions.create(model=SPEAKER, prompt="the", temperature=0)
    assert completion.choices[0].text.strip() == SPOKEN
    assert completion.choices[0].finish_reason == "stop"
    assert completion.object == "text_completion"


def test_a_text_is_streamed(client):
    stream = client.completions.create(model=SPEAKER, prompt="the", temperature=0, stream=True)
    chunks = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices).strip() == SPOKEN


def test_several_texts_are_completed_and_counted(client):
    completion = client.completions.create(
        model=SPEAKER, prompt=["the", "of"], temperature=0, max_tokens=4
    )
    assert [choice.index for choice in completion.choices] == [0, 1]
    assert [choice.finish_reason for choice in completion.choices] == ["length", "length"]
    assert completion.usage.completion_tokens == 8


def test_a_text_that_is_left_is_generated_no_further(client, server):
    before = cancelled(server)
    stream = client.completions.create(model=CHATTERBOX, prompt="the", stream=True)
    next(iter(stream))
    stream.close()
    wait_for_cancellation(server, before)


def test_texts_are_embedded(client):
    # Without `encoding_format` the SDK asks for base64 and decodes it.
    answer = client.embeddings.create(model=ENCODER, input=["the", "of the"])
    assert [item.index for item in answer.data] == [0, 1]
    for item in answer.data:
        assert math.isclose(sum(value * value for value in item.embedding), 1, rel_tol=1e-3)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 0


def test_both_encodings_are_the_same_numbers(client):
    floats = client.embeddings.create(model=ENCODER, input="the", encoding_format="float")
    coded = client.embeddings.create(model=ENCODER, input="the", encoding_format="base64")
    raw = base64.b64decode(coded.data[0].embedding)
    decoded = struct.unpack(f"<{len(raw) // 4}f", raw)
    assert decoded == pytest.approx(floats.data[0].embedding, abs=1e-6)


@pytest.mark.parametrize(
    "fields",
    [{"input": []}, {"encoding_format": "base7"}],
    ids=["nothing", "encoding"],
)
def test_a_wrong_embedding_is_a_bad_request(client, fields):
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(**{"model": ENCODER, "input": "the", **fields})
    assert caught.value.message


def test_all_models_are_listed(client):
    models = list(client.models.list())
    assert {model.id.removesuffix(":latest").removeprefix("docker.io/") for model in models} == (
        set(MODELS)
    )
    assert all(model.object == "model" and model.created > 0 for model in models)


@pytest.mark.parametrize("name", [SPEAKER, "tiny-script", f"{SPEAKER}:latest"])
def test_a_model_is_retrieved_by_its_names(client, name):
    assert client.models.retrieve(name).object == "model"
